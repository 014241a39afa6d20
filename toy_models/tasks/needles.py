"""Needles in filler: at the end of the text, some questions ask for a needle by its key, others for what stands a fixed
number of tokens back.

    0  f f (k2,v5) f f f (k0,v1) f ...  f f f f  A2 B B A0        A2: the needle of key 2;  B: the token 4 back

The first kind is semantic: the answer's place does not matter, only its key does.  The second is positional: only the
place does.  One model learns both, and `at(n_ctx)` gives longer texts with the same needles, more thinly spread.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int

from toy_models.errors import ConfigError
from toy_models.tasks import Batch

BOS = 0


@dataclass(frozen=True)
class Needles:
    """Args: n_ctx: BOS and questions included;  n_keys: needles in a text, one of each key;  n_values: of a needle, all
    equally likely;  n_fillers: tokens that the rest is made of;  back: how far back a positional question asks.
    A text ends in `back` fillers and `back` questions, each of either kind with probability 1/2."""

    n_ctx: int = 64
    n_keys: int = 8
    n_values: int = 8
    n_fillers: int = 16
    back: int = 8

    def __post_init__(self):
        for name in ("n_ctx", "n_keys", "n_values", "n_fillers", "back"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be a whole number of at least 1")
        if self.n_ctx < 1 + self.n_keys + 2 * self.back:
            raise ConfigError(
                f"n_ctx={self.n_ctx} has no room for BOS, n_keys={self.n_keys} needles, back={self.back} fillers and "
                f"as many questions: it must be at least {1 + self.n_keys + 2 * self.back}"
            )

    @property
    def d_vocab(self) -> int:
        """BOS, needles, one question for each key, the positional question, fillers."""
        return self.look_back + 1 + self.n_fillers

    @property
    def look_back(self) -> int:
        """The token of the positional question."""
        return 1 + self.n_keys * self.n_values + self.n_keys

    def at(self, n_ctx: int) -> "Needles":
        """The same task in texts of another length."""
        return replace(self, n_ctx=n_ctx)

    def positional(self, batch: Batch) -> Bool[torch.Tensor, "batch pos"]:
        """Where the positional questions stand; the other scored positions hold semantic ones."""
        return batch.scored & (batch.tokens == self.look_back)

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts.  The answer to either question is a token that stands in the text."""
        tokens = self.look_back + 1 + torch.randint(self.n_fillers, (n, self.n_ctx), generator=generator)
        tokens[:, 0] = BOS
        values = torch.randint(self.n_values, (n, self.n_keys), generator=generator)
        needles = 1 + torch.arange(self.n_keys) * self.n_values + values
        body = self.n_ctx - 1 - 2 * self.back
        tokens.scatter_(1, 1 + torch.rand(n, body, generator=generator).argsort(-1)[:, : self.n_keys], needles)
        semantic = torch.rand(n, self.back, generator=generator) < 0.5
        keys = torch.randint(self.n_keys, (n, self.back), generator=generator)
        tokens[:, -self.back :] = (1 + self.n_keys * self.n_values + keys).where(semantic, self.look_back)
        targets = torch.zeros_like(tokens)
        targets[:, -self.back :] = needles.gather(1, keys).where(semantic, tokens[:, -2 * self.back : -self.back])
        return Batch(tokens, targets, (torch.arange(self.n_ctx) >= self.n_ctx - self.back).expand(n, -1))

    def distances(self, batch: Batch) -> Int[torch.Tensor, "batch pos"]:
        """From every question to the token that answers it, in tokens; 0 where nothing is asked."""
        answers = batch.targets[:, -self.back :, None] == batch.tokens[:, None, : self.n_ctx - 2 * self.back]
        place = torch.arange(self.n_ctx, device=batch.tokens.device)
        far = torch.zeros_like(batch.tokens)
        far[:, -self.back :] = place[-self.back :] - answers.long().argmax(-1)  # needles are unique in the body
        return torch.where(self.positional(batch), self.back, far)
