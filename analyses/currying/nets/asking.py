"""Queries behind a context: samples of the model itself, those to fit on and those to be held against."""

import torch
from jaxtyping import Int
from torch import Tensor

from analyses.core.errors import WorkbenchError
from probes.currying.reading import uniform_queries
from toy_models.generation import choose

ROUNDS = 8  # of drawing again


def own_queries(
    model, context: Int[Tensor, " context"], n: int, length: int, draw: torch.Generator, d_symbols: int | None = None
) -> Int[Tensor, "fewer query"]:
    """n samples of the model behind BOS and a context, less those with BOS in them, or a token of `d_symbols` on."""
    bos = model.cfg.bos_id
    start = torch.cat([torch.tensor([] if bos is None else [bos], dtype=torch.long), context])
    text = _continued(model, start, n, length, draw)
    if bos is not None:
        text = text[(text != bos).all(1)]
    return text if d_symbols is None else text[(text < d_symbols).all(1)]


def fit_and_held(
    model,
    context: Int[Tensor, " context"],
    sizes: tuple[int, int],
    length: int,
    draw: torch.Generator,
    d_symbols: int | None = None,
) -> tuple[Int[Tensor, "fit query"], Int[Tensor, "held query"]]:
    """Own queries to fit on and others to be held against, at most `sizes` of each, none of them in both.

    Raises:
        WorkbenchError: no query is left for one of the two.
    """
    fit, held = sizes
    drawn = own_queries(model, context, fit + 2 * held, length, draw, d_symbols)
    for _ in range(ROUNDS):  # an untrained model says BOS in most of its texts
        if len(drawn) >= fit + held:
            break
        drawn = torch.cat([drawn, own_queries(model, context, fit + 2 * held, length, draw, d_symbols)])
    return drawn[:fit], without(drawn[fit:], drawn[:fit])[:held]


def uniform_fit_and_held(
    model, sizes: tuple[int, int], length: int, draw: torch.Generator
) -> tuple[Int[Tensor, "fit query"], Int[Tensor, "held query"]]:
    """What an untrained model is asked: uniform tokens.  It may say BOS at every other place, and then nearly no text
    of its own is without."""
    fit, held = uniform_queries(model, sum(sizes), length, draw).split(sizes)
    return fit, without(held, fit)


def without(drawn: Int[Tensor, "batch query"], *fitted: Int[Tensor, "rows query"]) -> Int[Tensor, "fewer query"]:
    """The held-out queries that no fit has seen: samples of a periodic text repeat each other.

    Raises:
        WorkbenchError: none is left.
    """
    seen = {tuple(row) for one in fitted for row in one.tolist()}
    new = [row for row in drawn.tolist() if tuple(row) not in seen]
    if not new:
        raise WorkbenchError(
            f"all of queries.held_out={len(drawn)} queries were fitted on: set queries.length above {drawn.shape[1]}, "
            f"or queries.source=uniform"
        )
    return torch.tensor(new)


@torch.no_grad()
def _continued(
    model, start: Int[Tensor, " pos"], n: int, length: int, draw: torch.Generator
) -> Int[Tensor, "batch query"]:
    """n samples of the model behind one text, which it reads once for all of them."""
    past = model.empty_cache()
    logits = model(start[None].to(model.cfg.device), past=past)[:, -1].expand(n, -1)
    past, text = past.prefix(past.length, n), []
    for _ in range(length):
        if text:
            logits = model(text[-1][:, None], past=past)[:, -1]
        text.append(choose(logits, 1.0, draw))
    return torch.stack(text, 1).cpu()
