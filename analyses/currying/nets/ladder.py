"""`kv_r` for every number of pairs up to r in one go: r descents in place of r (r + 1) / 2."""

from dataclasses import replace
from typing import Any

from jaxtyping import Int
from torch import Tensor

from probes.currying.curried import Curried, curry
from probes.currying.fitted import rms
from probes.currying.objective import Objective, descend
from probes.currying.oracle import Oracle
from probes.currying.pairs import AfterPairs, widened

LR, BATCH = 0.03, 64  # kv_r's own


def pair_ladder(
    model: Any, context: Int[Tensor, " context"], queries: Int[Tensor, "batch query"], most: int, steps: int
) -> list[Curried]:
    """Curried by 1, 2, ... `most` learned pairs, each from the one before; the best of any number so far is given.

    Args:
        steps: of Adam, for every number of pairs.

    Raises:
        ProbeInputError: what `kv_r` refuses.
    """
    first = curry(model, context, "kv_r", queries, pairs=1, steps=steps)
    oracle = Oracle(model, context)
    goal = Objective(oracle, queries, "entity", BATCH)
    rates = [LR * rms(key) for key in first.reader.keys] + [LR * rms(value) for value in oracle.values]
    fixed = oracle.copy_of_model().requires_grad_(False)
    made, best, wider = [first], goal.total(fixed, first.reader), first.reader
    for pairs in range(2, most + 1):
        wider, now = _learned(oracle, fixed, goal, widened(oracle, queries, wider), rates, steps)
        found = made[-1].reader
        if now < best:
            found, best = wider, now
        told = replace(first.provenance, options={"pairs": pairs, "steps": steps})
        spent = first.token_forwards + goal.token_forwards + 2 * (pairs - 1) * queries.numel()
        made.append(replace(first, reader=found, stored=found.stored, token_forwards=spent, provenance=told))
    return made


def _learned(
    oracle: Oracle, model: Any, goal: Objective, start: AfterPairs, rates: list[float], steps: int
) -> tuple[AfterPairs, float]:
    """The best pairs on the way down from these, and their objective."""
    free = [half.clone() for half in (*start.keys, *start.values)]
    n = len(start.keys)
    found = AfterPairs(tuple(free[:n]), tuple(free[n:]), start.skipped)
    best = descend(
        free, rates, lambda i: goal.loss(model, found, i), lambda: goal.total(model, found), len(goal.batches), steps
    )
    return found, best
