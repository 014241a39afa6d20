"""What every head of a model does, what it would take to say it, and what is lost without it."""

import numpy as np
import torch

from probes import heads, induction
from probes.ablation import Mean, Zero, ablate
from probes.frequencies import frequencies
from probes.model import patterns
from probes.own_token_map import OwnTokenMap
from probes.sinks import EPSILON, own_token, sinks

# The four roles, and the score of each.
ROLES = {
    "first token": "first_mass",
    "own token": "diagonal",
    "previous token": "previous_token",
    "induction": "prefix_matching",
}


def of_patterns(model, texts, repeats) -> dict[str, np.ndarray]:
    """Shares of attention and their entropy, (layer, head); prefix matching alone is of the repeats."""
    found, stored = sinks(model, texts), patterns(model, texts)
    over = {f"sink_rate_{whose}": (found.mass > epsilon).double().mean(0) for whose, epsilon in EPSILON.items()}
    scores = {
        "first_mass": found.mass.mean(0),
        **over,
        "carried": found.carried,
        "diagonal": torch.stack([heads.diagonal(one) for one in stored]),
        "previous_token": torch.stack([induction.previous_token(one) for one in stored]),
        "prefix_matching": induction.induction(model, repeats).prefix_matching,
        "relative_entropy": torch.stack([heads.relative_entropy(one) for one in stored]),
    }
    return {name: _array(values) for name, values in scores.items()}


def of_outputs(model, texts, fit) -> dict[str, np.ndarray]:
    """How much of the output is one vector, or an affine map of the own token, and the loss with the head's output
    replaced by zero, by its mean, by that map; (layer, head), nats per prediction."""
    own = own_token(model, fit, texts)
    lost = {
        name: np.array(
            [
                [ablate(model, texts, [(layer, head)], how).change.mean().item() for head in range(model.cfg.n_heads)]
                for layer in range(model.cfg.n_layers)
            ]
        )
        for name, how in {"lost_zero": Zero(), "lost_mean": Mean(fit), "lost_map": OwnTokenMap(fit)}.items()
    }
    return {"constant": _array(own.constant), "linear": _array(own.linear)} | lost


def role(scores: dict[str, np.ndarray], at: tuple[int, int]) -> str:
    """The role whose score is the largest, however small it is."""
    return max(ROLES, key=lambda name: scores[ROLES[name]][at])


def used_frequencies(model, texts) -> np.ndarray | None:
    """Share of every rotary pair in a head's bound on its scores, (layer, head, pair); None without rotation."""
    position = model.cfg.position
    if position.where != "rotation":
        return None
    return _array(frequencies(model, texts, position.d_rotary(model.cfg.d_head)).share)


def _array(values: torch.Tensor) -> np.ndarray:
    return np.array(values.tolist())
