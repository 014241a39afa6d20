"""Copy one end of a run: "what is the last digit of 1...10?", or "what is the first of 01...1?"

    0  1 1 1 1 2  ?              last, length 5: the end is a 2, the answer
    0  2 1 1 1 1  ?              first
    0  1 1 , 1 1 , 2  ?          last, a separator after every second digit but the last
    0  2 1 2 1 2  ?              last, alternating: here the end goes on as the run does

The end is drawn from all symbols, whatever the run is made of, so that the run says nothing about it; with two symbols
every second text is the odd one of the source.  Source: Barbero et al. 2024, arXiv:2406.04267, section 3 and figure 2.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int

from toy_models.errors import ConfigError
from toy_models.tasks import Batch
from toy_models.tasks.lengths import answered, check, draw

ENDS = ("last", "first")


@dataclass(frozen=True)
class CopyEnd:
    """Args: which: the end that is asked for, "last" or "first";  shortest, longest: digits of a text, the end among
    them, all lengths equally likely;  symbols: different digits;  separator: digits between two separators, 0 for
    none;  alternating: the run alternates between two symbols;  odd: True, the end differs from the digit beside it;
    False, it is the same; None, it is any symbol.

    Tokens: 0 BOS, 1 to symbols the digits, then the question, then the separator (always in the vocabulary).
    """

    which: str = "last"
    shortest: int = 2
    longest: int = 32
    symbols: int = 2
    separator: int = 0
    alternating: bool = False
    odd: bool | None = None

    def __post_init__(self):
        check(self.shortest, self.longest, least=2)
        if self.which not in ENDS:
            raise ConfigError(f"which={self.which!r} must be one of {', '.join(ENDS)}")
        if type(self.symbols) is not int or self.symbols < 2:
            raise ConfigError(f"symbols={self.symbols!r} must be a whole number of at least 2")
        if type(self.separator) is not int or self.separator < 0:
            raise ConfigError(f"separator={self.separator!r} must be a whole number, 0 for no separators")

    @property
    def question(self) -> int:
        """The token that asks."""
        return 1 + self.symbols

    @property
    def d_vocab(self) -> int:
        """BOS, digits, question, separator."""
        return 3 + self.symbols

    @property
    def n_ctx(self) -> int:
        """Tokens of the longest text: BOS, digits, separators, question."""
        return 2 + self.longest + self._separators(self.longest)

    def at(self, length: int, odd: bool | None = None) -> "CopyEnd":
        """The same task at one length, with an end that differs from the digit beside it (odd=True), or is the same."""
        return replace(self, shortest=length, longest=length, odd=odd)

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts.  Every variant draws alike: the same stream gives the same run and end, with separators or not."""
        lengths = draw(self.shortest, self.longest, n, generator)
        beside = torch.randint(self.symbols, (n,), generator=generator)
        other = (beside + torch.randint(1, self.symbols, (n,), generator=generator)) % self.symbols
        free = torch.randint(self.symbols, (n,), generator=generator)
        end = free if self.odd is None else other if self.odd else beside
        place = torch.arange(self.longest)[None]
        away = lengths[:, None] - 1 - place if self.which == "last" else place.expand(n, -1)
        second = other if self.alternating else beside
        digits = torch.where(away % 2 == 1, beside[:, None], second[:, None])
        digits = 1 + torch.where(away == 0, end[:, None], digits)
        n_tokens = lengths + self._separators(lengths)
        return answered(self._separated(digits)[:, : int(n_tokens.max())], n_tokens, 1 + end, self.question)

    def _separators(self, length):
        return (length - 1) // self.separator if self.separator else 0 * length

    def _separated(self, digits: Int[torch.Tensor, "batch longest"]) -> Int[torch.Tensor, "batch tokens"]:
        place = torch.arange(self.longest)
        width = self.longest + self._separators(self.longest)
        tokens = torch.full((len(digits), width), self.question + 1)
        tokens[:, place + self._separators(place + 1)] = digits
        return tokens
