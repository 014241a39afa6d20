"""Modular addition: the sum of the digits of a text, modulo m.

    0  3 4 1  ?        m = 5: 8 mod 5 = 3

All m digits are equally likely, so all answers are, whatever the length; parity is m = 2.

Source: the modular arithmetic of Deletang et al. 2023, arXiv:2207.02098, with addition alone.
"""

from dataclasses import dataclass

import torch

from toy_models.errors import ConfigError
from toy_models.tasks import Batch
from toy_models.tasks.lengths import ManyLengths, answered, check, draw

FIRST_DIGIT = 1


@dataclass(frozen=True)
class ModularAddition(ManyLengths):
    """Args: shortest, longest: digits in a text, all lengths between equally likely;  modulus: m."""

    shortest: int = 1
    longest: int = 20
    modulus: int = 5

    def __post_init__(self):
        check(self.shortest, self.longest)
        if type(self.modulus) is not int or self.modulus < 2:
            raise ConfigError(f"modulus={self.modulus!r} must be a whole number of at least 2")

    @property
    def question(self) -> int:
        """The token behind the digits."""
        return FIRST_DIGIT + self.modulus

    @property
    def first_answer(self) -> int:
        """Sum s is the token first_answer + s: digits are read, sums are said."""
        return self.question + 1

    @property
    def d_vocab(self) -> int:
        """BOS, digits, the question, sums."""
        return self.first_answer + self.modulus

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts, scored at the question."""
        lengths = draw(self.shortest, self.longest, n, generator)
        digits = torch.randint(self.modulus, (n, self.longest), generator=generator)
        sums = digits.cumsum(-1).gather(1, lengths[:, None] - 1)[:, 0] % self.modulus
        return answered(FIRST_DIGIT + digits, lengths, self.first_answer + sums, self.question)
