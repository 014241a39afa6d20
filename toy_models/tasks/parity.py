"""Parity: is the number of ones in a text of bits odd?

    0  0 1 1 1  ?                     the answer, odd, at the question
    0  0 1 1 1  ?  e o e              with a scratchpad: the parity so far after each bit, scored at each: e o e o

Every bit matters and one flip turns the answer, so that no part of the text tells more than chance.  With a scratchpad
the net reads its true parities so far (teacher forcing): each answer is then a function of one of them and one bit.

Source: Hahn 2020, arXiv:1906.06755 (hard for transformers); Hahn & Rofin 2024, arXiv:2402.09963, for the scratchpad.
"""

from dataclasses import dataclass

import torch

from toy_models.tasks import Batch
from toy_models.tasks.lengths import BOS, ManyLengths, answered, check, draw

ZERO, ONE, QUESTION, EVEN, ODD = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class Parity(ManyLengths):
    """Args: shortest, longest: bits, all lengths between equally likely, bits too;  scratchpad: write the parity so
    far."""

    shortest: int = 1
    longest: int = 20
    scratchpad: bool = False

    def __post_init__(self):
        check(self.shortest, self.longest)

    @property
    def d_vocab(self) -> int:
        """BOS, two bits, the question, two answers."""
        return ODD + 1

    @property
    def n_ctx(self) -> int:
        """BOS, bits, the question; with a scratchpad, all its answers but the last."""
        return 2 + self.longest + (self.longest - 1 if self.scratchpad else 0)

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts, padded behind the question or the scratchpad."""
        lengths = draw(self.shortest, self.longest, n, generator)
        bits = torch.randint(2, (n, self.longest), generator=generator)
        so_far = bits.cumsum(-1) % 2
        if self.scratchpad:
            return self._written_out(bits, so_far, lengths[:, None])
        return answered(ZERO + bits, lengths, EVEN + so_far.gather(1, lengths[:, None] - 1)[:, 0], QUESTION)

    def _written_out(self, bits: torch.Tensor, so_far: torch.Tensor, lengths: torch.Tensor) -> Batch:
        """Bits, the question, then so_far[0], so_far[1], ... as inputs and, from the question on, as targets."""
        place = torch.arange(self.n_ctx)
        bit = (ZERO + bits).gather(1, (place - 1).clamp(0, self.longest - 1).expand(len(bits), -1))
        behind = place - lengths - 1  # 0 at the question
        written = EVEN + so_far.gather(1, (behind - 1).clamp(0, self.longest - 1))
        tokens = torch.where(behind < 0, bit, torch.where(behind == 0, QUESTION, written))
        scored = (behind >= 0) & (behind < lengths)
        tokens = tokens.masked_fill((place == 0) | (behind >= lengths), BOS)
        targets = (EVEN + so_far.gather(1, behind.clamp(0, self.longest - 1))).masked_fill(~scored, BOS)
        return Batch(tokens, targets, scored)
