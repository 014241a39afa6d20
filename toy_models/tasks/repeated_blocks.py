"""Repeated random blocks: BOS, then a block of `period` distinct random tokens, over and over.

    0  7 3 9 5  7 3 9 5  7 3 ...        (period 4)

From the second copy on the next token is the one that followed the current token before.  The period
is drawn anew for every sequence: were it fixed, "look back exactly that far" would solve the task by
position alone (`fixed_period` is that trap, kept as a control).  Tokens within a block are distinct,
so that the answer is never ambiguous.  Source of the probe text: Olsson et al. 2022, arXiv:2209.11895.
"""

from dataclasses import dataclass, replace

import torch

from toy_models.errors import ConfigError
from toy_models.tasks import Batch

BOS = 0


@dataclass(frozen=True)
class RepeatedBlocks:
    """Args: d_vocab: ids 1 to d_vocab - 1 are content, 0 is BOS;  n_ctx: BOS included;
    shortest, longest: the periods, all equally likely;  held_out: periods in that range that are never
    drawn, so that `at(period)` can test on them."""

    d_vocab: int = 65
    n_ctx: int = 48
    shortest: int = 4
    longest: int = 23
    held_out: tuple[int, ...] = (7, 12, 17)

    def __post_init__(self):
        if not 1 <= self.shortest <= self.longest < self.d_vocab:
            raise ConfigError(
                f"periods {self.shortest} to {self.longest} must lie in [1, {self.d_vocab - 1}]: "
                f"a block holds distinct tokens out of d_vocab - 1 = {self.d_vocab - 1}"
            )
        if self.longest + 2 > self.n_ctx:
            raise ConfigError(
                f"a period of {self.longest} leaves nothing to predict in n_ctx={self.n_ctx}: "
                f"n_ctx must be at least {self.longest + 2}"
            )
        if not self.periods:
            raise ConfigError(f"held_out={self.held_out} leaves no period between {self.shortest} and {self.longest}")

    @property
    def periods(self) -> tuple[int, ...]:
        """The periods that `sample` draws from."""
        return tuple(p for p in range(self.shortest, self.longest + 1) if p not in self.held_out)

    def at(self, period: int) -> "RepeatedBlocks":
        """The same task at one period, held out or not."""
        return replace(self, shortest=period, longest=period, held_out=())

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n sequences.  `scored` is True where the current token has been seen before, BOS aside."""
        choices = torch.tensor(self.periods)
        period = choices[torch.randint(len(choices), (n,), generator=generator)]
        # Ranks of uniform draws: `longest` distinct tokens per row, of which a row uses `period`.
        shuffled = torch.rand(n, self.d_vocab - 1, generator=generator).argsort(-1) + 1
        step = torch.arange(self.n_ctx)[None, :].expand(n, -1)  # one more than needed: the last target
        text = shuffled.gather(1, step % period[:, None])
        tokens = torch.cat([torch.full((n, 1), BOS), text[:, :-1]], dim=1)
        # Input position i >= 1 holds text[i - 1], a repeat as soon as i - 1 >= period.
        return Batch(tokens, text, step - 1 >= period[:, None])
