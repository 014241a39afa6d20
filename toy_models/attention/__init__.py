"""Attention backends behind one call.  Imports torch and jaxtyping only: a bare GPU machine will do.

Conventions.  q is `(batch, query, head, d_head)`, k and v are `(batch, key, kv_head, d_head)`; query
heads share a key-value head in consecutive groups (grouped-query attention).  With `n_key > n_query`
the queries are the last ones: query i sits at key position `i + n_key - n_query`.  `key_padding` is
True where the key is real.  A query that may look at no key gets `z = 0`.
"""

import pkgutil
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float

# One line per backend, loaded when asked for.
NAMES = {
    "reference": "toy_models.attention.reference:attend",
    "sdpa": "toy_models.attention.sdpa:attend",
}
FUSED = frozenset({"sdpa"})  # these never hold the pattern


class Attention(NamedTuple):
    """What attention returned, and which backend computed it."""

    z: Float[torch.Tensor, "batch query head d_head"]
    backend: str


def check_backend(name: str) -> None:
    """Raise ValueError, listing the known ones, unless `name` is a backend or "auto"."""
    if name != "auto" and name not in NAMES:
        raise ValueError(f"unknown attention backend {name!r}: choose one of auto, {', '.join(NAMES)}")


def attend(
    q: Float[torch.Tensor, "batch query head d_head"],
    k: Float[torch.Tensor, "batch key kv_head d_head"],
    v: Float[torch.Tensor, "batch key kv_head d_head"],
    *,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    key_padding: Bool[torch.Tensor, "batch key"] | None = None,
    bias: Float[torch.Tensor, "head query key"] | None = None,
    backend: str = "auto",
) -> Attention:
    """z_i = sum_j softmax_j(scale * q_i . k_j + bias_ij) v_j over the visible keys j.

    Args:
        causal: query i looks at keys up to its own position.
        window: and no further than `window - 1` positions away.
        scale: factor on the scores; `d_head ** -0.5` unless given.
        key_padding: True where the key is real.
        bias: added to the scaled scores, in nats; with 16-bit inputs give it in float32.
        backend: a name in NAMES, or "auto" (the fastest that serves; today sdpa everywhere).

    Raises:
        ValueError: an unknown backend, or shapes that do not fit.
    """
    check_backend(backend)
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"{q.shape[2]} query heads cannot share {k.shape[2]} key-value heads evenly")
    if causal and q.shape[1] > k.shape[1]:
        raise ValueError(f"causal attention needs at least as many keys as queries: {k.shape[1]} < {q.shape[1]}")
    name = "sdpa" if backend == "auto" else backend
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    run = pkgutil.resolve_name(NAMES[name])
    return Attention(run(q, k, v, causal=causal, window=window, scale=scale, key_padding=key_padding, bias=bias), name)
