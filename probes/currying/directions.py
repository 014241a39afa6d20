"""`directions`: does W' lie where a gradient points, in weights, in outputs, and in what heads read and write?

With d = W' - W, a gradient g and a short step -g,

    cosine        d . (-g) / |d| |g|                 whole, and per parameter; by chance about 1 / sqrt(parameters)
    logit cosine  of the changes of the centred logits at the query's rows: by the step, by W', by the context
    principal     cosines between the leading `rank` directions of d and of -g in QK and OV, on both sides
    within        best share of the divergence within an angle of -g: `cone`

A step's change of outputs and products is that to first order, a central difference at 2^-10 of |W|.

Lengths and angles of weights turn with the basis inside a head, and so does the steepest direction.  The directions of
d's QK = [W_Q; b_Q] [W_K; b_K]^T and OV = [W_V; b_V] W_O do not: side 0 is the query's, or what is read, side 1 the
key's, or what is written; the bias is one more row.  Two random directions of r in n have mean squared cosine r / n.

Source: ours; that W' is a set, and one cosine no test, is argued in theory/currying.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.comparable import require_comparable
from probes.currying.cone import best_within
from probes.currying.curried import Curried, require_same_space, updated
from probes.currying.distances import factors
from probes.currying.oracle import Oracle
from probes.errors import ProbeInputError
from probes.locality import Path, require_same_reading, steps_against, walk
from probes.weights import head_weights

SHORT = 2.0**-10  # of |W|: a step short enough for first order, long enough for float32
ANGLES = (0.0, 30.0, 60.0, 75.0, 85.0, 90.0)
NOISE = 100  # times the rounding: a change with smaller singular values has no direction there


@dataclass(frozen=True)
class Directions:
    """A curried model beside a gradient.

    `parameters` are the gradient's; a cosine is NaN where W' changes nothing, a principal one where d or -g has fewer
    than `rank` directions.
    """

    cosine: Float[Tensor, ""]
    chance: float
    parameters: tuple[str, ...]
    parameter_cosine: Float[Tensor, " parameter"]
    step_and_curried: Float[Tensor, ""]
    step_and_context: Float[Tensor, ""]
    curried_and_context: Float[Tensor, ""]
    qk: Float[Tensor, "layer head side rank"]
    ov: Float[Tensor, "layer head side rank"]
    angle: Float[Tensor, " angle"] = field(metadata={"unit": "degrees"})
    within: Path


def directions(
    curried: Curried,
    oracle: Oracle,
    queries: Int[Tensor, "batch query"],
    gradient: dict[str, Tensor],
    *,
    rank: int = 1,
    angles: Sequence[float] = ANGLES,
    steps: int = 20,
) -> Directions:
    """Compare an update with a gradient.

    Args:
        queries: held out; the search within angles uses those that `curried` was fitted on.
        gradient: of a loss, by parameter name, of every parameter that W' changes and maybe more; such as the first
            that `gradients.descent` returns.
        rank: how many leading directions of QK and OV to compare.
        angles: in degrees, rising, 0 to 90.
        steps: of the search per angle; each costs 3 forward passes.

    Raises:
        ProbeInputError: a model that is more than W' or was fitted on nothing, a gradient that lacks a changed
            parameter, is zero or not finite, and what `compare` and `cone` refuse.
    """
    _refuse(curried, oracle, queries, gradient)
    step = steps_against(gradient, oracle.model, [SHORT])[0]
    forth, back = (updated(oracle.model, {name: sign * one for name, one in step.items()}) for sign in (1, -1))
    moved = {
        "step": _centred(oracle, forth, queries) - _centred(oracle, back, queries),
        "curried": _centred(oracle, curried.model, queries) - _centred(oracle, oracle.model, queries),
        "context": _rows(oracle.logits(queries)) - _centred(oracle, oracle.model, queries),
    }
    whole, by_parameter = _cosines(curried.weight_update, gradient)
    qk, ov = _principal((oracle.model, curried.model), (back, forth), rank)
    best = best_within(oracle, curried.fit_queries, curried.weight_update, gradient, angles, steps)
    return Directions(
        cosine=whole,
        chance=sum(one.numel() for one in gradient.values()) ** -0.5,
        parameters=tuple(gradient),
        parameter_cosine=by_parameter,
        step_and_curried=_cosine(moved["step"], moved["curried"]),
        step_and_context=_cosine(moved["step"], moved["context"]),
        curried_and_context=_cosine(moved["curried"], moved["context"]),
        qk=qk,
        ov=ov,
        angle=torch.tensor(angles, dtype=torch.float64),
        within=walk(oracle, queries, best),
    )


def _refuse(curried: Curried, oracle: Oracle, queries: Tensor, gradient: dict[str, Tensor]) -> None:
    require_same_space(curried, "directions")
    require_comparable(curried, oracle, queries)
    require_same_reading(curried, oracle)
    if curried.fit_queries is None:
        raise ProbeInputError(f"{curried.provenance.method} was fitted on no queries: curry by a method that is")
    lacking = [name for name in curried.weight_update if name not in gradient]
    if lacking:
        raise ProbeInputError(f"the gradient lacks {lacking[0]}, which W' changes: give that of every such parameter")


# Weights and outputs ------------------------------------------------------------------------------


def _cosines(update: dict[str, Tensor], gradient: dict[str, Tensor]) -> tuple[Tensor, Float[Tensor, " parameter"]]:
    pairs = [(update.get(name, torch.zeros_like(g)).double().cpu(), -g.double().cpu()) for name, g in gradient.items()]
    whole = [torch.cat([pair[side].flatten() for pair in pairs]) for side in (0, 1)]
    return _cosine(*whole), torch.stack([_cosine(*pair) for pair in pairs])


def _cosine(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """NaN where one of the two is zero: it has no direction."""
    return (a * b).sum() / (a.norm() * b.norm())


@torch.no_grad()
def _centred(oracle: Oracle, model: Any, queries: Tensor) -> Float[Tensor, "batch query d_vocab"]:
    return _rows(oracle.bare.read(model, queries)[0])


def _rows(logits: Float[Tensor, "batch query d_vocab"]) -> Float[Tensor, "batch query d_vocab"]:
    """Less their mean, which a softmax does not see."""
    wide = logits.double().cpu()
    return wide - wide.mean(-1, keepdim=True)


# What heads read and write ------------------------------------------------------------------------


def _principal(
    curried: tuple[Any, Any], step: tuple[Any, Any], rank: int
) -> tuple[Float[Tensor, "layer head side rank"], Float[Tensor, "layer head side rank"]]:
    """Cosines between the leading directions of two changes, each between a pair of models; of QK and of OV."""
    qk, ov = [], []
    for layer in range(curried[0].cfg.n_layers):
        pairs = [[factors(head_weights(model, layer)) for model in pair] for pair in (curried, step)]
        for kept, part in ((qk, slice(0, 2)), (ov, slice(2, 4))):
            one, two = (_leading(before[part], after[part], rank) for before, after in pairs)
            kept.append(torch.stack([_between(a, b) for a, b in zip(one, two, strict=True)], dim=1))
    return torch.stack(qk), torch.stack(ov)


def _leading(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], rank: int) -> tuple[Tensor, Tensor]:
    """The leading left and right singular vectors of A' B'^T - A B^T, (head, row, rank); NaN where there is none."""
    left, right = torch.cat([after[0], -before[0]], dim=-1), torch.cat([after[1], before[1]], dim=-1)
    if not 1 <= rank <= min(left.shape[1:] + right.shape[1:]):
        most = min(left.shape[1:] + right.shape[1:])
        raise ProbeInputError(f"rank={rank} must lie in [1, {most}]: a head's products have no more directions")
    (q, r), (p, s) = torch.linalg.qr(left), torch.linalg.qr(right)
    u, size, vh = torch.linalg.svd(r @ s.transpose(-1, -2))
    rounding = left.norm(dim=(1, 2)) * right.norm(dim=(1, 2)) * torch.finfo(left.dtype).eps
    floor = NOISE * torch.maximum(rounding, torch.finfo(torch.float32).eps * size[:, 0])
    lost = (size[:, :rank] <= floor[:, None])[:, None]
    return tuple(
        (basis @ vectors[..., :rank]).masked_fill(lost, torch.nan)
        for basis, vectors in ((q, u), (p, vh.transpose(-1, -2)))
    )


def _between(a: Float[Tensor, "head row rank"], b: Float[Tensor, "head row rank"]) -> Float[Tensor, "head rank"]:
    """Cosines of the principal angles, largest first; NaN for a head that lacks a direction."""
    inner = a.transpose(1, 2) @ b
    known = inner.isfinite().all(-1).all(-1)
    found = torch.full(inner.shape[:2], torch.nan, dtype=inner.dtype)
    found[known] = torch.linalg.svdvals(inner[known])
    return found
