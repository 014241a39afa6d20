"""Adaptive temperature: softmax of beta * score, with a beta of 1 or more that depends on the row's entropy.

With p = softmax(score) and H = -sum_j p_j ln(p_j + 1e-9) in nats,

    beta = max(1, -0.037 H^4 + 0.481 H^3 - 2.3 H^2 + 4.917 H - 1.791)   if H > 0.5, else 1

It is a fit, made by its authors on rows of one trained model, and has two dead zones: for H <= 0.849 and for
H >= 5.94 nats (a uniform row of about 380 keys) the polynomial is below 1, so beta = 1, and the weights are those
of softmax to the bit.  In between beta is at most 2.42 (at H = 4.41).  The condition H > 0.5 never decides
anything, since the polynomial is below 1 there; it stands here as published.  Meant for a trained model at
inference; gradients pass through beta as well.

Source: Velickovic et al. 2024, arXiv:2410.01104, section on adaptive temperature.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float

from toy_models.attention.reference import softmax
from toy_models.normalisers.hidden import scaled
from toy_models.normalisers.spec import Normaliser

COEFFICIENTS = (-0.037, 0.481, -2.3, 4.917, -1.791)  # of H^4, H^3, H^2, H, 1: the highest power first
LEAST_ENTROPY = 0.5  # nats
INSIDE_LOGARITHM = 1e-9


@dataclass(frozen=True)
class Adaptive(Normaliser):
    """No options: the fit belongs to its coefficients.  Rows sum to 1, or are empty."""

    sums_to_one: ClassVar[bool] = True

    def __call__(
        self,
        scores: Float[torch.Tensor, "batch head query key"],
        visible: Bool[torch.Tensor, "#batch 1 query key"],
    ) -> Float[torch.Tensor, "batch head query key"]:
        """`visible` is not needed: the entropy stands for the number of keys."""
        p = softmax(scores)
        return softmax(scaled(scores, beta(-(p * (p + INSIDE_LOGARITHM).log()).sum(-1, keepdim=True))))


def beta(entropy: Float[torch.Tensor, "*rows"]) -> Float[torch.Tensor, "*rows"]:
    """The factor on the scores (an inverse temperature, 1 to 2.42), for an entropy in nats."""
    fit = torch.zeros_like(entropy)
    for coefficient in COEFFICIENTS:  # Horner's rule
        fit = fit * entropy + coefficient
    return fit.clamp(min=1.0).where(entropy > LEAST_ENTROPY, 1.0)
