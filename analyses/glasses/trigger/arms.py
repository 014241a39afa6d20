"""The arms of `sink_necessity`: six ways to weigh, with a first token and without one, and the controls."""

from dataclasses import dataclass, replace
from typing import Any

from toy_models.normalisers.relu import Relu


@dataclass(frozen=True)
class Arm:
    """One way to weigh, or one control.

    Args: normaliser, gated: how it weighs;  layers, heads: of the model;  first, always: of the task;  pace: factor on
    the learning rate of the training.
    """

    normaliser: Any = "softmax"
    gated: bool = False
    layers: int = 1
    heads: int = 1
    first: bool = True
    always: bool = False
    pace: float = 1.0


WAYS = {
    "softmax": Arm(),
    "off by one": Arm("off_by_one"),
    "sink logit": Arm("sink_logit"),
    "ReLU": Arm(Relu(uncounted=1), pace=1 / 3),
    "sigmoid": Arm("sigmoid"),
    "gated": Arm(gated=True),
}
ALONE = ", no first token"
ALWAYS, DEEP, DEEP_RELU = "softmax, always averaging", "softmax, 2 layers", "ReLU, 2 layers"
ARMS = {
    **WAYS,
    **{name + ALONE: replace(arm, first=False) for name, arm in WAYS.items()},
    "ReLU" + ALONE: Arm("relu", first=False, pace=1 / 3),
    ALWAYS: Arm(always=True),
    DEEP: Arm(layers=2, heads=2),
    DEEP_RELU: Arm(Relu(uncounted=1), layers=2, heads=2, pace=1 / 3),
}
UNTRAINED, TRAINED = "untrained", "trained"
NOT_QUICK = ("sigmoid", "sigmoid" + ALONE, "ReLU" + ALONE, "gated" + ALONE)  # no claim asks for them
