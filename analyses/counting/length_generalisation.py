"""Which tasks, once learned on short texts, are still done on texts ten times as long?

Six tasks on texts of up to 20 symbols: a^n b^n, majority, Dyck-1, even pairs, parity, the sum modulo 3.  Transformers
of two layers, without positions, with learned ones, rope or ALiBi, and an LSTM; all are then asked about texts of 1, 2,
4 and 10 times that length.  A text of a^n b^n is right if every b and the end are; of the others, if the answer is.

Theory says which transformers can go on: a task that a program of C-RASP computes (a^n b^n, majority, Dyck-1: counts
that are compared) can, parity and sums modulo m cannot, and even pairs needs the first bit to be found.  An LSTM has
cells that count and states that flip: nothing here is beyond it.  Beside the cells of trained LSTMs stands one that was
set by hand.

Updates are equal for all transformers; learning rates were chosen on other seeds than those that are shown.
Accuracy at the training length says whether a task was learned at all: what was not learned says nothing about longer
texts.

Sources: Weiss, Goldberg & Yahav 2018, arXiv:1805.04908 (LSTMs count); Deletang et al. 2023, arXiv:2207.02098
(parity and even pairs on longer texts); Huang et al. 2024, arXiv:2410.02140 (C-RASP and length generalisation);
Hahn 2020, arXiv:1906.06755 (parity).
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.counting.nets.arms import LSTM, POSITIONS
from analyses.counting.stretching.arms import CONSTRUCTED, COUNTED, COUNTED_TO, TASKS, asked_at, net, trained_on
from analyses.counting.stretching.claims import CLAIMS
from toy_models.train import TrainConfig

__all__ = ["CLAIMS", "COLUMNS", "QUICK", "Config", "run"]
ARMS = (*POSITIONS, LSTM)


@dataclass(frozen=True)
class Config:
    """Args: tasks, arms: which to run;  longest: symbols of the longest training text, the n of a^n b^n;  stretch: test
    lengths over it;  texts: of each test;  train: of transformers, train_lstm: of LSTMs, train_counter: of those that
    learn a^n b^n."""

    tasks: tuple[str, ...] = tuple(TASKS)
    arms: tuple[str, ...] = ARMS
    longest: int = 20
    stretch: tuple[int, ...] = (1, 2, 4, 10)
    texts: int = 128
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=300, batch_size=32, lr=5e-3, warmup=20, decay=0.5, weight_decay=0.0)
    )
    train_lstm: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=500, batch_size=64, lr=1e-2, warmup=20, decay=0.5, weight_decay=0.0)
    )
    train_counter: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=1600, batch_size=32, lr=1e-1, warmup=20, decay=0.7, weight_decay=0.0)
    )
    # Settings were chosen on seeds 0 and 1; the counter's rate and its cells, 32 in place of 10, on seeds 0 to 7, after
    # 10 to 14 and 20 to 24 had shown that with 10 cells about half of the nets stop short of ten times the length.
    seeds: tuple[int, ...] = (30, 31, 32, 33, 34)
    device: str = "cpu"

    def __post_init__(self):
        for kind, chosen, known in (("task", self.tasks, tuple(TASKS)), ("net", self.arms, ARMS)):
            if unknown := [name for name in chosen if name not in known]:
                raise WorkbenchError(
                    f"length_generalisation has no {kind} {unknown[0]!r}: choose from {', '.join(map(repr, known))}"
                )
        if self.longest < 10 or self.longest % 2:
            raise WorkbenchError(f"longest={self.longest} must be even, for Dyck-1, and 10 or more")
        if not self.stretch or list(self.stretch) != sorted(set(self.stretch)) or self.stretch[0] != 1:
            raise WorkbenchError(f"stretch={self.stretch} must start at 1, the training length, and rise")


QUICK = {
    **{"tasks": (COUNTED, "majority", "parity"), "arms": ("none", "rope", LSTM), "stretch": (1, 2, 10), "seeds": (0,)},
    **{"train.steps": 90, "train_lstm.steps": 180, "train_counter.steps": 150, "texts": 32},
}

COLUMNS = {
    "task": "what was asked",
    "arm": f"the transformer's position code; {LSTM}; or {CONSTRUCTED}, the cell set by hand",
    "seed": "of the weights and of everything drawn",
    "stretch": "length over the longest of training",
    "length": "symbols of the test texts; of a^n b^n the largest n, whose texts have n in the last tenth up to it",
    "accuracy": "share of texts that are right throughout (0 to 1)",
    "chance": "accuracy of the best guess that reads nothing (0 to 1)",
    "cell_r2": "squared correlation of the best cell with the count over one text, at the longest n (0 to 1)",
    "cell_up": "its slope in the a's (1 per symbol)",
    "cell_down": "its slope in the b's (1 per symbol)",
    "cell_drift": "largest |cell - count| of the cell set by hand (1); blank for trained ones, whose unit is free",
}


def run(config: Config) -> Result:
    """Train every task, net and seed side by side, and ask them all about longer texts."""
    jobs = [(config, task, arm, seed) for task in config.tasks for arm in config.arms for seed in config.seeds]
    done = run_jobs(_train_one, jobs, label="training runs")
    rows, arrays = _constructed(config)
    table = pd.DataFrame([row for found, _, _ in done for row in found] + rows, columns=list(COLUMNS))
    if cells := [cell for _, cell, _ in done if cell is not None]:
        arrays["trained cell (seed, pos)"] = np.stack(cells)
    backends = sorted({backend for _, _, ran in done for backend in ran})
    return Result(table, arrays, {"device": config.device, "dtype": "float32", "backend": backends})


def _train_one(job: tuple[Config, str, str, int]) -> tuple[list[dict], np.ndarray | None, tuple[str, ...]]:
    """One row per test length; the cell over the longest a^n b^n, where an LSTM learned that; attention backends."""
    from analyses.counting.nets.learning import accuracy, learned
    from analyses.counting.stretching.cells import counter

    config, label, arm, seed = job
    task = trained_on(label, config.longest)
    lengths = [config.longest * times for times in config.stretch]
    settings = config.train if arm != LSTM else config.train_counter if label == COUNTED else config.train_lstm
    untrained = net(arm, task, asked_at(label, config.longest, lengths[-1]).n_ctx)
    model = learned(replace(untrained, device=config.device), task, settings, seed)
    rows = [
        {"task": label, "arm": arm, "seed": seed, "stretch": times, "length": length, "chance": TASKS[label].chance}
        | {"accuracy": accuracy(model, asked_at(label, config.longest, length), config.texts, seed, label, length)}
        for times, length in zip(config.stretch, lengths, strict=True)
    ]
    if arm != LSTM:
        return rows, None, model.backends
    if label != COUNTED:
        return rows, None, ()
    found = counter(model, lengths[-1])
    rows[-1] |= {"cell_r2": found.r2, "cell_up": found.up, "cell_down": found.down}
    return rows, found.cell, ()


def _constructed(config: Config) -> tuple[list[dict], dict[str, np.ndarray]]:
    """The cell set by hand: right at n = COUNTED_TO?  Its values over the text that the trained cells read, too."""
    from analyses.counting.nets.learning import accuracy
    from analyses.counting.stretching.cells import counter
    from toy_models.counter import counting_cell

    longest = config.longest * config.stretch[-1]
    model = counting_cell(max(COUNTED_TO, longest))
    far, shown = counter(model, COUNTED_TO), counter(model, longest)
    row = {"task": COUNTED, "arm": CONSTRUCTED, "seed": config.seeds[0], "stretch": COUNTED_TO / config.longest}
    row |= {"length": COUNTED_TO, "chance": TASKS[COUNTED].chance, "cell_drift": far.drift}
    row |= {"cell_r2": far.r2, "cell_up": far.up, "cell_down": far.down}
    task = trained_on(COUNTED, config.longest).at(COUNTED_TO)
    row |= {"accuracy": accuracy(model, task, 1, config.seeds[0], CONSTRUCTED)}
    return [row], {"count (pos)": shown.count, "constructed cell (pos)": shown.cell}
