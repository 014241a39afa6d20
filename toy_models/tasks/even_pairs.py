"""Even pairs: is the number of 01 and 10 pairs in a text of bits even?

    0  0 1 1 0  ?        01 and 10: two pairs, so yes

Every such pair changes the bit, so the answer is yes where the last bit equals the first: two lookups are enough.

Source: Deletang et al. 2023, arXiv:2207.02098, whose transformers generalise here and not on parity.
"""

from dataclasses import dataclass

import torch

from toy_models.tasks import Batch
from toy_models.tasks.lengths import ManyLengths, answered, check, draw

ZERO, QUESTION, NO, YES = 1, 3, 4, 5


@dataclass(frozen=True)
class EvenPairs(ManyLengths):
    """Args: shortest, longest: bits, 2 or more, all lengths between equally likely, bits too."""

    shortest: int = 2
    longest: int = 20

    def __post_init__(self):
        check(self.shortest, self.longest, least=2)  # one bit has no pair: the answer would always be yes

    @property
    def d_vocab(self) -> int:
        """BOS, two bits, the question, two answers."""
        return YES + 1

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts, scored at the question."""
        lengths = draw(self.shortest, self.longest, n, generator)
        bits = torch.randint(2, (n, self.longest), generator=generator)
        same = bits[:, 0] == bits.gather(1, lengths[:, None] - 1)[:, 0]
        return answered(ZERO + bits, lengths, torch.where(same, YES, NO), QUESTION)
