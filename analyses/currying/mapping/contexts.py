"""Contexts of every source, curried on the same queries: what they say, and where their weights lie."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.currying.nets.asking import fit_and_held
from probes.currying.curried import Curried, curry
from toy_models.seeding import generator


@dataclass(frozen=True, eq=False)
class Mapped:
    """Contexts in the order of their sources.  `updates`: W' - W, each matrix over |W|;  `logs`: log p of W'."""

    source: list[str]
    contexts: list[Int[Tensor, " context"]]
    made: list[Curried]
    updates: Float[Tensor, "context number"]
    logs: Float[Tensor, "context row d_vocab"]


def drawn(config, task, seed: int) -> list[tuple[str, Int[Tensor, " context"]]]:
    """Contexts of every source, with its name."""
    return [
        (source, text)
        for source in config.sources
        for text in task.text(source, config.contexts, config.context_length, generator(seed, "context", source))
    ]


def mapped(config, model, writer, contexts: list[tuple[str, Tensor]], task, seed: int) -> Mapped:
    """Curry every context by sink.

    Args:
        writer: the model whose samples behind BOS alone are the queries: one and the same for all contexts, and for
            the untrained model too.
    """
    nothing, draw = torch.tensor([], dtype=torch.long), generator(seed, "asked")
    fit, held = fit_and_held(writer, nothing, config.queries, config.query_length, draw, task.switch)
    made = [curry(model, text, "sink", fit) for _, text in contexts]
    flat = [
        torch.cat([(change.double() / model.get_parameter(name).detach().double().norm()).flatten()
                   for name, change in sorted(one.weight_update.items())])
        for one in made
    ]  # fmt: skip
    logs = [one.logits(held).double().log_softmax(-1).flatten(0, 1) for one in made]
    source = [name for name, _ in contexts]
    return Mapped(source, [text for _, text in contexts], made, torch.stack(flat), torch.stack(logs))
