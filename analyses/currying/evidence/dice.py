"""Texts by a die that is new in each: the next symbol depends on how often each was seen, and on no order.

    0  3 1 3 3 6 ...        BOS, then throws of one die; its probabilities are uniform on the simplex

With n_s the number of times s was seen in n throws of S sides, Bayes's rule says p(s) = (n_s + 1) / (n + S).
Throws are exchangeable, so that for every text x and what is asked behind it, y,

    sum_z p(z | x, y) p(. | x, z, y) = p(. | x, y)

which is the martingale property of a predictor that learns in context.

Sources: Laplace's rule of succession; the property as a test, Falck et al. 2024, arXiv:2406.00793.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from toy_models.errors import ConfigError
from toy_models.tasks import Batch
from toy_models.tasks.hidden_source import BOS


@dataclass(frozen=True)
class NewDice:
    """Args: n_sides: tokens 1 to n_sides, behind BOS;  n_ctx: BOS included."""

    n_sides: int = 6
    n_ctx: int = 33

    def __post_init__(self):
        if self.n_sides < 2 or self.n_ctx < 4:
            raise ConfigError(f"n_sides={self.n_sides} must be 2 or more and n_ctx={self.n_ctx} 4 or more")

    @property
    def d_vocab(self) -> int:
        """BOS and the sides."""
        return 1 + self.n_sides

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts, a die each; every position is scored."""
        text = self.text(n, self.n_ctx, generator)
        tokens = torch.cat([torch.full((n, 1), BOS), text[:, :-1]], 1)
        return Batch(tokens, text, torch.ones_like(tokens, dtype=torch.bool))

    def text(self, n: int, length: int, generator: torch.Generator) -> Int[torch.Tensor, "n length"]:
        """n texts without BOS."""
        sizes = torch._standard_gamma(torch.ones(n, self.n_sides, dtype=torch.float64), generator=generator)
        return torch.multinomial(sizes, length, replacement=True, generator=generator) + 1

    def predict(self, tokens: Int[torch.Tensor, "batch pos"]) -> Float[torch.Tensor, "batch pos d_vocab"]:
        """log p(next token | text so far), nats, float64; -inf for BOS."""
        seen = torch.nn.functional.one_hot(tokens, self.d_vocab)[..., 1:].double().cumsum(1)
        total = seen.sum(-1, keepdim=True)
        said = (seen + 1) / (total + self.n_sides)
        return torch.cat([torch.zeros_like(said[..., :1]), said], -1).log()
