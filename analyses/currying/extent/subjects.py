"""Whose contexts are measured: those of the mixture's sources, the word alone, and chains of the pools."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from analyses.currying.nets.asking import fit_and_held, own_queries, without
from analyses.currying.nets.contexts import Case, mixed, pooled
from analyses.currying.nets.trained import Mixture, Pools
from toy_models.errors import ConfigError
from toy_models.seeding import generator
from toy_models.tasks.in_deployment import SWITCHED

ALONE = "the word alone"
SOURCES = ("chain 0", "fair die", "biased die", "copy 2", "copy 4", "copy 8", SWITCHED)


@dataclass(frozen=True)
class Queries:
    """The model's own samples behind the context.  Args: fit, held_out: how many are drawn;  length: tokens of each."""

    fit: int = 128
    held_out: int = 64
    length: int = 12

    def __post_init__(self):
        if min(self.fit, self.held_out, self.length) < 1:
            raise ConfigError(
                f"queries: fit={self.fit}, held_out={self.held_out} and length={self.length} must be 1 or more"
            )


@dataclass(frozen=True, eq=False)
class Subject:
    """One context of one model.  Args: index: which context of its source;  untrained: the model before training;
    d_symbols: queries have no token from it on; None lets all in."""

    case: Case
    index: int
    model: Any = field(repr=False)
    untrained: Any = field(repr=False)
    d_symbols: int | None

    @property
    def source(self) -> str:
        """Its name in tables."""
        return self.case.name

    def asked(self, sizes: Queries, seed: int) -> tuple[Int[Tensor, "fit query"], Int[Tensor, "held query"]]:
        """Queries to fit on and to be held against, samples of the model behind the context.

        Raises:
            WorkbenchError: none is left to be held against.
        """
        draw = generator(seed, "queries", self.source, self.index)
        wanted = (sizes.fit, sizes.held_out)
        return fit_and_held(self.model, self.case.context, wanted, sizes.length, draw, self.d_symbols)

    def behind(self, model: Any, context: Tensor, sizes: Queries, seed: int, *words: str) -> Int[Tensor, "fit query"]:
        """Queries to fit on, samples of a model behind any context."""
        draw = generator(seed, *words, self.source, self.index)
        return own_queries(model, context, sizes.fit, sizes.length, draw, self.d_symbols)


def kept_apart(held: Tensor, *fitted: Tensor) -> Int[Tensor, "held query"]:
    """The held-out queries that no other fit has seen either.

    Raises:
        WorkbenchError: none is left.
    """
    return without(held, *fitted)


def of_mixture(net: Mixture, sources: tuple[str, ...], length: int, contexts: int, seed: int) -> Iterator[Subject]:
    """Contexts of every source; the word alone has one, whose sibling is a text with the word in it."""
    run, task = net.trained(seed), net.task_of(seed)
    model, born = run.model, run.at(0)
    for source in sources:
        for index in range(1 if source == ALONE else contexts):
            case = alone(task, length, seed) if source == ALONE else mixed(task, source, length, seed, index)
            yield Subject(case, index, model, born, task.switch)


def of_pools(pools: Pools, sizes: tuple[int, ...], length: int, contexts: int, seed: int) -> Iterator[Subject]:
    """Contexts of every pool."""
    for size in sizes:
        run, task = pools.trained(size, seed), pools.task_of(size, seed)
        model, born = run.model, run.at(0)
        for index in range(contexts):
            yield Subject(pooled(task, length, seed, index), index, model, born, None)


def alone(task: Any, length: int, seed: int) -> Case:
    """The word, and nothing else."""
    amid = mixed(task, SWITCHED, length, seed)
    return Case(ALONE, torch.tensor([task.switch]), amid.context, amid.wrong, task.predict)


def check_sources(sources: tuple[str, ...], known: tuple[str, ...], contexts: int) -> None:
    """Refuse what makes no study.

    Raises:
        ConfigError: with the value and the remedy.
    """
    odd = sorted(set(sources) - set(known))
    if odd or not sources:
        raise ConfigError(f"sources={sources} must be some of {', '.join(known)}")
    if contexts < 1:
        raise ConfigError(f"contexts={contexts} must be 1 or more")


def check_room(name: str, length: int, query: int, n_ctx: int) -> None:
    """Refuse a context that leaves no room for its queries.

    Raises:
        ConfigError: with the value and the remedy.
    """
    if length < 1 or 1 + length + query > n_ctx:
        raise ConfigError(
            f"{name}={length} must lie between 1 and {n_ctx - 1 - query}: BOS, the context and queries.length={query} "
            f"share n_ctx={n_ctx}"
        )
