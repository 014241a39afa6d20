"""a^n b^n: as many b's as there were a's, then the end.

    0 a a a b b b        n = 3; scored from the first b on: b b end
              b b e

Only where the answer is determined it is scored: how many a's come is free, what follows the first b is not.  The
number that a net must keep is n, not a place: all n from `shortest` to `longest` are equally likely.

Source: Weiss, Goldberg & Yahav 2018, arXiv:1805.04908; Gers & Schmidhuber 2001 before them.
"""

from dataclasses import dataclass

import torch

from toy_models.tasks import Batch
from toy_models.tasks.lengths import BOS, ManyLengths, check, draw

A, B, END = 1, 2, 3


@dataclass(frozen=True)
class AnBn(ManyLengths):
    """Args: shortest, longest: n, all between them equally likely."""

    shortest: int = 1
    longest: int = 20

    def __post_init__(self):
        check(self.shortest, self.longest)

    @property
    def d_vocab(self) -> int:
        """BOS, a, b, end."""
        return END + 1

    @property
    def n_ctx(self) -> int:
        """BOS, a's and b's: the end is answered, not read."""
        return 1 + 2 * self.longest

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts, padded behind to the longest that can be drawn."""
        each = draw(self.shortest, self.longest, n, generator)[:, None]
        place = torch.arange(self.n_ctx)
        letters = torch.where(place <= each, A, B).expand(n, -1)
        tokens = letters.masked_fill((place == 0) | (place > 2 * each), BOS)
        scored = tokens == B
        targets = torch.where(place == 2 * each, END, B).masked_fill(~scored, BOS)
        return Batch(tokens, targets, scored)
