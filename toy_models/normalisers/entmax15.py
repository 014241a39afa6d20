"""Entmax 1.5: p_j = max(0, s_j / 2 - tau)^2, with the tau for which the row sums to 1.

It lies between softmax (alpha = 1) and sparsemax (alpha = 2): keys far enough below the largest weigh exactly 0.
Two keys that differ by d nats get, for d < 2, the squares of sqrt(1/2 - d^2/16) +- d/4, and 1 and 0 from d = 2 on; a
key that is 2 nats or more below the largest never has any weight.

Source: Peters, Niculae and Martins 2019, arXiv:1905.05702, section 3: the exact algorithm, which sorts.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float

from toy_models.normalisers.spec import Normaliser


@dataclass(frozen=True)
class Entmax15(Normaliser):
    """No options.  Rows sum to 1, or are empty."""

    sums_to_one: ClassVar[bool] = True

    def __call__(
        self,
        scores: Float[torch.Tensor, "batch head query key"],
        visible: Bool[torch.Tensor, "#batch 1 query key"],
    ) -> Float[torch.Tensor, "batch head query key"]:
        """`visible` is not needed: a hidden key's score of -inf is far below the largest."""
        dead = torch.isneginf(scores).all(-1, keepdim=True)
        scores = scores.masked_fill(dead, 0.0)
        # Weights ignore a constant.  With the largest at 0, tau is at least -1, so nothing below -1 can weigh.
        halves = ((scores - scores.detach().amax(-1, keepdim=True)) / 2).clamp(min=-1.0)
        # The variance of a long row cancels: in float32 a row of 20,000 keys could miss a sum of 1 by 1e-3.
        above = (halves - _threshold(halves.detach().double()).to(halves)).clamp(min=0.0)
        # One Newton step on sum_j above_j^2 = 1: tau moves by a rounding error, and has its exact gradient.
        tau_moves = (above.square().sum(-1, keepdim=True) - 1) / (2 * above.sum(-1, keepdim=True))
        return (above - tau_moves).clamp(min=0.0).square().where(above > 0, 0.0).masked_fill(dead, 0.0)


def _threshold(x: Float[torch.Tensor, "*rows key"]) -> Float[torch.Tensor, "*rows 1"]:
    """The tau with sum_j max(0, x_j - tau)^2 = 1.

    If the k largest alone have weight, tau is the smaller root of a quadratic in their mean and variance; the
    right k is the largest one whose smallest member still reaches its tau.
    """
    ordered = x.sort(-1, descending=True).values
    k = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=x.dtype)
    mean, mean_square = ordered.cumsum(-1) / k, ordered.square().cumsum(-1) / k
    tau = mean - (1 / k - (mean_square - mean.square())).clamp(min=0.0).sqrt()
    last = (tau <= ordered).sum(-1, keepdim=True) - 1
    return tau.gather(-1, last).clamp(min=-1.0)  # so that the keys that stand at -1 weigh exactly 0
