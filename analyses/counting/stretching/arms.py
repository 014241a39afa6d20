"""Which tasks and nets `length_generalisation` compares, and which texts it asks about."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from analyses.counting.nets.arms import LSTM, lstm, transformer
from toy_models.tasks import Task, find

CONSTRUCTED = "constructed"  # the cell that was set by hand
COUNTED, COUNTED_TO = "a^n b^n", 1000  # the largest n that it is asked about
WIDTH = 32  # d_model of the transformers, cells of the LSTMs


@dataclass(frozen=True)
class Asked:
    """One task.  name: in `toy_models.tasks`;  chance: accuracy of the best guess that reads nothing;  options: of the
    task, beside its lengths."""

    name: str
    chance: float
    options: Mapping[str, int] = field(default_factory=dict)


TASKS = {
    COUNTED: Asked("an_bn", 0.0),
    "majority": Asked("majority", 0.5),
    "Dyck-1": Asked("dyck", 0.5),
    "even pairs": Asked("even_pairs", 0.5),
    "parity": Asked("parity", 0.5),
    "sum mod 3": Asked("modular_addition", 1 / 3, {"modulus": 3}),
}


def trained_on(label: str, longest: int) -> Any:
    """The task with texts of up to `longest` symbols, or a's."""
    return find(TASKS[label].name)(longest=longest, **TASKS[label].options)


def asked_at(label: str, longest: int, length: int) -> Any:
    """The task at one length.  The text of a^n b^n is fixed by n, so there n is drawn from the last tenth up to it."""
    task = trained_on(label, longest).at(length)
    return replace(task, shortest=length - length // 10) if label == COUNTED else task


def net(arm: str, task: Task, n_ctx: int) -> Any:
    """The config of one net: an LSTM, or a transformer with the position code `arm`."""
    if arm == LSTM:
        return lstm(task, n_ctx, WIDTH)
    return transformer(task, n_ctx, position=arm, d_model=WIDTH, d_mlp=2 * WIDTH, n_heads=2)
