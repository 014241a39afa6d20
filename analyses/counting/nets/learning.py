"""Train a net on texts of many lengths, and ask it about texts of one length."""

from typing import Any

import torch
from jaxtyping import Bool

from toy_models import Transformer
from toy_models.config import TransformerConfig
from toy_models.recurrent import Recurrent
from toy_models.seeding import generator
from toy_models.tasks import Batch, Task
from toy_models.train import TrainConfig, train

TOKENS_AT_ONCE = 2**14  # in one forward pass of a test: what the processor's cache holds


def born(config: Any, seed: int) -> torch.nn.Module:
    """The untrained net of a TransformerConfig or a RecurrentConfig."""
    return (Transformer if isinstance(config, TransformerConfig) else Recurrent)(config, seed=seed)


def learned(config: Any, task: Task, settings: TrainConfig, seed: int) -> torch.nn.Module:
    """The net after training, in eval mode.

    Raises:
        TrainingError: the loss stopped being finite.
    """
    model = born(config, seed)
    model.train()
    for _ in train(model, task, settings, seed=seed, show_progress=False):
        pass
    return model.eval()


@torch.no_grad()
def right(model: torch.nn.Module, batch: Batch) -> Bool[torch.Tensor, " batch"]:
    """Per text: is the likeliest token the target at every scored position?"""
    return ((model(batch.tokens).argmax(-1) == batch.targets) | ~batch.scored).all(-1)


def accuracy(model: torch.nn.Module, task: Task, texts: int, seed: int, *words: str | int) -> float:
    """Share of `texts` texts of the task that are answered right throughout, drawn from the stream (seed, *words)."""
    stream, found = generator(seed, "test", *words), []
    while texts:
        some = min(texts, max(1, TOKENS_AT_ONCE // task.n_ctx))
        found.append(right(model, task.sample(some, stream).to(model.cfg.device)))
        texts -= some
    return torch.cat(found).double().mean().item()
