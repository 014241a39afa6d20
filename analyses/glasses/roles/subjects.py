"""Whose heads `head_roles` scores, and on which texts: trained here, a checkpoint, or set by hand."""

import torch
from jaxtyping import Int

from analyses.attention.subjects.trained import trained_run
from toy_models import constructed
from toy_models.errors import ConfigError, ModelError
from toy_models.seeding import generator
from toy_models.tasks.repeated_blocks import RepeatedBlocks

Tokens = Int[torch.Tensor, "text pos"]
COPIES = 3  # of a block in a text of repeats


def blocks(content: Int[torch.Tensor, " id"], bos: int | None, length: int, n: int, seed: int) -> Tokens:
    """n texts of a block of distinct tokens out of `content` that repeats, behind the start token if there is one.

    Raises:
        ConfigError: too few tokens to draw from.
    """
    period = (length - 1) // COPIES
    if len(content) < period:
        raise ConfigError(
            f"a block of {period} distinct tokens needs as many, not {len(content)}: set a shorter length"
        )
    task = RepeatedBlocks(len(content) + 1, length, shortest=period, longest=period, held_out=())
    places = task.sample(n, generator(seed, "blocks")).tokens
    ids = torch.cat([torch.tensor([-1 if bos is None else bos]), content])
    return ids[places][:, bos is None :]


class Trained:
    """A `Config` with a model to train, on held-out text; maps are fitted on the training text."""

    def __init__(self, config):
        self.config = config
        self.content = config.task.common().long()
        self.runs = {}  # by seed: to open one is to read the whole text

    def trained(self, seed: int):
        """The model after training."""
        return self._run(seed).model.to(self.config.device)

    def untrained(self, seed: int):
        """The same model at birth."""
        return self._run(seed).at(0).to(self.config.device)

    def _run(self, seed: int):
        if seed not in self.runs:
            self.runs[seed] = trained_run(self.config, seed)
        return self.runs[seed]

    def texts(self, seed: int, purpose: str) -> Tokens:
        """Windows of the held-out text; for the purpose "fit", of the training text."""
        task = self.config.task if purpose == "fit" else self.config.task.held_out()
        return task.sample(self.config.texts, generator(seed, purpose)).tokens[:, : self.config.length]

    def blocks(self, seed: int) -> Tokens:
        """Repeats of the bytes that the text has most of."""
        config = self.config
        return blocks(self.content, config.model.bos_id, config.length, config.texts, seed)

    def told(self) -> dict:
        """For run.json."""
        return {"text": {"tokens": "held-out text", "digest": self.config.task.text_digest}}


class Checkpoint:
    """A Hugging Face directory, opened once, and held-out text by its own tokenizer, or uniform random ids without one.

    Raises:
        ModelError: nothing there that can be read.
        ConfigError: a length beyond the model's table of positions, or too little text.
    """

    def __init__(self, config):
        from toy_models import from_hf

        self.config = config
        self.model = from_hf(config.model, dtype=torch.float32, device=config.device)
        found = self.model.cfg
        if config.length > found.n_ctx:
            raise ConfigError(
                f"length={config.length} is beyond the {found.n_ctx} positions of {config.model}: "
                f"--set length={found.n_ctx} fits"
            )
        self.ids = None if self.model.tokenizer is None else self._held_out()
        there = torch.arange(found.d_vocab) if self.ids is None else self.ids.unique()
        self.content = there[there != found.bos_id] if found.bos_id is not None else there

    def trained(self, seed: int):
        """The checkpoint, the same for every seed."""
        return self.model

    def untrained(self, seed: int):
        """A model of the same options with weights of our own drawing."""
        from toy_models import Transformer

        return Transformer(self.model.cfg, seed=seed)

    def texts(self, seed: int, purpose: str) -> Tokens:
        """Windows of one half of the held-out text, for the purpose "fit" of the other, behind the start token."""
        n, draw, bos = self.config.texts, generator(seed, purpose), self.model.cfg.bos_id
        body = self.config.length - (bos is not None)
        if self.ids is None:
            tokens = self.content[torch.randint(len(self.content), (n, body), generator=draw)]
        else:
            half = self.ids.tensor_split(2)[purpose == "fit"]
            tokens = half[torch.randint(len(half) - body + 1, (n, 1), generator=draw) + torch.arange(body)]
        return tokens if bos is None else torch.cat([torch.full((n, 1), bos), tokens], dim=1)

    def blocks(self, seed: int) -> Tokens:
        """Repeats of tokens that the text has."""
        return blocks(self.content, self.model.cfg.bos_id, self.config.length, self.config.texts, seed)

    def told(self) -> dict:
        """For run.json."""
        if self.ids is None:
            return {"text": {"tokens": "uniform random ids"}}
        text = {"tokens": "held-out text", "digest": self.config.task.text_digest, "held_out_tokens": len(self.ids)}
        return {"text": text}

    def _held_out(self):
        text = self.config.task.held_out().text.numpy().tobytes().decode("utf-8", errors="replace")
        found = self.model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(found) < 2 * self.config.length:
            raise ConfigError(
                f"the held-out text has {len(found)} tokens of {self.config.model}, two windows of "
                f"length={self.config.length} need {2 * self.config.length}: set task.path to a longer text"
            )
        if max(found) >= self.model.cfg.d_vocab:
            raise ModelError(
                f"the tokenizer of {self.config.model} gives token {max(found)}, the model embeds "
                f"{self.model.cfg.d_vocab}: put the tokenizer that the model was trained with beside it"
            )
        return torch.tensor(found)


class Constructed:
    """Heads set by hand, in float64, on uniform random tokens behind the start token, and on repeats of them."""

    def __init__(self, made: str, length: int, n: int):
        self.period, self.length, self.n = (length - 1) // COPIES, length, n
        self.model = getattr(constructed, made)(d_vocab=self.period + 1, n_ctx=length).double()

    def texts(self, seed: int, purpose: str) -> Tokens:
        """Independent tokens: nothing but chance tells one from another."""
        tokens = torch.randint(1, self.period + 1, (self.n, self.length), generator=generator(seed, purpose))
        return tokens.index_fill(1, torch.tensor([0]), 0)

    def blocks(self, seed: int) -> Tokens:
        """Every token once, three times over."""
        return blocks(torch.arange(1, self.period + 1), 0, self.length, self.n, seed)
