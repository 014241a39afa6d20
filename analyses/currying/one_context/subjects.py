"""Whose context is curried: a model trained here on a mixture of hidden sources, or a directory of Hugging Face."""

import re
from dataclasses import replace
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from analyses.core.results import results_root
from analyses.currying.nets.contexts import Case
from toy_models.errors import ConfigError, ModelError
from toy_models.seeding import generator

PROMPT = "prompt"  # the name of a context that the person gave


class Trained:
    """A model trained here, another one for every seed, with chains and dice of its own."""

    def __init__(self, config):
        self.config = config

    def model(self, seed: int):
        """The model after training."""
        return self._run(seed).model.to(self.config.device)

    def untrained(self, seed: int):
        """The same model at birth."""
        return self._run(seed).at(0).to(self.config.device)

    def task(self, seed: int):
        """The mixture with this seed's sources."""
        return replace(self.config.task, source_seed=self.config.task.source_seed + seed)

    def cases(self, seed: int, model) -> list[Case]:
        """One context for each source that the config names, or the prompt."""
        task, config = self.task(seed), self.config
        if config.prompt:
            return [_prompted(config, model, seed)]
        return [self._case(task, source, seed) for source in config.contexts]

    def _case(self, task, source: str, seed: int) -> Case:
        other = next(one for one in task.sources if one.split()[0] != source.split()[0])
        drawn = {
            what: task.text(name, 1, self.config.context_length, generator(seed, what, source))[0]
            for what, name in (("context", source), ("sibling", source), ("wrong", other))
        }
        return Case(source, drawn["context"], drawn["sibling"], drawn["wrong"], task.predict)

    def _run(self, seed: int):
        from toy_models.checkpoints import RunConfig, train_or_load

        model = replace(self.config.model, device="cpu")
        run = RunConfig(model=model, task=self.task(seed), train=self.config.train, seed=seed)
        return train_or_load(run, results_root() / "checkpoints", show_progress=False)


class Directory:
    """A checkpoint of Hugging Face, opened once for every seed, with the prompt that the config gives.

    Raises:
        ModelError: nothing there that can be read.
    """

    def __init__(self, config):
        self.config = config

    @cached_property
    def opened(self):
        """The checkpoint in our Transformer, in float32."""
        from toy_models import from_hf

        return from_hf(self.config.model, dtype=torch.float32, device=self.config.device)

    def model(self, seed: int):
        """The checkpoint, the same for every seed."""
        return self.opened

    def untrained(self, seed: int):
        """A model of the same options with weights of our own drawing."""
        from toy_models import Transformer

        return Transformer(self.opened.cfg, seed=seed)

    def cases(self, seed: int, model) -> list[Case]:
        """The prompt."""
        return [_prompted(self.config, model, seed)]


def _prompted(config, model, seed: int) -> Case:
    context = tokens_of(model, config.prompt, "prompt")
    order = torch.randperm(len(context), generator=generator(seed, "sibling"))
    sibling = tokens_of(model, config.sibling, "sibling") if config.sibling else context[order]
    wrong = torch.randint(model.cfg.d_vocab, (len(context),), generator=generator(seed, "wrong"))
    return Case(PROMPT, context, sibling, wrong)


def tokens_of(model, text: str, field: str) -> Int[Tensor, " pos"]:
    """Token ids of a text, without BOS: "5,17,3" are ids themselves, anything else is the tokenizer's.

    Raises:
        ConfigError: a text for a model without a tokenizer.
        ModelError: an id that the model does not embed.
    """
    if re.fullmatch(r"\d+(,\d+)*", text):
        found = [int(word) for word in text.split(",")]
    elif model.tokenizer is None:
        raise ConfigError(f"the model has no tokenizer for {field}={text!r}: give token ids, such as {field}=5,17,3")
    else:
        found = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not found or max(found) >= model.cfg.d_vocab:
        raise ModelError(
            f"{field}={text!r} has the tokens {found}, the model embeds 0 to {model.cfg.d_vocab - 1}: give others"
        )
    return torch.tensor(found)
