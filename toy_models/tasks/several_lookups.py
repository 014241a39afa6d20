"""Several lookups at one position: items, each a key with its value, then questions that name some of the keys.

    0  (k3,v1) (k0,v0) (k2,v1) (k1,v0) ...  Q7 Q2 ...        Q7 asks k2, k0, k3: the answer is (1, 0, 1), one token

Every key stands in the text once, at a random place with a random value.  A question names 1 to `most` different keys
in an order of its own; its answer is the tuple of their values, told at the question's own position, as one token.
The table of questions is part of the task, not of the text: a model learns it by heart, as it learns its vocabulary.
Which key a value belongs to matters: a sum over the keys that were asked for does not tell them apart.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int

from toy_models.errors import ConfigError
from toy_models.seeding import generator as stream
from toy_models.tasks import Batch

BOS = 0


@dataclass(frozen=True)
class SeveralLookups:
    """Args: n_keys, n_values: of the items;  n_questions: in the table, equally many of every number of lookups;
    most: lookups of a question, at most;  asked: questions in a text;  question_seed: draws the table."""

    n_keys: int = 16
    n_values: int = 2
    n_questions: int = 24
    most: int = 8
    asked: int = 8
    question_seed: int = 0

    def __post_init__(self):
        for name, least in (("n_keys", 1), ("n_values", 2), ("n_questions", 1), ("most", 1), ("asked", 1)):
            if type(getattr(self, name)) is not int or getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be a whole number of at least {least}")
        if self.most > self.n_keys:
            raise ConfigError(f"most={self.most} lookups need as many different keys: n_keys={self.n_keys} is fewer")
        if self.n_questions % self.most:
            raise ConfigError(f"n_questions={self.n_questions} must be a multiple of most={self.most}, so many of each")

    @property
    def n_ctx(self) -> int:
        """BOS, the items and the questions."""
        return 1 + self.n_keys + self.asked

    @property
    def d_vocab(self) -> int:
        """Ids of what is read and of the answers, which share them."""
        return max(1 + self.n_keys * self.n_values + self.n_questions, self.n_values**self.most)

    @property
    def table(self) -> Int[torch.Tensor, "question slot"]:
        """The keys that each question names, in the order of the answer; -1 beyond the last."""
        drawn = torch.rand(self.n_questions, self.n_keys, generator=stream(self.question_seed, "questions"))
        keys = drawn.argsort(-1)[:, : self.most]
        return keys.where(torch.arange(self.most) < self.lookups[:, None], -1)

    @property
    def lookups(self) -> Int[torch.Tensor, " question"]:
        """How many keys each question names."""
        return 1 + torch.arange(self.n_questions) % self.most

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts; the questions are drawn with replacement, and they alone are scored."""
        values = torch.randint(self.n_values, (n, self.n_keys), generator=generator)
        order = torch.rand(n, self.n_keys, generator=generator).argsort(-1)
        items = 1 + order * self.n_values + values.gather(1, order)
        which = torch.randint(self.n_questions, (n, self.asked), generator=generator)
        tokens = torch.cat([torch.full((n, 1), BOS), items, 1 + self.n_keys * self.n_values + which], dim=1)
        targets = torch.zeros_like(tokens)
        targets[:, 1 + self.n_keys :] = self._answers(which, values)
        scored = torch.zeros_like(tokens, dtype=torch.bool)
        scored[:, 1 + self.n_keys :] = True
        return Batch(tokens, targets, scored)

    def _answers(
        self, which: Int[torch.Tensor, "batch asked"], values: Int[torch.Tensor, "batch key"]
    ) -> Int[torch.Tensor, "batch asked"]:
        """sum over slots of value * n_values**slot: the tuple, read as digits."""
        keys = self.table[which]  # (batch, asked, slot)
        found = values.gather(1, keys.clamp(min=0).flatten(1)).view_as(keys)
        digits = found.where(keys >= 0, 0)
        return (digits * self.n_values ** torch.arange(self.most)).sum(-1)
