"""How far W' lies from W: per matrix, and per head in what does not change with the basis inside a head.

    relative       |Delta|_F / |W|_F
    stable rank    |Delta|_F^2 / |Delta|_2^2               1 to the rank
    participation  (sum s^2)^2 / sum s^4                   1 to the rank, s the singular values of Delta
    QK             |Q' K'^T - Q K^T|_F / |Q K^T|_F         Q = [W_Q; b_Q], K = [W_K; b_K] of a head
    OV             |V' O' - V O|_F / |V O|_F               V = [W_V; b_V], O = W_O

Heads in a matrix stand side by side: W_K is d_model by (head d_head), W_O (head d_head) by d_model.  Biases join as a
row, so that all scores and messages of a head are in QK and OV.  With rotary positions QK is that of distance 0, and
only changes of basis that commute with the rotations leave the model, and it, alone.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.weights import HeadWeights, head_weights

MATRICES = ("W_Q", "W_K", "W_V", "W_O")


def spectrum(change: Float[Tensor, "*shape"], writes: bool = False) -> Float[Tensor, " rank"]:
    """Singular values of a parameter's change, largest first, in float64; a vector's is its length.

    Args:
        writes: heads are (head, d_head, d_model), as in W_O, and not (head, d_model, d_head).
    """
    wide = change.double().cpu()
    if wide.ndim == 3:
        wide = wide.flatten(0, 1) if writes else wide.transpose(0, 1).flatten(1)
    elif wide.ndim != 2:
        wide = wide.flatten()[None]
    return torch.linalg.svdvals(wide) if wide.any() else wide.new_zeros(min(wide.shape))


def stable_rank(spectrum: Float[Tensor, " rank"]) -> Float[Tensor, ""]:
    """|Delta|_F^2 / |Delta|_2^2; NaN for no change at all, which has no rank."""
    return spectrum.square().sum() / spectrum[0].square()


def participation(spectrum: Float[Tensor, " rank"]) -> Float[Tensor, ""]:
    """(sum s^2)^2 / sum s^4; NaN for no change at all."""
    return spectrum.square().sum().square() / spectrum.pow(4).sum()


def gauge_free(before: Any, after: Any) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """Relative changes of QK and of OV, per layer and head, between two models of the same shape."""
    qk, ov = [], []
    for layer in range(before.cfg.n_layers):
        old, new = factors(head_weights(before, layer)), factors(head_weights(after, layer))
        for found, part in ((qk, slice(0, 2)), (ov, slice(2, 4))):
            same = all(torch.equal(x, y) for x, y in zip(old[part], new[part], strict=True))
            found.append(old[0].new_zeros(len(old[0])) if same else _relative(old[part], new[part]))
    return torch.stack(qk), torch.stack(ov)


def factors(heads: HeadWeights) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[W_Q; b_Q], [W_K; b_K], [W_V; b_V] and the transpose of W_O, each (head, row, d_head), in float64."""

    def augmented(weight: Tensor, bias: Tensor | None) -> Tensor:
        wide = weight.double().cpu()
        return wide if bias is None else torch.cat([wide, bias.double().cpu()[:, None]], dim=1)

    q, k, v = (augmented(getattr(heads, f"W_{x}"), getattr(heads, f"b_{x}")) for x in "QKV")
    return q, k, v, heads.W_O.double().cpu().transpose(-1, -2)


def _relative(old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> Float[Tensor, " head"]:
    """|A' B'^T - A B^T| / |A B^T|, from small triangular factors: the products are never written out."""
    left, right = torch.cat([new[0], -old[0]], dim=-1), torch.cat([new[1], old[1]], dim=-1)
    return _size(left, right) / _size(*old)


def _size(left: Float[Tensor, "head row width"], right: Float[Tensor, "head column width"]) -> Float[Tensor, " head"]:
    """|left right^T|_F."""
    a, b = torch.linalg.qr(left).R, torch.linalg.qr(right).R
    return (a @ b.transpose(-1, -2)).square().sum((-1, -2)).sqrt()
