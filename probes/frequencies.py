"""Frequencies: which rotary frequencies do a head's queries and keys use?

Rotary positions turn coordinate pair c of q and k, so the score is a sum over pairs, and pair c adds at most
|q^(c)| |k^(c)| to it (Cauchy-Schwarz; nats, once divided by the model's scale).  For every head, means over texts and
positions:

    query, key    mean of |q^(c)|, of |k^(c)|                          norm             0 or more
    share         product of the two means over its sum over pairs     share of pairs   0 to 1, sums to 1

A rotation changes no norm, so it does not matter on which side of it they are read.  Pair 0 turns fastest.

Source: Barbero et al. 2024, arXiv:2410.06205, section 4 (usage of frequencies by norms of 2-D chunks).
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.errors import ProbeInputError
from probes.model import HookedModel, cached


@dataclass(frozen=True)
class Frequencies:
    """Mean norms and their shares, for every query head; grouped keys are repeated.  `share` is NaN where all are 0."""

    query: Float[Tensor, "layer head pair"] = field(metadata={"unit": "norm"})
    key: Float[Tensor, "layer head pair"] = field(metadata={"unit": "norm"})
    share: Float[Tensor, "layer head pair"]


def frequencies(model: HookedModel, tokens: Int[Tensor, "batch pos"], d_rotary: int | None = None) -> Frequencies:
    """Score every head of a model with rotary positions on these tokens, in one forward pass.

    Args:
        d_rotary: how many coordinates of d_head are turned; all of them by default.

    Raises:
        ProbeInputError: a model without rotary hooks, a width that is odd or beyond d_head, or other tokens.
    """
    layers = range(model.cfg.n_layers)
    _, cache = cached(model, tokens, [f(layer) for layer in layers for f in (_rot_q, _rot_k)])
    query, key = [], []
    for layer in layers:
        q, k = cache[_rot_q(layer)], cache[_rot_k(layer)]
        query.append(pair_norms(q, d_rotary).mean((0, 1)))
        key.append(pair_norms(k, d_rotary).mean((0, 1)).repeat_interleave(q.shape[2] // k.shape[2], 0))
    query, key = torch.stack(query), torch.stack(key)
    return Frequencies(query, key, query * key / (query * key).sum(-1, keepdim=True))


def pair_norms(
    x: Float[Tensor, "batch pos head d_head"], d_rotary: int | None = None
) -> Float[Tensor, "batch pos head pair"]:
    """Norm of every pair (c, c + d_rotary / 2), in float32 or better.

    Raises:
        ProbeInputError: a width that is odd, not positive, or beyond d_head.
    """
    d_head = x.shape[-1]
    width = d_head if d_rotary is None else d_rotary
    if width % 2 or not 0 < width <= d_head:
        raise ProbeInputError(f"d_rotary={width} must be even and lie in [2, d_head={d_head}]: pairs are turned")
    wide = x[..., :width].to(torch.promote_types(x.dtype, torch.float32))
    return wide.unflatten(-1, (2, width // 2)).norm(dim=-2)


def _rot_q(layer: int) -> str:
    """Queries after rotation, (batch, pos, head, d_head)."""
    return f"blocks.{layer}.attn.hook_rot_q"


def _rot_k(layer: int) -> str:
    """Keys after rotation, (batch, pos, key-value head, d_head)."""
    return f"blocks.{layer}.attn.hook_rot_k"
