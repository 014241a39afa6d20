"""Contexts whose number of facts is known, each with the model that reads it."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from analyses.currying.nets.contexts import Case, mixed, pooled
from analyses.currying.nets.trained import Mixture, Pools
from toy_models.seeding import generator

COPY, POOL, FRESH = "copy ", "K=", "fresh"
MIXED, POOLED = (24, 8), (32, 12)  # tokens of contexts and queries: three turns of a word of eight, and one more


@dataclass(frozen=True)
class Subject:
    """Args: length: of queries;  d_symbols: tokens from here on are no part of a query."""

    case: Case
    model: Any
    length: int
    d_symbols: int


def subject(net: Mixture, pools: Pools, source: str, seed: int, index: int, device: str = "cpu") -> Subject:
    """The `index`-th context of a source: of the mixture, or a pool's, "K=4", or a "fresh" chain."""
    if in_pools(source):
        n_chains = 0 if source == FRESH else int(source.removeprefix(POOL))
        task = pools.task_of(n_chains, seed)
        model = pools.trained(n_chains, seed).model.to(device)
        return Subject(pooled(task, POOLED[0], seed, index), model, POOLED[1], task.d_vocab)
    task = net.task_of(seed)
    case = mixed(task, source, MIXED[0], seed, index)
    if source.startswith(COPY):
        period = int(source.removeprefix(COPY))
        draw = generator(seed, "distinct letters", source, index)
        own, other = (word(period, task.n_symbols, MIXED[0], draw) for _ in range(2))
        case = Case(source, own, other, case.wrong, task.predict)
    return Subject(case, net.trained(seed).model.to(device), MIXED[1], task.switch)


def in_pools(source: str) -> bool:
    """Whether a source is a chain of a pool, or a fresh one."""
    return source == FRESH or (source.startswith(POOL) and source.removeprefix(POOL).isdecimal() and source != "K=0")


def word(period: int, n_symbols: int, length: int, draw: torch.Generator) -> Int[Tensor, " length"]:
    """A word of `period` different symbols again and again, without a mistake."""
    letters = torch.randperm(n_symbols, generator=draw)[:period] + 1
    return letters[torch.arange(length) % period]


def facts(context: Int[Tensor, " context"]) -> int:
    """Distinct tokens that something follows: what can be known of what comes next, token by token."""
    return len(set(context[:-1].tolist()))
