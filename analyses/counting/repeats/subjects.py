"""The models of `repeated_token`: random ones, and the same after reading text, byte by byte."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int

from analyses.counting.nets.learning import born, learned
from toy_models import Transformer
from toy_models.config import TransformerConfig
from toy_models.seeding import generator
from toy_models.tasks import Batch
from toy_models.tasks.text import BOS, Text
from toy_models.train import TrainConfig

UNTRAINED, TRAINED = "untrained", "trained"
BARE, START, PROMPT = "none", "start token", "prompt"
PREFIXES = (BARE, START, PROMPT)
PROMPT_BYTES = 8


@dataclass(frozen=True)
class Bare:
    """Windows of a text without a start token: the first token of a window is any byte."""

    text: Text
    d_vocab: int = Text.d_vocab

    @property
    def n_ctx(self) -> int:
        """Bytes of a window, the last of which is a target alone."""
        return self.text.n_ctx - 1

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n windows; every byte but the first is predicted."""
        batch = self.text.sample(n, generator)
        return Batch(batch.tokens[:, 1:], batch.targets[:, 1:], batch.scored[:, 1:])


def model(shape: TransformerConfig, position: str, start: bool, text: Text, train: TrainConfig | None, seed: int):
    """A model at birth (train None), or after reading windows with a start token or without; in float64.

    Raises:
        ModelError: a position code that is not known, a text that cannot be read, or a loss that is not finite.
    """
    config = replace(shape, position=position)
    task = text if start else Bare(text)
    found: Transformer = born(config, seed) if train is None else learned(config, task, train, seed)
    return found.double()


def prefix(kind: str, start: bool, text: Text, seed: int) -> Int[torch.Tensor, " p"]:
    """Nothing, the start token, or some bytes of the text, behind the start token if there is one."""
    head = torch.full((int(start and kind != BARE),), BOS)
    return torch.cat([head, ordinary(text, PROMPT_BYTES, seed, "prompt")]) if kind == PROMPT else head


def ordinary(text: Text, n: int, seed: int, *words: str) -> Int[torch.Tensor, " n"]:
    """n bytes in a row of the text."""
    start = torch.randint(len(text.text) - n, (1,), generator=generator(seed, *words))
    return text.text[start : start + n].long()
