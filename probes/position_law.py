"""Position law: what is each position worth to the last one before anything is learned?

U is causal attention to all keys alike, U_ij = 1 / (i + 1) for j <= i, over n positions counted from 0.  With the
residual path every layer is (1 - a) + a U, where a is the share of what attention adds, and

    position_law         last row of [(1 - a) + a U]^depth                      sums to 1
    random_position_law  the same with values that are random in each layer     root mean square
    limit_density        n * position_law for long texts, at x = i / n
    path_counts          ways from a position to the last one in `depth` steps

each in closed form.  The law falls from the first position on; what looks like a U is one atom on the last token,
(1 - a)^depth, that the residual path keeps.  theory/position_law.md derives all four.

Source: Barbero et al. 2024, arXiv:2406.04267, section 5, proposition 5.2 (a = 1/2, many layers); Chowdhury 2026,
arXiv:2603.10123, and Herasimchyk et al. 2026, arXiv:2602.16837 (finite depth, long texts).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from probes.errors import ProbeInputError


def path_counts(n: int, depth: int) -> Float[Tensor, " pos"]:
    """How many paths of `depth` steps lead from each of n positions to the last one, never back: binomials, float64.

    Raises:
        ProbeInputError: no position, or no layer.
    """
    _check_size(n, depth)
    counts = [math.comb(n - 1 - i + depth - 1, depth - 1) for i in range(n)]
    return torch.tensor(counts, dtype=torch.float64)


def position_law(n: int, depth: int, share: float = 0.5) -> Float[Tensor, " pos"]:
    """What each of n positions is worth to the last one after `depth` layers of uniform causal attention.

    [((1 - share) + share U)^depth] in its last row, float64; sums to 1.  With y <- y + g U y, share = g / (1 + g) and
    the Jacobian is (1 + g)^depth times this; proposition 5.2 has g = 1.

    Raises:
        ProbeInputError: no position, no layer, or a share outside [0, 1].
    """
    weights = _binomial(depth, share)
    return torch.tensor(weights, dtype=torch.float64) @ uniform_powers(n, depth)


def random_position_law(n: int, gains: Sequence[float]) -> Float[Tensor, " pos"]:
    """The same for y <- y + U y W with a random W in each layer, independent, of mean 0, E[W W^T] = gain^2:

    root mean square of frobenius / sqrt(d_model), float64.  Paths through different layers do not add up but their
    squares do: sum over k of e_k(gains^2) [U^k]^2, where e_k sums the products of k different layers.

    Raises:
        ProbeInputError: no position, or no layer.
    """
    weights = [1.0]
    for gain in gains:  # the coefficients of prod_l (1 + gain_l^2 t)
        weights = [a + gain**2 * b for a, b in zip([*weights, 0.0], [0.0, *weights], strict=True)]
    return (torch.tensor(weights, dtype=torch.float64) @ uniform_powers(n, len(gains)).square()).sqrt()


def limit_density(x: Float[Tensor, " point"], depth: int, share: float = 0.5) -> Float[Tensor, " point"]:
    """n * position_law at x = i / n for long texts, 0 < x < 1; the last token keeps (1 - share)^depth besides.

    Raises:
        ProbeInputError: no layer, a share outside [0, 1], or a point outside (0, 1).
    """
    weights = _binomial(depth, share)
    inside = (x > 0) & (x < 1)
    if not inside.all():
        raise ProbeInputError(f"x={x[~inside][0].item():g} must lie in (0, 1): it is a position as a share of the text")
    terms = [w * (-x.log()) ** (k - 1) / math.factorial(k - 1) for k, w in enumerate(weights) if k]
    return torch.stack(terms).sum(0)


def uniform_powers(n: int, depth: int) -> Float[Tensor, "power pos"]:
    """The last row of U^k for k = 0, ..., depth, float64, where U_ij = 1 / (i + 1) for j <= i < n.

    [U^k]_ni = h_{k-1}(1/(i+1), ..., 1/n) / n for positions counted from 0, with h the complete homogeneous symmetric
    polynomials, made of power sums by Newton's identities: all terms are positive, so nothing cancels.

    Raises:
        ProbeInputError: no position, or no layer.
    """
    _check_size(n, depth)
    ranks = torch.arange(1, n + 1, dtype=torch.float64)
    sums = [(ranks**-j).flip(0).cumsum(0).flip(0) for j in range(1, depth)]
    h = [torch.ones(n, dtype=torch.float64)]
    for k in range(1, depth):
        h.append(sum(sums[j] * h[k - 1 - j] for j in range(k)) / k)
    return torch.stack([torch.eye(n, dtype=torch.float64)[-1], *(row / n for row in h)])


def _binomial(depth: int, share: float) -> list[float]:
    _check_size(1, depth)
    if not 0 <= share <= 1:
        raise ProbeInputError(f"share={share} must lie in [0, 1]: it is what attention adds, of the whole")
    return [math.comb(depth, k) * share**k * (1 - share) ** (depth - k) for k in range(depth + 1)]


def _check_size(n: int, depth: int) -> None:
    for name, value in (("n", n), ("depth", depth)):
        if value < 1:
            raise ProbeInputError(f"{name}={value} must be at least 1")
