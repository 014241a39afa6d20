"""How alike two weight updates are: by their cosine, and by that of what they do to each head's QK and OV.

    cosine      <d1, d2> / |d1| |d2|            over W_Q, W_K, W_V, W_O of every layer
    gauge-free  the same for the changes of [W_Q; b_Q] [W_K; b_K]^T and [W_V; b_V] W_O of every head, each change over
                the size of the product itself, so that every head counts

The second does not turn with the basis inside a head (with rotary positions: QK at distance 0).  NaN where an update
is zero.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.currying.curried import Curried
from probes.currying.distances import factors
from probes.weights import head_weights


def cosines(
    base: Any, ways: Mapping[str, Curried], pairs: Sequence[tuple[str, str]]
) -> Float[np.ndarray, "pair measure"]:
    """Cosine and gauge-free cosine of every pair of ways, by name."""
    named = {name for pair in pairs for name in pair}
    names = sorted({name for way in named for name in ways[way].weight_update})
    plain = {way: _flat(ways[way].weight_update, names, base) for way in named}
    before = _products(base)
    free = {way: _relative(before, _products(ways[way].model)) for way in named}
    return np.array([[_cosine(of[one], of[other]) for of in (plain, free)] for one, other in pairs])


def _flat(update: dict[str, Tensor], names: Sequence[str], base: Any) -> Float[Tensor, " parameter"]:
    nothing = {name: torch.zeros_like(base.get_parameter(name)) for name in names}
    return torch.cat([{**nothing, **update}[name].detach().double().flatten() for name in names])


def _products(model: Any) -> list[Float[Tensor, "head row column"]]:
    """QK and OV of every layer."""
    found = []
    for layer in range(model.cfg.n_layers):
        q, k, v, o = factors(head_weights(model, layer))
        found += [q @ k.mT, v @ o.mT]
    return found


def _relative(before: list[Tensor], after: list[Tensor]) -> Float[Tensor, " entry"]:
    return torch.cat([
        ((new - old) / old.norm(dim=(1, 2), keepdim=True)).detach().flatten()
        for old, new in zip(before, after, strict=True)
    ])  # fmt: skip


def _cosine(a: Float[Tensor, " entry"], b: Float[Tensor, " entry"]) -> float:
    return (a @ b / (a.norm() * b.norm())).item()
