"""Running parity: the parity of the bits so far, written behind each bit.

    0  0 e 1 o 1 e 1 o        after each bit the parity so far: the target at the bit, and the next token

It is the scratchpad of `toy_models.tasks.parity` in another place: each parity follows from the two tokens at hand, the
one before it (a bit) and the one before that (a parity), where there the bit has to be found again.  The net reads the
true parities (teacher forcing); a text that is right throughout is one that the net would write by itself, greedily.

Source: Kazemnejad et al. 2023, arXiv:2305.19466, on how the form of a scratchpad decides whether it helps.
"""

from dataclasses import dataclass

import torch

from toy_models.tasks import Batch
from toy_models.tasks.lengths import BOS, ManyLengths, check, draw

ZERO, ONE, EVEN, ODD = 1, 2, 3, 4


@dataclass(frozen=True)
class RunningParity(ManyLengths):
    """Args: shortest, longest: bits, all lengths between equally likely, bits too."""

    shortest: int = 1
    longest: int = 20

    def __post_init__(self):
        check(self.shortest, self.longest)

    @property
    def d_vocab(self) -> int:
        """BOS, two bits, two parities."""
        return ODD + 1

    @property
    def n_ctx(self) -> int:
        """BOS, bits, and all parities but the last."""
        return 2 * self.longest

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts, padded behind the last bit; scored at every bit."""
        lengths = draw(self.shortest, self.longest, n, generator)[:, None]
        bits = torch.randint(2, (n, self.longest), generator=generator)
        so_far = EVEN + bits.cumsum(-1) % 2
        place = torch.arange(self.n_ctx)
        scored = (place % 2 == 1) & (place < 2 * lengths)
        read = (place < 2 * lengths) & (place > 0)
        body = torch.stack([ZERO + bits, so_far], -1).flatten(1)[:, : self.n_ctx - 1]
        tokens = torch.nn.functional.pad(body, (1, 0)).masked_fill(~read, BOS)
        targets = so_far.repeat_interleave(2, 1).roll(1, 1)[:, : self.n_ctx].masked_fill(~scored, BOS)
        return Batch(tokens, targets, scored)
