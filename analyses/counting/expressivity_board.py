"""What can be learned at all: does the theory's verdict hold for small nets, trained on short texts and tested on long?

Fourteen tasks, five architectures.  What theory says of each pair, and who says it, stands in
`analyses/counting/board/verdicts.py` and was written before anything was trained; the table carries it.  Then small
nets are trained on texts of up to 4 to 16 symbols, and tested at 1, 2, 4 and 10 times that (where the tokens of a text
must differ, up to 4): two layers of attention with no positions, with learned ones (all of them trained, see
`board/training.py`), rotary and ALiBi ones, and an LSTM.

A net has solved a task if its accuracy beyond the training lengths is 0.9 on average: the rule of Deletang et al. 2022
(arXiv:2207.02098), who average over all lengths and take the best of many runs; both the best seed and the median are
given here.  Where a text asks for many tokens all must be right.  Verdicts speak of nets that fit the short texts: one
that does not is told apart.

Updates are equal over architectures and chosen per task on seeds 0 to 2, so that the whole board takes minutes: what
long training would still change is not seen here.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.counting.board.claims import CLAIMS
from analyses.counting.board.outcomes import SAYINGS, agreement, cells, confusion
from analyses.counting.board.tasks import ROWS
from analyses.counting.board.verdicts import ARCHITECTURES, NO, VERDICTS, YES
from analyses.counting.nets.arms import LSTM
from toy_models.train import TrainConfig

__all__ = ["CLAIMS", "COLUMNS", "QUICK", "Config", "run"]


@dataclass(frozen=True)
class Config:
    """Args: tasks, architectures: every pair of them is run;  train: of a task with pace 1;  lstm_lr: learning rate of
    the LSTM in place of the transformers';  multiples: test lengths over the longest training length, the first 1;
    test_texts: at each;  solved: the accuracy from which on a task counts as solved, and as fitted."""

    tasks: tuple[str, ...] = tuple(ROWS)
    architectures: tuple[str, ...] = ARCHITECTURES
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=400, batch_size=32, lr=0.005, warmup=30, decay=0.5)
    )
    lstm_lr: float = 0.01
    multiples: tuple[int, ...] = (1, 2, 4, 10)
    test_texts: int = 256
    solved: float = 0.9
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    device: str = "cpu"


QUICK = {
    **{"tasks": ("majority", "parity"), "architectures": ("none", "lstm")},
    **{"train.steps": 150, "test_texts": 64, "seeds": (0,)},
}

COLUMNS = {
    "task": "name of the task on the board",
    "architecture": "positions of the transformer, or lstm",
    "seed": "of the weights and of the texts",
    "verdict": "theory, before training: yes, no or silent: right at all lengths if right on short texts?",
    "source": "of the verdict",
    "multiple": "length of the tests over the longest in training; 1: the training lengths themselves",
    "accuracy": "share of texts answered right throughout",
    "guess": "accuracy of the best constant answer",
    "updates": "of the training",
}


def run(config: Config) -> Result:
    """Train every task and architecture side by side, and test at every length."""
    for name, chosen, known in (("task", config.tasks, ROWS), ("architecture", config.architectures, ARCHITECTURES)):
        if unknown := [one for one in chosen if one not in known]:
            raise WorkbenchError(
                f"expressivity_board has no {name} {unknown[0]!r}: choose from {', '.join(map(repr, known))}"
            )
    if len(config.multiples) < 2 or config.multiples[0] != 1 or min(config.multiples[1:]) < 2:
        raise WorkbenchError(
            f"multiples={config.multiples} must begin with 1 and go on with larger ones, such as 1,2,4"
        )
    jobs = [
        (config, task, arch, seed) for task in config.tasks for arch in config.architectures for seed in config.seeds
    ]
    done = run_jobs(_train_one, jobs, label="training runs")
    table = pd.DataFrame([row for rows, _ in done for row in rows], columns=list(COLUMNS))
    backends = sorted({backend for _, ran in done for backend in ran})
    return Result(
        table, _judged(table, config.solved), {"device": config.device, "dtype": "float32", "backend": backends}
    )


def _judged(table: pd.DataFrame, solved: float) -> dict[str, np.ndarray]:
    """The confusion matrices, and the verdicts of all cells of the board, run or not."""
    sayings = [[SAYINGS.index(VERDICTS[task, arch].learnable) for arch in ARCHITECTURES] for task in ROWS]
    judged = {"verdicts (task, architecture)": np.array(sayings)}
    for name, best in (("median", False), ("best", True)):
        cell = cells(table, solved, best)
        judged[f"{name}: cells (verdict, outcome)"] = confusion(cell)
        judged[f"{name}: agree, tested (yes and no, count)"] = np.array(
            [agreement(cell, verdict) for verdict in (YES, NO)]
        )
    return judged


def _train_one(job: tuple[Config, str, str, int]):
    """Rows of one net, one for each test length, and the attention backends that ran."""
    from analyses.counting.board.training import trained
    from analyses.counting.nets.learning import accuracy

    config, name, architecture, seed = job
    row, verdict = ROWS[name], VERDICTS[name, architecture]
    tests = {
        k: row.task if k == 1 else row.task.at(k * row.task.longest) for k in config.multiples if k <= row.farthest
    }
    settings = replace(config.train, steps=max(1, round(row.pace * config.train.steps)))
    if architecture == LSTM:
        settings = replace(settings, lr=config.lstm_lr)
    n_ctx = max(test.n_ctx for test in tests.values())
    model = trained(architecture, row.task, n_ctx, settings, seed, config.device)
    rows = [
        {"task": name, "architecture": architecture, "seed": seed, "verdict": verdict.learnable}
        | {"source": verdict.source, "multiple": k, "accuracy": accuracy(model, test, config.test_texts, seed, name, k)}
        | {"guess": row.guess, "updates": settings.steps}
        for k, test in tests.items()
    ]
    return rows, sorted(set(getattr(model, "backends", ())))
