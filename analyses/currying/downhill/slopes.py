"""A gradient's known answer: along -g a loss falls at the rate |g|^2.

    loss(W - h g) = loss(W) - h |g|^2 + O(h^2)

so a central difference along g, in float64, has to give |g|^2.  Two of them, h and h / 2, are put together so that
what is left is of the order h^4.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from probes.currying.fitted import PARTS, Problem
from probes.currying.gradients import descent
from probes.currying.oracle import Oracle
from probes.currying.solving import kl
from probes.locality import norm, size

LENGTH = 2.0**-14  # of the longer step, over |W|


def slope_errors(oracle: Oracle, queries: Int[Tensor, "batch query"]) -> dict[str, float]:
    """|slope + |g|^2| / |g|^2 in float64, of the context's own loss and of the KL from the oracle."""
    exact = Oracle(copy.deepcopy(oracle.model).double(), oracle.context, oracle.positions, bos_id=oracle.bos_id)
    text, target = exact.text, exact.logits(queries)

    def own(model: Any) -> Tensor:
        said = model(text)[0, :-1].log_softmax(-1)
        return -said.gather(1, text[0, 1:, None]).mean()

    def divergence(model: Any) -> Tensor:
        return kl(target, exact.bare.read(model, queries)[0]).mean()

    return {
        "gradient": _error(exact, own, descent(exact)[0]),
        "distill_gradient": _error(exact, divergence, distillation(exact, queries)),
    }


def distillation(oracle: Oracle, queries: Int[Tensor, "batch query"]) -> dict[str, Tensor]:
    """The gradient of the mean KL from the oracle at W, by matrix."""
    problem = Problem(oracle, queries, PARTS, "kl", 0.0, len(queries))
    return problem.gradient(problem.within({}))


@torch.no_grad()
def _error(oracle: Oracle, loss: Callable[[Any], Tensor], g: dict[str, Tensor]) -> float:
    square = norm(g) ** 2

    def slope(h: float) -> float:
        ahead, behind = (_at(oracle, g, sign * h) for sign in (-1, 1))
        return ((loss(ahead) - loss(behind)) / (2 * h)).item()

    h = LENGTH * size(oracle.model) / norm(g)
    found = (4 * slope(h / 2) - slope(h)) / 3
    return abs(found + square) / square


def _at(oracle: Oracle, g: dict[str, Tensor], rate: float) -> Any:
    model = oracle.copy_of_model()
    for name, change in g.items():
        model.get_parameter(name).add_(rate * change)
    return model
