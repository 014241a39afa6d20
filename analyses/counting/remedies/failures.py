"""The failures: tasks that a small transformer learns on short texts, asked on long ones."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from toy_models.tasks import Batch, Task
from toy_models.tasks.copy_end import CopyEnd
from toy_models.tasks.copy_text import CopyText
from toy_models.tasks.count_symbols import CountSymbols, uniform
from toy_models.tasks.needles import Needles
from toy_models.tasks.parity import Parity

MOST = 8  # largest count


@dataclass(frozen=True)
class Failure:
    """Args: task: as trained;  length: of the long texts, what `task.at` takes;  updates: of a training, by which the
    baseline is right on training's lengths, parity aside;  source: why long texts should be hard.

    All tasks are exact: who reads the whole text is always right."""

    task: Any
    length: int
    updates: int
    source: str

    def takes(self, changes: dict[str, Any]) -> bool:
        """Whether the task has what a remedy changes."""
        return set(changes) <= {field.name for field in fields(self.task)}

    def changed(self, changes: dict[str, Any]) -> tuple[Task, Task]:
        """The task as trained and on long texts, with a remedy's changes."""
        task = replace(self.task, **changes)
        return task, task.at(self.length)


@dataclass(frozen=True)
class Retrieval(Needles):
    """Needles, and all questions ask by key."""

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts."""
        batch = super().sample(n, generator)
        tokens, questions = batch.tokens, slice(-self.back, None)
        key = (tokens - 1) // self.n_values
        key = key.where((tokens > 0) & (key < self.n_keys), self.n_keys)  # fillers and questions go to a last column
        needles = tokens.new_zeros(n, self.n_keys + 1).scatter(1, key, tokens)
        asked = torch.randint(self.n_keys, (n, self.back), generator=generator)
        tokens[:, questions] = 1 + self.n_keys * self.n_values + asked
        batch.targets[:, questions] = needles.gather(1, asked)
        return batch


FAILURES = {
    "copy last": Failure(CopyEnd("last", longest=8), 256, 100, "Barbero et al. 2024, arXiv:2406.04267, theorem 4.2"),
    "copy first": Failure(CopyEnd("first", longest=8), 256, 100, "Barbero et al. 2024, arXiv:2406.04267, theorem 5.1"),
    "count ones": Failure(
        CountSymbols(shortest=MOST, longest=16, most=MOST, prior=uniform(MOST)),
        32,
        160,
        "Barbero et al. 2024, arXiv:2406.04267, corollary 6.2",
    ),
    "retrieve": Failure(
        Retrieval(n_ctx=24, n_keys=4, n_values=4, n_fillers=8, back=4),
        128,
        200,
        "Velickovic et al. 2024, arXiv:2410.01104, lemma 2.1",
    ),
    "copy repeated": Failure(CopyText(repeated=True, longest=16), 20, 250, "Huang et al. 2024, arXiv:2410.02140"),
    "parity": Failure(Parity(longest=8), 16, 350, "Hahn 2020, arXiv:1906.06755"),
}
