"""Copy a text token by token, behind a separator, each token given before the next is asked for.

    0  7 3 9 5  |  7 3 9         length 4: scored from the separator on; targets there 7 3 9 5

With different tokens (copy-unique) the token after the current one's first occurrence is the answer, whatever the
length.  With tokens that come back (copy-repeated) that is ambiguous, and the place has to be counted.

Sources: Jelassi et al. 2024, arXiv:2402.01032 (copying by transformers); Huang et al. 2024, arXiv:2410.02140 (which of
the two generalises to longer texts); Zhou et al. 2023, arXiv:2310.16028.
"""

from dataclasses import dataclass

import torch

from toy_models.errors import ConfigError
from toy_models.tasks import Batch
from toy_models.tasks.lengths import BOS, ManyLengths, check, draw


@dataclass(frozen=True)
class CopyText(ManyLengths):
    """Args: repeated: tokens are drawn with replacement; else all tokens of a text differ;  shortest, longest: tokens
    of the text, all lengths equally likely;  symbols: that the text is made of, 4 if repeated and else 64 unless given.

    Tokens: 0 BOS, 1 to n_symbols the text, then the separator.
    """

    repeated: bool = False
    shortest: int = 2
    longest: int = 16
    symbols: int | None = None

    def __post_init__(self):
        check(self.shortest, self.longest)
        if type(self.n_symbols) is not int or self.n_symbols < 2:
            raise ConfigError(f"symbols={self.symbols!r} must be a whole number of at least 2")
        if not self.repeated and self.n_symbols < self.longest:
            raise ConfigError(
                f"a text of longest={self.longest} different tokens needs as many symbols: there are {self.n_symbols}; "
                f"raise symbols, or set repeated=True"
            )

    @property
    def n_symbols(self) -> int:
        """Different tokens that a text is made of."""
        return (4 if self.repeated else 64) if self.symbols is None else self.symbols

    @property
    def d_vocab(self) -> int:
        """BOS, symbols, separator."""
        return 2 + self.n_symbols

    @property
    def n_ctx(self) -> int:
        """Tokens of the longest text: BOS, text, separator, and the copy but its last token."""
        return 2 * self.longest + 1

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts.  A text is right if every token of its copy is."""
        lengths = draw(self.shortest, self.longest, n, generator)[:, None]
        if self.repeated:
            text = 1 + torch.randint(self.n_symbols, (n, self.longest), generator=generator)
        else:  # ranks of uniform draws
            text = 1 + torch.rand(n, self.n_symbols, generator=generator).argsort(-1)[:, : self.longest]
        place = torch.arange(2 * int(lengths.max()) + 1)[None]
        into = place - 1 - lengths  # 0 at the separator: the next token of the copy
        first, copy = (text.gather(1, at.clamp(0, self.longest - 1)) for at in (_rows(place - 1, n), into - 1))
        tokens = torch.where(into < 0, first, torch.where(into == 0, self.n_symbols + 1, copy))
        tokens = tokens.masked_fill((place == 0) | (into >= lengths), BOS)
        scored = (into >= 0) & (into < lengths)
        answers = text.gather(1, into.clamp(0, self.longest - 1))
        return Batch(tokens, answers.masked_fill(~scored, BOS), scored)


def _rows(place: torch.Tensor, n: int) -> torch.Tensor:
    return place.expand(n, -1)
