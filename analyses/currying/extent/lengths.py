"""The first n tokens of a context, curried: what sink, least squares and the nulls leave, and what the heads do."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from analyses.currying.extent.divergences import bare_logits, divergence, from_bayes, heads, share
from analyses.currying.extent.subjects import Queries, Subject, kept_apart
from analyses.currying.nets.contexts import Case, mixed, pooled
from analyses.currying.nets.trained import Mixture, Pools
from probes.currying.curried import Curried, curry
from probes.currying.oracle import Oracle
from toy_models.seeding import generator
from toy_models.tasks.in_deployment import SWITCHED, InDeployment

METHODS = ("sink", "lsq_o", "none", "bias", "steer", "bigram_shift")
ORACLE, SIBLING, WRONG = "oracle", "sibling", "wrong task"
TRIES = 64  # texts among which two have the word early


@dataclass(frozen=True)
class Nets:
    """What is trained, and whose contexts are taken."""

    mixture: Mixture
    pools: Pools
    sources: tuple[str, ...]
    pool_sizes: tuple[int, ...]


def longest(nets: Nets, length: int, pool_length: int, seed: int) -> Iterator[Subject]:
    """One long context of every source, the word first in its own, and of every pool."""
    run, task = nets.mixture.trained(seed), nets.mixture.task_of(seed)
    model, born = run.model, run.at(0)
    for source in nets.sources:
        case = mixed(task, source, length, seed)
        if source == SWITCHED:
            own, sibling = from_the_word(task, length, seed)
            case = replace(case, context=own, sibling=sibling)
        yield Subject(case, 0, model, born, task.switch)
    for size in nets.pool_sizes:
        pool, task = nets.pools.trained(size, seed), nets.pools.task_of(size, seed)
        yield Subject(pooled(task, pool_length, seed), 0, pool.model, pool.at(0), None)


def from_the_word(task: InDeployment, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two texts that begin with the word and go on behind it, without what came before."""
    text = task.text(SWITCHED, TRIES, 2 * length, generator(seed, "from the word"))
    place = (text == task.switch).int().argmax(1)
    early = (place <= length).nonzero()[:2, 0].tolist()
    own, sibling = (text[row, place[row] : place[row] + length] for row in early)
    return own, sibling


def shortened(subject: Subject, n: int) -> Subject:
    """The first n tokens of the context, and of those it is held against."""
    case = subject.case
    parts = {name: getattr(case, name)[:n] for name in ("context", "sibling", "wrong")}
    return replace(subject, case=Case(case.name, **parts, exact=case.exact), index=n)


def rows_of(subject: Subject, sizes: Queries, seed: int) -> Iterator[dict[str, Any]]:
    """One row per method: KL from the oracle and from Bayes, share; and what the heads do with this context."""
    case, model = subject.case, subject.model
    fit, held = subject.asked(sizes, seed)
    others = {
        name: (x, subject.behind(model, x, sizes, seed, name))
        for name, x in ((SIBLING, case.sibling), (WRONG, case.wrong))
    }
    held = kept_apart(held, *(asked for _, asked in others.values()))
    oracle = Oracle(model, case.context)
    made = {method: curry(model, case.context, method, fit) for method in METHODS}
    made |= {name: curry(model, x, "sink", asked) for name, (x, asked) in others.items()}
    target, bare = oracle.logits(held), bare_logits(oracle, held)
    baseline = divergence(target, bare)
    told = {"n": len(case.context), "baseline_kl": baseline, **heads(oracle, held), "queries": len(held)}
    told["untrained_rho_last"] = heads(Oracle(subject.untrained, case.context), held)["rho_last"]
    said = {ORACLE: target, **{name: one.logits(held) for name, one in made.items()}}
    for name, logits in said.items():
        left = divergence(target, logits)
        bayes = from_bayes(case.exact, oracle, held, logits)
        yield {**told, "method": name, "kl": left, "share": share(left, baseline), "bayes_kl": bayes}


def of_nothing(model: Any, queries: Int[Tensor, "batch query"]) -> float:
    """The largest |W' - W| of any parameter, and difference of any logit, when an empty context is curried."""
    nothing = torch.zeros(0, dtype=torch.long)
    plain = curry(model, nothing, "none")
    return max(_apart(curry(model, nothing, method, queries), plain, queries) for method in METHODS)


def _apart(one: Curried, other: Curried, queries: Tensor) -> float:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    weights = max((x - y).abs().max().item() for x, y in pairs)
    return max(weights, (one.logits(queries) - other.logits(queries)).abs().max().item())
