"""Majority: are there more ones than zeros in a text of bits?

    0  1 0 1  ?        yes

A text with as many ones as zeros has no answer: one bit of it, any, is turned over.

Source: Perez, Barcelo & Marinkovic 2021 and Huang et al. 2024, arXiv:2410.02140, where uniform attention decides it.
"""

from dataclasses import dataclass

import torch

from toy_models.tasks import Batch
from toy_models.tasks.lengths import ManyLengths, answered, check, draw

ZERO, QUESTION, NO, YES = 1, 3, 4, 5


@dataclass(frozen=True)
class Majority(ManyLengths):
    """Args: shortest, longest: bits, all lengths between equally likely."""

    shortest: int = 1
    longest: int = 20

    def __post_init__(self):
        check(self.shortest, self.longest)

    @property
    def d_vocab(self) -> int:
        """BOS, two bits, the question, two answers."""
        return YES + 1

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts, scored at the question; the answers are equally likely."""
        lengths = draw(self.shortest, self.longest, n, generator)
        bits = torch.randint(2, (n, self.longest), generator=generator)
        read = torch.arange(self.longest) < lengths[:, None]
        tied = 2 * (bits * read).sum(-1) == lengths
        turned = (torch.rand(n, generator=generator) * lengths).long()
        bits = torch.where(tied[:, None] & (torch.arange(self.longest) == turned[:, None]), 1 - bits, bits)
        more = 2 * (bits * read).sum(-1) > lengths
        return answered(ZERO + bits, lengths, torch.where(more, YES, NO), QUESTION)
