"""Divergences of a curried model from its oracle, and of both from Bayes's predictor."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.comparable import SMALLEST_BASELINE
from probes.currying.oracle import Oracle
from probes.currying.solving import kl


def divergence(target: Float[Tensor, "batch query d_vocab"], logits: Float[Tensor, "batch query d_vocab"]) -> float:
    """KL(target || logits), nats, mean over rows."""
    return kl(target, logits).mean().item()


def share(left: float, baseline: float) -> float:
    """1 - left / baseline; nan where the baseline is below 1e-3 nats."""
    return 1 - left / baseline if baseline >= SMALLEST_BASELINE else math.nan


@torch.no_grad()
def bare_logits(oracle: Oracle, queries: Int[Tensor, "batch query"]) -> Float[Tensor, "batch query d_vocab"]:
    """What the model says without the context."""
    return oracle.bare.read(oracle.model, queries)[0]


def from_bayes(
    exact: Callable[[Tensor], Tensor],
    oracle: Oracle,
    queries: Int[Tensor, "batch query"],
    logits: Float[Tensor, "batch query d_vocab"],
) -> float:
    """KL(Bayes behind the context || logits), nats, mean over the query's rows; what is impossible adds nothing."""
    text = torch.cat([oracle.text.expand(len(queries), -1), queries], 1)
    wanted = exact(text)[:, oracle.text.shape[1] :].double()
    off = wanted.exp() * (wanted - logits.double().log_softmax(-1))
    return off.where(wanted > -torch.inf, 0.0).sum(-1).mean().item()


def heads(oracle: Oracle, queries: Int[Tensor, "batch query"]) -> dict[str, Any]:
    """rho of the first and of the last layer, and the last layer's gate, means over heads (0 to 1)."""
    found = oracle.heads(queries)
    return {
        "rho_first": found[0].rho.double().mean().item(),
        "rho_last": found[-1].rho.double().mean().item(),
        "gate_last": found[-1].gate.double().mean().item(),
    }
