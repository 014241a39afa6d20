"""Whom `assay` asks: a model trained here on the prompts' bytes, or a directory of Hugging Face; and its twin."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch

from analyses.counting.asking.prompts import DIGITS, KINDS, prompt
from toy_models.errors import ConfigError, ModelError
from toy_models.tasks import Batch

BOS = 256  # an id that no byte has


def bytes_of(texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts for a model that reads bytes: BOS, then every byte as itself."""
    return [[BOS, *text.encode()] for text in texts]


@dataclass(frozen=True)
class BytePrompts:
    """Prompts with their right answers, byte by byte, every kind as often; scored on the answer's bytes.

    Args: shortest, longest: of what is asked about, all lengths alike;  longest_sum: of the sums, which make the model
    say larger numbers than the other kinds do;  separate: digits between commas, in every other text that has digits;
    0 for none.
    """

    d_vocab: ClassVar[int] = BOS + 1

    shortest: int = 2
    longest: int = 10
    longest_sum: int = 20
    separate: int = 3

    def __post_init__(self):
        if not 2 <= self.shortest <= self.longest <= self.longest_sum or self.separate < 0:
            raise ConfigError(
                f"shortest={self.shortest}, longest={self.longest}, longest_sum={self.longest_sum}, separate="
                f"{self.separate}: need 2 <= shortest <= longest <= longest_sum, and 0 or more digits between commas"
            )

    @property
    def n_ctx(self) -> int:
        """More bytes than any text has: of a word three letters and a blank, of a one and its plus two bytes."""
        return 48 + max(4 * self.longest, 2 * self.longest_sum)

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts, padded behind with BOS."""
        kinds = torch.randint(len(KINDS), (n,), generator=generator).tolist()
        shares = torch.rand(n, generator=generator).tolist()
        numbers = torch.randint(8, (n,), generator=generator).tolist()
        given, whole = [], []
        for kind, share, number in zip((KINDS[i] for i in kinds), shares, numbers, strict=True):
            longest = self.longest_sum if kind == "sum" else self.longest
            length = self.shortest + int(share * (longest + 1 - self.shortest))
            separate = self.separate if kind in DIGITS and number >= 4 else 0
            asked = prompt(kind, length, generator, text=number % 4, separate=separate)
            given.append(asked.text)
            whole.append(asked.text + asked.answers[asked.right])
        texts = [torch.tensor(text) for text in bytes_of(whole)]
        tokens = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=BOS)
        place = torch.arange(tokens.shape[1])
        first = torch.tensor([len(text) for text in bytes_of(given)])[:, None] - 1  # which predicts the answer's first
        last = torch.tensor([len(text) for text in texts])[:, None] - 1
        scored = (place >= first) & (place < last)
        following = torch.cat([tokens[:, 1:], torch.full((n, 1), BOS)], 1)
        return Batch(tokens, torch.where(scored, following, 0), scored)


class Trained:
    """A model that reads bytes, trained here; another one for every seed."""

    def __init__(self, config):
        self.config = config

    def model(self, seed: int):
        """The model after training."""
        from analyses.counting.nets.learning import learned

        return learned(self.config.model, self.config.task, self.config.train, seed).to(self.config.device)

    def untrained(self, seed: int):
        """The same model at birth."""
        from analyses.counting.nets.learning import born

        return born(self.config.model, seed).to(self.config.device)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts."""
        return bytes_of(texts)


class Directory:
    """A checkpoint of Hugging Face with its tokenizer, opened once for every seed, and a twin with random weights.

    Raises:
        ModelError: nothing there that can be read, or no tokenizer.
    """

    def __init__(self, config):
        self.config = config

    @cached_property
    def opened(self):
        """The checkpoint in our Transformer, in float32."""
        from toy_models import from_hf

        model = from_hf(self.config.model, dtype=torch.float32, device=self.config.device)
        if model.tokenizer is None:
            raise ModelError(f"{self.config.model} has no tokenizer, and the prompts are text: put its files beside it")
        return model

    def model(self, seed: int):
        """The checkpoint, the same for every seed."""
        return self.opened

    def untrained(self, seed: int):
        """A model of the same options with weights of our own drawing."""
        from toy_models import Transformer

        return Transformer(self.opened.cfg, seed=seed)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, behind BOS if the model has one."""
        found = self.opened.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        first = [] if self.opened.cfg.bos_id is None else [self.opened.cfg.bos_id]
        return [first + ids for ids in found]
