"""Several steps of gradient descent on the context's own loss, each where the one before led.

    W_(t+1) = W_t - eta g(W_t),    g(W) = d/dW of the mean next-token cross entropy on [BOS, x]

One eta for all steps, the best on the fit queries in KL to the oracle, among those whose first step has one of LENGTHS
over |W|, and 0.  So it gets the same benefit of the doubt as one step does.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from probes.currying.gradients import descent
from probes.currying.oracle import Oracle
from probes.currying.solving import kl
from probes.locality import norm, size

LENGTHS = tuple(2.0**-power for power in range(10, 1, -1))
Update = dict[str, Tensor]


def many_steps(oracle: Oracle, queries: Int[Tensor, "batch query"], counts: Sequence[int]) -> dict[int, Update]:
    """W' - W after each number of steps, at the eta that is best for it; no change where every eta does harm."""
    target = oracle.logits(queries)
    first, _ = descent(oracle)
    nothing = {name: torch.zeros_like(change) for name, change in first.items()}
    start = _kl(oracle, oracle.model, queries, target)
    best = {count: (start, nothing) for count in counts}
    for length in LENGTHS:
        eta = length * size(oracle.model) / norm(first)
        moved = Oracle(oracle.copy_of_model(), oracle.context, oracle.positions, bos_id=oracle.bos_id)
        for step in range(1, max(counts) + 1):
            _move(moved.model, first if step == 1 else descent(moved)[0], -eta)
            if step in best and (found := _kl(oracle, moved.model, queries, target)) < best[step][0]:
                best[step] = (found, _update(oracle.model, moved.model, first))
    return {count: update for count, (_, update) in best.items()}


@torch.no_grad()
def _move(model: Any, direction: Update, rate: float) -> None:
    for name, change in direction.items():
        model.get_parameter(name).add_(rate * change)


@torch.no_grad()
def _kl(oracle: Oracle, model: Any, queries: Tensor, target: Tensor) -> float:
    return kl(target, oracle.bare.read(model, queries)[0]).mean().item()


def _update(base: Any, model: Any, names: Update) -> Update:
    return {name: (model.get_parameter(name) - base.get_parameter(name)).detach() for name in names}
