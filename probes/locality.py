"""Locality: how far must the weights go for a context, and how far does a gradient step get?

Along a path of weight updates dW, each with the query alone before it,

    distance   |dW|_F / |W|_F          W all W_Q, W_K, W_V, W_O, whatever dW changes; 0 and up
    share      1 - KL(dW) / KL(0)      of the divergence from the oracle; 1 (all removed) down, below 0 if worse
    smallest   the least distance on the path whose share is at least 0.9; None where none is
    reached    the best share of a step against the gradient at any distance tried, 0 for none of them

Paths are what one has: straight from W to one W', or solutions of a fit whose penalty on |dW| grows.  `smallest` is an
upper bound of the least distance there is, and a claim about the path.  A context is *local* if it is near, and if a
gradient step reaches it; that is not query dependence, which asks what one W' must hold at once.

Source: ours; theory/locality.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.comparable import SMALLEST_BASELINE, require_comparable
from probes.currying.curried import Curried, require_same_space
from probes.currying.distances import MATRICES
from probes.currying.oracle import Oracle
from probes.currying.solving import kl
from probes.errors import ProbeInputError

WANTED = 0.9  # of the divergence
ALPHAS = tuple(0.1 * step for step in range(1, 16))  # from W towards W' and beyond
DISTANCES = tuple(2.0**-power for power in range(12, -1, -1))  # of a gradient step, over |W|
CHUNK = 2**24  # logits held at once


@dataclass(frozen=True)
class Path:
    """Points in the order in which they were given."""

    distance: Float[Tensor, " point"] = field(metadata={"unit": "1"})
    share: Float[Tensor, " point"] = field(metadata={"unit": "share"})

    def smallest(self, wanted: float = WANTED) -> float | None:
        """The least distance of a point that removes this share; None if no point does."""
        near = self.distance[self.share >= wanted]
        return near.min().item() if len(near) else None

    @property
    def best(self) -> float:
        """The largest share on the path, W itself included: never below 0."""
        return max(self.share.max().item(), 0.0)


@dataclass(frozen=True)
class Locality:
    """A context's distance: along W', and along the gradient where one was given."""

    path: Path
    smallest: float | None = field(metadata={"unit": "1"})
    gradient: Path | None
    reached: float | None = field(metadata={"unit": "share"})


def locality(
    curried: Curried | Sequence[Curried],
    oracle: Oracle,
    queries: Int[Tensor, "batch query"],
    gradient: dict[str, Tensor] | None = None,
    *,
    wanted: float = WANTED,
) -> Locality:
    """Measure how far a context lies.

    Args:
        curried: one model, whose straight way W + alpha dW is walked from alpha = 0.1 to 1.5; or several, such as fits
            with more and more of a penalty.
        queries: that no fit has seen.
        gradient: of a loss, by parameter name, such as the first that `gradients.descent` returns; steps go against
            it, at distances from 1/4096 to 1.

    Raises:
        ProbeInputError: no model, one that is more than its weights, queries that a fit has seen, an oracle of other
            weights or positions, a context that hardly changes the output, or a gradient that is zero or not finite.
    """
    family = [curried] if isinstance(curried, Curried) else list(curried)
    if not family:
        raise ProbeInputError("0 curried models make no path: give one, or several")
    for one in family:
        require_same_space(one, "locality")
        require_comparable(one, oracle, queries)
        require_same_reading(one, oracle)
    updates = [one.weight_update for one in family]
    if len(family) == 1:
        updates = [{name: alpha * change for name, change in updates[0].items()} for alpha in ALPHAS]
    path = walk(oracle, queries, updates)
    along = None if gradient is None else walk(oracle, queries, steps_against(gradient, oracle.model))
    return Locality(path, path.smallest(wanted), along, along and along.best)


def require_same_reading(curried: Curried, oracle: Oracle) -> None:
    """Refuse a curried model that is not read where the oracle would read one.

    Raises:
        ProbeInputError: with both readers.
    """
    if curried.reader != oracle.bare:
        raise ProbeInputError(
            f"the curried model is read at {curried.reader}, and beside this oracle it would be at {oracle.bare}: give "
            f"both the same positions and bos_id"
        )


def steps_against(
    gradient: dict[str, Tensor], model: Any, distances: Sequence[float] = DISTANCES
) -> list[dict[str, Tensor]]:
    """Updates against a gradient, of these lengths over |W|.

    Raises:
        ProbeInputError: a gradient that is zero or not finite.
    """
    length = norm(gradient)
    if not 0 < length < float("inf"):
        raise ProbeInputError(f"the gradient's norm is {length:g}: give one that points somewhere")
    unit = size(model) / length
    return [{name: -distance * unit * one for name, one in gradient.items()} for distance in distances]


@torch.no_grad()
def walk(oracle: Oracle, queries: Int[Tensor, "batch query"], updates: Sequence[dict[str, Tensor]]) -> Path:
    """Distance and share of each update, read with the query alone.

    Raises:
        ProbeInputError: a context that hardly changes the output: there is no share of nothing.
    """
    left = torch.zeros(1 + len(updates), dtype=torch.float64)
    rows = max(1, CHUNK // (queries.shape[1] * oracle.model.cfg.d_vocab))
    for some in queries.split(rows):
        target = oracle.logits(some)
        for point, model in enumerate(_models(oracle, [{}, *updates])):
            left[point] += kl(target, oracle.bare.read(model, some)[0]).sum().cpu() / queries.numel()
    if not left[0] >= SMALLEST_BASELINE:
        raise ProbeInputError(
            f"the context changes the output by {left[0].item():.2g} nats, below {SMALLEST_BASELINE:g}: there is "
            f"nothing to remove; take a context that says something"
        )
    scale = size(oracle.model)
    distance = torch.tensor([norm(update) / scale for update in updates], dtype=torch.float64)
    return Path(distance, 1 - left[1:] / left[0])


def norm(update: dict[str, Tensor]) -> float:
    """|dW|_F over all parameters."""
    return sum(change.double().square().sum().item() for change in update.values()) ** 0.5


def size(model: Any) -> float:
    """|W|_F over W_Q, W_K, W_V, W_O of every layer: what distances are measured in."""
    layers = range(model.cfg.n_layers)
    return norm({f"{layer}.{x}": model.get_parameter(f"blocks.{layer}.attn.{x}") for layer in layers for x in MATRICES})


def _models(oracle: Oracle, updates: Sequence[dict[str, Tensor]]) -> Iterator[Any]:
    """One copy of the model that is at each update in turn."""
    model = oracle.copy_of_model()
    for update in updates:
        for name, change in update.items():
            model.get_parameter(name).add_(change)
        yield model
        for name in update:
            model.get_parameter(name).copy_(oracle.model.get_parameter(name))
