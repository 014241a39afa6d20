"""What no reader can tell apart: a sentence and its swap, where every head gives the two fillers equal weights."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Int

from analyses.glasses.averaging.measures import mirrored, places
from probes import names
from toy_models.constructed import answering_heads
from toy_models.tasks import Batch
from toy_models.tasks.who_did_what import WhoDidWhat

EQUAL = ((0.5, 0.5, 0.0),)


def swapped(batch: Batch) -> Int[torch.Tensor, "sentence pos"]:
    """The same sentences with the fillers of WHO and WHOM exchanged."""
    at = places(batch.tokens)
    return batch.tokens.scatter(-1, at, batch.tokens.gather(-1, at.flip(-1)))


@contextmanager
def equal_weights(model, at: Int[torch.Tensor, "sentence role"]) -> Iterator[None]:
    """Inside the block every head of the last layer gives the question half of each of these two positions."""

    def edit(pattern, hook):
        new = pattern.clone()
        both = at[:, None].expand(-1, pattern.shape[1], -1)
        new[:, :, -1] = torch.zeros_like(pattern[:, :, -1]).scatter(-1, both, 0.5)
        return new

    with model.hooks(fwd_hooks=[(names.pattern(model.cfg.n_layers - 1), edit)]):
        yield


def forced_equal(model, task: WhoDidWhat, batch: Batch) -> tuple[float, float]:
    """A model of one layer with its weights made equal, in float64: the largest difference between the logits of a
    sentence and of its swap, and the share of both that is answered right."""
    exact = copy.deepcopy(model).double()
    with torch.no_grad(), equal_weights(exact, places(batch.tokens)):
        first, second = exact(batch.tokens)[:, -1], exact(swapped(batch))[:, -1]
    answers = batch.targets[:, -1]
    right = torch.cat([first.argmax(-1) == answers, second.argmax(-1) == mirrored(task, answers)])
    return (first - second).abs().max().item(), right.double().mean().item()


@torch.no_grad()
def lead(task: WhoDidWhat, shares, batch: Batch) -> float:
    """The least lead of the right answer of constructed heads over any other, in float64, at scale 1."""
    found, right = answering_heads(task, shares).double()(batch.tokens)[:, -1], batch.targets[:, -1:]
    return (found.gather(-1, right)[:, 0] - found.scatter(-1, right, -torch.inf).amax(-1)).min().item()


@torch.no_grad()
def difference_at_equal_shares(task: WhoDidWhat, batch: Batch) -> float:
    """Of the logits of a sentence and its swap, one constructed head, in float64: the largest."""
    model = answering_heads(task, EQUAL).double()
    return (model(batch.tokens)[:, -1] - model(swapped(batch))[:, -1]).abs().max().item()
