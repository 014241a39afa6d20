"""Recall: a text of different tokens, and then one of them once more: what came after it, or before it?

    0  7 3 9 5  ?  3             after (induction): 9;  before (anti-induction): 7

The two are mirror images, and equally expressible; pretrained models are better at the first.  Source: Veitsman et al.
2025, arXiv:2505.21785, "unique right" and "unique left".
"""

from dataclasses import dataclass

import torch

from toy_models.errors import ConfigError
from toy_models.tasks import Batch
from toy_models.tasks.lengths import BOS, ManyLengths, check, draw

DIRECTIONS = ("after", "before")


@dataclass(frozen=True)
class Recall(ManyLengths):
    """Args: direction: "after" or "before";  shortest, longest: tokens of the text, all lengths equally likely;
    symbols: different tokens that it is drawn from.

    Tokens: 0 BOS, 1 to symbols the text, then the question mark.
    """

    direction: str = "after"
    shortest: int = 2
    longest: int = 16
    symbols: int = 64

    def __post_init__(self):
        check(self.shortest, self.longest, least=2)
        if self.direction not in DIRECTIONS:
            raise ConfigError(f"direction={self.direction!r} must be one of {', '.join(DIRECTIONS)}")
        if type(self.symbols) is not int or self.symbols < self.longest:
            raise ConfigError(
                f"symbols={self.symbols!r} must be a whole number of at least longest={self.longest}: tokens differ"
            )

    @property
    def d_vocab(self) -> int:
        """BOS, symbols, question mark."""
        return 2 + self.symbols

    @property
    def n_ctx(self) -> int:
        """Tokens of the longest text: BOS, text, question mark, the token asked about."""
        return self.longest + 3

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts.  The token asked about is any that has a token on the asked-for side."""
        lengths = draw(self.shortest, self.longest, n, generator)[:, None]
        text = 1 + torch.rand(n, self.symbols, generator=generator).argsort(-1)[:, : self.longest]
        left = (torch.rand(n, 1, generator=generator, dtype=torch.float64) * (lengths - 1)).long()  # of the two tokens
        pair = text.gather(1, torch.cat([left, left + 1], 1))
        known, answer = (pair[:, :1], pair[:, 1:]) if self.direction == "after" else (pair[:, 1:], pair[:, :1])
        place = torch.arange(int(lengths.max()) + 3)[None]
        tokens = text.gather(1, (place - 1).expand(n, -1).clamp(0, self.longest - 1))
        tokens = torch.where(place == lengths + 1, self.symbols + 1, tokens)
        scored = place == lengths + 2
        tokens = torch.where(scored, known, tokens).masked_fill((place == 0) | (place > lengths + 2), BOS)
        return Batch(tokens, torch.where(scored, answer, BOS), scored)
