"""Who may look at whom."""

import torch
from jaxtyping import Bool, Int


def visible_keys(
    n_query: int,
    n_key: int,
    *,
    causal: bool = True,
    window: int | None = None,
    key_padding: Bool[torch.Tensor, "batch key"] | None = None,
    device: torch.device | str | None = None,
) -> Bool[torch.Tensor, "#batch 1 query key"]:
    """True where the query may look at the key.

    The queries are the last `n_query` positions.  Causal: `0 <= distance < window`; otherwise
    `|distance| < window`.  The leading 1 broadcasts over heads.
    """
    query = torch.arange(n_key - n_query, n_key, device=device)[:, None]
    distance = query - torch.arange(n_key, device=device)[None, :]
    visible = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    if window is not None:
        visible = visible & (distance.abs() < window)
    visible = visible[None, None]
    return visible if key_padding is None else visible & key_padding[:, None, None, :]


def count_visible(
    n_query: int,
    n_key: int,
    *,
    causal: bool = True,
    window: int | None = None,
    key_padding: Bool[torch.Tensor, "batch key"] | None = None,
    device: torch.device | str | None = None,
) -> Int[torch.Tensor, "#batch query"]:
    """How many keys each query may look at: the row sums of `visible_keys`, which is never made."""
    at = torch.arange(n_key - n_query, n_key, device=device)
    first = torch.zeros_like(at) if window is None else (at - window + 1).clamp(min=0)
    ahead = 1 if causal else n_key if window is None else window
    behind = (at + ahead).clamp(max=n_key)  # the first key that is out of reach
    if key_padding is None:
        return (behind - first)[None]
    real = torch.nn.functional.pad(key_padding.to(at.device).cumsum(-1), (1, 0))
    return real[:, behind] - real[:, first]
