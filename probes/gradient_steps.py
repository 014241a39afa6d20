"""Gradient steps: what steps on the examples of a context would predict, in closed form.

Examples (x_j, y_j), j = 1..n, and the loss L(W) = sum_j |W x_j - y_j|^2 / (2 n).  One step of rate eta changes W by

    in_context_update   M = (eta / n) sum_j (y_j - W x_j) x_j^T = -eta grad L(W)
    gradient_steps      W after steps of given rates; with gammas the inputs move as well (GD++)
    residual_factors    what is left of W along an eigenvector of X^T X, X the (n, d) inputs, after such steps
    best_step           the rate with the least expected loss on a new input, and that loss
    loss_of_step        that expected loss at any rate, inputs and noise
    best_preconditioner the same for x ~ N(0, Sigma) and a matrix of rates (Ahn et al.)
    nearest_cubic       how near the cubic maps, all that linear attention makes of one token, come to a linear one
    agreement           two predictors side by side: their answers and how they hear the query

Answers are y = W x with W's entries independent, of mean 0 and variance 1; losses are expected squared errors per
output, without the 1/2.  theory/gradient_steps.md derives each.

Source: von Oswald et al. 2022, arXiv:2212.07677, proposition 1, section 3 and appendix A.10; Ahn et al. 2023,
arXiv:2306.00297, theorem 1.  The closed forms of the best step and of the cubic maps are derived here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probes.errors import ProbeInputError


def in_context_update(
    x: Float[Tensor, "*batch example d_in"],
    y: Float[Tensor, "*batch label d_out"],
    weight: Float[Tensor, "*#batch d_out d_in"],
    rate: float,
) -> Float[Tensor, "*batch d_out d_in"]:
    """One gradient step: M = (rate / n) sum_j (y_j - W x_j) x_j^T.

    Raises:
        ProbeInputError: x and y have different numbers of examples, or none.
    """
    _check(x, y)
    return rate / x.shape[-2] * (y - x @ weight.mT).mT @ x


def gradient_steps(
    x: Float[Tensor, "*batch example d_in"],
    y: Float[Tensor, "*batch label d_out"],
    rates: Sequence[float],
    gammas: Sequence[float] = (),
    weight: Float[Tensor, "d_out d_in"] | None = None,
) -> Float[Tensor, "*batch d_out d_in"]:
    """The map that answers after one step per rate, from `weight` (or 0) on.

    With gammas every step also moves all inputs, the query's too, by x <- (I - gamma X^T X) x with the inputs X it
    finds: GD++.  The map takes the query as it was; what is left of y is the residual of the original inputs.

    Raises:
        ProbeInputError: as many gammas as rates, or none; or as `in_context_update`.
    """
    _check(x, y)
    gammas = tuple(gammas) or (0.0,) * len(rates)
    if len(gammas) != len(rates):
        raise ProbeInputError(f"{len(rates)} rates and {len(gammas)} gammas: give one of each per step, or no gammas")
    found = x.new_zeros(y.shape[-1], x.shape[-1]) if weight is None else weight
    found = found.expand(*x.shape[:-2], -1, -1)
    moved = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand(*x.shape[:-2], -1, -1)
    for rate, gamma in zip(rates, gammas, strict=True):
        now = x @ moved.mT
        found = found + rate / x.shape[-2] * (y - x @ found.mT).mT @ now @ moved
        moved = moved - gamma * (now.mT @ now) @ moved
    return found


def residual_factors(
    eigenvalues: Float[Tensor, "*eigenvalue"], rates: Sequence[float], gammas: Sequence[float], n: int
) -> Float[Tensor, "*eigenvalue"]:
    """r with W_true - W_steps = W_true r along each eigenvector of X^T X, for steps that start at 0.

    r <- r (1 - (rate / n) lambda a^2) and a <- a (1 - gamma lambda a^2), from r = a = 1; the expected squared error per
    output is E[x_i^2] sum r^2 over the d eigenvalues, 0 among them.
    """
    left, moved = torch.ones_like(eigenvalues), torch.ones_like(eigenvalues)
    for rate, gamma in zip(rates, gammas, strict=True):
        curvature = eigenvalues * moved.square()
        left = left * (1 - rate / n * curvature)
        moved = moved * (1 - gamma * curvature)
    return left


@dataclass(frozen=True)
class BestStep:
    """The rate with the least expected loss, and that loss (squared error per output)."""

    rate: float
    loss: float


def loss_of_step(rate: float, d: int, n: int, second: float, fourth: float, noise: float = 0.0) -> float:
    """E|W x - M x|^2 per output after one step from 0, for d independent coordinates with these moments.

    s2 (d - 2 rate d s2 + rate^2 T), T = E|x|^4 / n + (n - 1) d s2^2 / n + noise^2 d s2 / n.

    Args:
        second, fourth: E[x_i^2] and E[x_i^4];  noise: standard deviation of what the labels carry beside W x.

    Raises:
        ProbeInputError: moments that no variable has.
    """
    return second * (d - 2 * rate * d * second + rate**2 * _spread(d, n, second, fourth, noise))


def best_step(d: int, n: int, second: float, fourth: float, noise: float = 0.0) -> BestStep:
    """The minimum of `loss_of_step`: rate = d s2 / T, loss = s2 (d - (d s2)^2 / T).

    Raises:
        ProbeInputError: moments that no variable has.
    """
    rate = d * second / _spread(d, n, second, fourth, noise)
    return BestStep(rate, loss_of_step(rate, d, n, second, fourth, noise))


def _spread(d: int, n: int, second: float, fourth: float, noise: float) -> float:
    """T = E tr S^2 with S = X^T X / n, and what noise adds."""
    if not (d >= 1 and n >= 1 and second > 0 and fourth >= second**2):
        raise ProbeInputError(
            f"d={d}, n={n}, second={second:g}, fourth={fourth:g}: sizes must be at least 1, second above 0 and "
            f"fourth at least second^2"
        )
    length4 = d * fourth + d * (d - 1) * second**2
    return length4 / n + (n - 1) / n * d * second**2 + noise**2 * d * second / n


@dataclass(frozen=True)
class BestPreconditioner:
    """Rates per eigenvector of the inputs' covariance, in its order, and the least loss."""

    rates: Float[Tensor, " d"]
    loss: float


def best_preconditioner(variances: Float[Tensor, " d"], n: int) -> BestPreconditioner:
    """The matrix A, diagonal in the eigenbasis, for which (1/n) sum_j y_j x_j^T A answers best; x ~ N(0, Sigma).

    a_i = 1 / ((n + 1) / n lambda_i + sum_k lambda_k / n), loss = sum_i lambda_i (1 - lambda_i a_i).

    Args:
        variances: the eigenvalues lambda of Sigma.

    Raises:
        ProbeInputError: a variance that is not positive, or no example.
    """
    if n < 1 or not (variances > 0).all():
        raise ProbeInputError(f"n={n} must be at least 1 and the variances positive: got {variances.min().item():g}")
    rates = 1 / ((n + 1) / n * variances + variances.sum() / n)
    return BestPreconditioner(rates, (variances * (1 - variances * rates)).sum().item())


@dataclass(frozen=True)
class NearestCubic:
    """c_i(x) = own x_i^3 + others x_i sum_{k != i} x_k^2, and E|W c - W x|^2 / E|W x|^2, the same for every W."""

    own: float
    others: float
    error: float


def nearest_cubic(d: int, second: float, fourth: float, sixth: float) -> NearestCubic:
    """The homogeneous cubic map nearest to x -> W x, for d independent, symmetric coordinates with these moments.

    Raises:
        ProbeInputError: fewer than two coordinates.
    """
    if d < 2:
        raise ProbeInputError(f"d={d} must be at least 2: with one coordinate there are no others")
    rest = (d - 1) * second  # E of the others' sum of squares, and of its square
    rest_square = (d - 1) * fourth + (d - 1) * (d - 2) * second**2
    gram = torch.tensor([[sixth, fourth * rest], [fourth * rest, second * rest_square]], dtype=torch.float64)
    target = torch.tensor([fourth, second * rest], dtype=torch.float64)
    own, others = torch.linalg.lstsq(gram, target).solution.tolist()
    return NearestCubic(own, others, 1 - (own * fourth + others * second * rest) / second)


@dataclass(frozen=True)
class Agreement:
    """Means over the sequences: |answer - other|; the cosine of the two d answer / d query, and their distance."""

    prediction_difference: float
    cosine: float
    sensitivity_difference: float


def agreement(
    answer: Float[Tensor, " batch"],
    other: Float[Tensor, " batch"],
    sensitivity: Float[Tensor, "batch d_in"],
    other_sensitivity: Float[Tensor, "batch d_in"],
) -> Agreement:
    """Two predictors on the same sequences, by the three measures of von Oswald et al., section 3.

    Raises:
        ProbeInputError: a sensitivity that is zero has no direction.
    """
    norms = sensitivity.norm(dim=-1) * other_sensitivity.norm(dim=-1)
    if not (norms > 0).all():
        raise ProbeInputError(
            f"{int((norms <= 0).sum())} of {len(norms)} sensitivities are 0: a predictor that ignores the query has no "
            f"cosine; leave it out"
        )
    return Agreement(
        (answer - other).abs().mean().item(),
        ((sensitivity * other_sensitivity).sum(-1) / norms).mean().item(),
        (sensitivity - other_sensitivity).norm(dim=-1).mean().item(),
    )


def _check(x: Tensor, y: Tensor) -> None:
    if x.shape[:-1] != y.shape[:-1] or not x.shape[-2]:
        raise ProbeInputError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}: all but the last must agree, with an example or more"
        )
