"""From a failure and a remedy to a net, trained with it or changed at test, and what is measured of it."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool

from analyses.counting.nets.learning import accuracy
from analyses.counting.remedies.failures import FAILURES
from analyses.counting.remedies.overhead import operations, parameters
from analyses.counting.remedies.table import REMEDIES, Remedy
from toy_models import Transformer
from toy_models.config import DTYPES, TransformerConfig
from toy_models.seeding import generator
from toy_models.tasks import Batch, Task
from toy_models.train import task_loss


@dataclass(frozen=True)
class Cell:
    """A net's config, and its task in training's lengths and on long texts."""

    config: TransformerConfig
    short: Task
    long: Task


def cell(failure: str, remedy: Remedy | None, baseline: TransformerConfig) -> Cell:
    """The baseline (no remedy), or what a remedy makes of it; vocabulary and positions are those of the texts."""
    short, long = FAILURES[failure].changed(remedy.task if remedy else {})
    texts = {"d_vocab": short.d_vocab, "d_vocab_out": short.d_vocab, "n_ctx": max(short.n_ctx, long.n_ctx)}
    return Cell(replace(baseline, **texts, **(remedy.model(short) if remedy else {})), short, long)


def changed(model: Transformer, remedy: Remedy, task: Task) -> Transformer:
    """The same weights in a model that a remedy changes at test; the model itself is left as it was."""
    config = replace(model.cfg, dtype=torch.float32, **remedy.model(task))
    twin = Transformer(config, seed=None)
    twin.load_state_dict(model.state_dict())
    return twin.to(DTYPES[remedy.dtype])


def measured(model: Transformer, made: Cell, texts: int, seed: int) -> dict[str, float]:
    """Loss and accuracies on `texts` texts that training did not show, and what the net costs.

    Texts depend on the task and the seed alone, so that all remedies that leave the task as it is answer the same.
    """
    return {
        "loss_in": held_out_loss(model, made.short, texts, seed),
        "accuracy_in": answered_right(model, made.short, texts, seed, "short"),
        "accuracy_long": answered_right(model, made.long, texts, seed, "long"),
        **cost(model, made),
    }


def answered_right(model: Transformer, task: Task, texts: int, seed: int, word: str) -> float:
    """Share of texts that are right throughout; with a scratchpad, that end in the right answer when the model writes
    it by itself, so that both are the same question."""
    if getattr(task, "scratchpad", False):
        batch = task.sample(texts, generator(seed, "test", word)).to(model.cfg.device)
        return self_written(model, batch).double().mean().item()
    return accuracy(model, task, texts, seed, word)


@torch.no_grad()
def self_written(model: Transformer, batch: Batch) -> Bool[torch.Tensor, " batch"]:
    """Per text: does the greedy continuation of the question end in the last target?"""
    asked, steps = batch.scored.int().argmax(-1), batch.scored.sum(-1)
    found = torch.zeros(len(asked), dtype=torch.bool, device=asked.device)
    for place in asked.unique().tolist():  # texts of one length go together
        rows = asked == place
        n = int(steps[rows][0])
        written = model.generate(batch.tokens[rows, : place + 1], n)[:, -1]
        found[rows] = written == batch.targets[rows, place + n - 1]
    return found


@torch.no_grad()
def held_out_loss(model: Transformer, task: Task, texts: int, seed: int) -> float:
    """Mean cross entropy of the answers (nats) on `texts` texts of training's lengths."""
    batch = task.sample(texts, generator(seed, "test", "loss")).to(model.cfg.device)
    return task_loss(model(batch.tokens), batch).item()


def cost(model: Transformer, made: Cell) -> dict[str, int]:
    """Parameters as they are and by formula; tokens of the longest text of training and of a long one, and operations
    of the latter."""
    return {
        "tokens_in": made.short.n_ctx,
        "tokens_long": made.long.n_ctx,
        "parameters": sum(p.numel() for p in model.parameters()),
        "counted": parameters(model.cfg),
        "operations": operations(model.cfg, made.long.n_ctx),
    }


def applies(failure: str, remedy: str) -> bool:
    """Whether the failure's task has what the remedy changes."""
    return FAILURES[failure].takes(REMEDIES[remedy].task)
