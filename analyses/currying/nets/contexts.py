"""One context of a trained model, and what it is held against."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from toy_models.seeding import generator
from toy_models.tasks.chain_pool import ChainPool
from toy_models.tasks.in_deployment import SWITCHED, InDeployment


@dataclass(frozen=True)
class Case:
    """One context, without BOS, and what it is held against.

    Args:
        sibling: another context of the same source; of a prompt, its own tokens in another order, unless one is given.
        wrong: a context of another source; of a prompt, uniform tokens.
        exact: from whole texts, BOS first, to the log probabilities that Bayes's rule gives; None where nobody knows.
    """

    name: str
    context: Int[Tensor, " context"]
    sibling: Int[Tensor, " sibling"]
    wrong: Int[Tensor, " wrong"]
    exact: Callable[[Tensor], Tensor] | None = None


def mixed(task: InDeployment, source: str, length: int, seed: int, index: int = 0) -> Case:
    """The `index`-th context of a source of the mixture; the wrong one is of the next kind: a chain's is a die's.

    Raises:
        InputError: there is no such source.
    """
    kinds = ("chain 0", "biased die", f"copy {task.periods[0]}", SWITCHED)
    kind = next((i for i, name in enumerate(kinds) if name.split()[0] == source.split()[0]), 1)
    other = kinds[(kind + 1) % len(kinds)]

    def drawn(what: str, name: str) -> Tensor:
        return task.text(name, 1, length, generator(seed, what, source, index))[0]

    return Case(source, drawn("context", source), drawn("sibling", source), drawn("wrong", other), task.predict)


def pooled(task: ChainPool, length: int, seed: int, index: int = 0) -> Case:
    """The `index`-th context of a pool, or of a fresh chain; the wrong one is of another chain."""
    draw = generator(seed, "chain", task.n_chains, index)
    if task.n_chains:
        first = int(torch.randint(task.n_chains, (1,), generator=draw))
        step = int(torch.randint(max(task.n_chains - 1, 1), (1,), generator=draw)) + 1
        ways = [(task, first), (task, (first + step) % task.n_chains)]
    else:  # a pool of one chain is a chain that training never showed
        seeds = torch.randint(2**31, (2,), generator=draw).tolist()
        ways = [(replace(task, n_chains=1, source_seed=one), 0) for one in seeds]

    def text(what: str, which: int) -> Tensor:
        of, chain = ways[which]
        return of.text(chain, 1, length, generator(seed, what, task.n_chains, index))[0]

    return Case(
        f"K={task.n_chains}" if task.n_chains else "fresh",
        text("context", 0), text("sibling", 0), text("wrong", 1), task.predict,
    )  # fmt: skip
