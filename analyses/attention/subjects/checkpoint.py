"""A checkpoint of Hugging Face in our Transformer, its untrained twin, and long texts in its own tokens."""

from dataclasses import replace

import torch

from analyses.attention.subjects.scores import WITHOUT_A_TABLE, equal_scores, hindrance
from toy_models.errors import ConfigError, ModelError
from toy_models.seeding import generator


class Checkpoint:
    """What a `Config` measures whose `model` names a directory; opened once, for every seed.

    Raises:
        ModelError: nothing there that can be read, or a model whose scores are not those of the study.
        ConfigError: lengths beyond the table of positions, or a text that is too short.
    """

    def __init__(self, config):
        from toy_models import from_hf

        self.config, longest = config, config.lengths[-1]
        self.model = from_hf(config.model, dtype=torch.float32, device=config.device)
        found = self.model.cfg
        if odd := hindrance(found, (*WITHOUT_A_TABLE, "embed")):
            raise ModelError(
                f"{config.model} has {odd}: this study needs scores of scale * q . k over all earlier keys; "
                f"choose a checkpoint without it"
            )
        self.n_ctx = found.n_ctx
        if found.position.where not in WITHOUT_A_TABLE and longest > self.n_ctx:
            raise ConfigError(
                f"lengths={config.lengths} go beyond the {self.n_ctx} positions that {config.model} has a table of: "
                f"--set lengths={self.n_ctx // 4},{self.n_ctx // 2},{self.n_ctx} (and last_rows in the first) fits"
            )
        self.model.cfg = replace(found, n_ctx=longest)
        self.ids = None if self.model.tokenizer is None else self._held_out()

    def room(self):
        """The options of the model, with room for the longest text."""
        return self.model.cfg

    def trained(self, seed: int):
        """The checkpoint, the same for every seed."""
        return self.model

    def untrained(self, seed: int):
        """A model of the same options with weights of our own drawing."""
        from toy_models import Transformer

        return Transformer(self.room(), seed=seed)

    def uniform(self, seed: int):
        """One head with all scores equal."""
        return equal_scores(self.room(), seed, self.config.device)

    def texts(self, seed: int):
        """(text, position): windows of the held-out text, or uniform random ids; after a start token if there is one.

        The start token is none of the random ids."""
        n, draw, bos = self.config.texts, generator(seed, "texts"), self.model.cfg.bos_id
        body = self.config.lengths[-1] - (bos is not None)
        if self.ids is None:
            tokens = torch.randint(self.model.cfg.d_vocab - (bos is not None), (n, body), generator=draw)
            tokens += 0 if bos is None else (tokens >= bos).long()
        else:
            starts = torch.randint(len(self.ids) - body + 1, (n, 1), generator=draw)
            tokens = self.ids[starts + torch.arange(body)]
        return tokens if bos is None else torch.cat([torch.full((n, 1), bos), tokens], dim=1)

    def told(self) -> dict:
        """For run.json."""
        checkpoint = {"checkpoint": {"n_ctx": self.n_ctx}}
        if self.ids is None:
            return checkpoint | {"text": {"tokens": "uniform random ids"}}
        text = {"tokens": "held-out text", "digest": self.config.task.text_digest, "held_out_tokens": len(self.ids)}
        return checkpoint | {"text": text}

    def _held_out(self):
        text = self.config.task.held_out().text.numpy().tobytes().decode("utf-8", errors="replace")
        found = self.model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        longest, place = self.config.lengths[-1], self.config.task.path or "the standard library"
        if len(found) < longest:
            raise ConfigError(
                f"the held-out text of {place} has {len(found)} tokens of {self.config.model}, "
                f"lengths={self.config.lengths} need {longest}: set task.path to a longer text, or shorter lengths"
            )
        if max(found) >= self.model.cfg.d_vocab:
            raise ModelError(
                f"the tokenizer of {self.config.model} gives token {max(found)}, the model embeds "
                f"{self.model.cfg.d_vocab}: put the tokenizer that the model was trained with beside it"
            )
        return torch.tensor(found)
