"""A model before and after training, and the texts it is measured on: trained here, or a checkpoint of Hugging Face."""

from dataclasses import replace

import torch

from analyses.core.results import results_root
from probes.squashing import LIPSCHITZ, OTHER_BLOCKS
from toy_models.errors import ConfigError, ModelError
from toy_models.seeding import generator

TRAINED, UNTRAINED = "trained", "untrained"


def premise_missed(model) -> str | None:
    """What makes the theorem's bound unknown for a model, as "option=value", or None."""
    odd = {name: getattr(model, name) == bad for name, bad in OTHER_BLOCKS.items()}
    odd |= {"gated_mlp": model.gated_mlp, "act_fn": model.act_fn not in LIPSCHITZ and not model.attn_only}
    return ", ".join(f"{name}={getattr(model, name)}" for name, missed in odd.items() if missed) or None


class Trained:
    """The model of a `Config`, trained on windows of text as long as those that it is measured on."""

    def __init__(self, config):
        self.config, self.shape = config, replace(config.model, n_ctx=config.task.n_ctx, device="cpu")

    def model(self, condition: str, seed: int):
        """The trained model of a seed, from disk if it is there, or the same at birth."""
        from toy_models import Transformer
        from toy_models.checkpoints import RunConfig, train_or_load

        if condition == UNTRAINED:
            return Transformer(self.shape, seed=seed).to(self.config.device)
        run = RunConfig(model=self.shape, task=self.config.task, train=self.config.train, seed=seed)
        return train_or_load(run, results_root() / "checkpoints", show_progress=False).model.to(self.config.device)

    def texts(self, seed: int):
        """(text, position), held out."""
        return self.config.task.held_out().sample(self.config.texts, generator(seed, "texts")).tokens

    def told(self) -> dict:
        """For run.json."""
        return {"text": {"tokens": "held-out bytes", "digest": self.config.task.text_digest}}


class Checkpoint:
    """A checkpoint in our Transformer, and an untrained twin of the same options for every seed.

    Raises:
        ModelError: nothing there that can be read, or a tokenizer that is another model's.
        ConfigError: a text longer than the model's context, or fewer tokens than one text.
    """

    def __init__(self, config):
        from toy_models import from_hf

        self.config = config
        self.opened = from_hf(config.model, dtype=torch.float32, device=config.device)
        self.shape = self.opened.cfg
        if config.task.n_ctx > self.shape.n_ctx:
            raise ConfigError(
                f"task.n_ctx={config.task.n_ctx} goes beyond the context of {config.model}: "
                f"--set task.n_ctx={self.shape.n_ctx} or less fits"
            )
        self.ids = None if self.opened.tokenizer is None else self._held_out()

    def model(self, condition: str, seed: int):
        """The checkpoint, the same for every seed, or a twin with weights of our own drawing."""
        from toy_models import Transformer

        return self.opened if condition == TRAINED else Transformer(self.shape, seed=seed)

    def texts(self, seed: int):
        """(text, position): held-out text by the model's own tokenizer, or random ids; a start token if it has one."""
        n, draw, bos = self.config.texts, generator(seed, "texts"), self.shape.bos_id
        body = self.config.task.n_ctx - (bos is not None)
        if self.ids is None:
            tokens = torch.randint(self.shape.d_vocab, (n, body), generator=draw)
        else:
            starts = torch.randint(len(self.ids) - body + 1, (n, 1), generator=draw)
            tokens = self.ids[starts + torch.arange(body)]
        return tokens if bos is None else torch.cat([torch.full((n, 1), bos), tokens], dim=1)

    def told(self) -> dict:
        """For run.json."""
        if self.ids is None:
            return {"text": {"tokens": "uniform random ids"}}
        return {"text": {"tokens": "held-out text", "digest": self.config.task.text_digest}}

    def _held_out(self):
        text = self.config.task.held_out().text.numpy().tobytes().decode("utf-8", errors="replace")
        found = self.opened.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        n, place = self.config.task.n_ctx, self.config.task.path or "the standard library"
        if len(found) < n:
            raise ConfigError(
                f"the held-out text of {place} has {len(found)} tokens of {self.config.model}, task.n_ctx={n} needs "
                f"as many: set task.path to a longer text, or task.n_ctx to less"
            )
        if max(found) >= self.shape.d_vocab:
            raise ModelError(
                f"the tokenizer of {self.config.model} gives token {max(found)}, the model embeds "
                f"{self.shape.d_vocab}: put the tokenizer that the model was trained with beside it"
            )
        return torch.tensor(found)
