"""One seed: steps of one matrix each, of equal change, and what contexts make of them."""

from collections.abc import Iterator

import torch
from torch import Tensor

from analyses.currying.nets.asking import own_queries, without
from probes.currying.curried import updated
from probes.currying.oracle import Oracle
from probes.currying.pairs import _absorbed
from probes.currying.sink import sink
from probes.uncurrying import after_tokens, left, loss_gradient, moved, own_attention, said, step_of, uncurry
from toy_models.seeding import generator

MATRICES = {"Q": "attn.W_Q", "K": "attn.W_K", "V": "attn.W_V", "O": "attn.W_O", "MLP": "mlp.W_in"}
GRADIENT, RANDOM, OWN = "gradient", "random", "a context"


def one_seed(job: tuple) -> tuple[list[dict], float]:
    """Rows of all sources, and how much a context moves the first layer's own attention, in float64."""
    config, seed = job
    torch.set_num_threads(1)
    model, task = config.net.trained(seed).model.to(config.device), config.net.task_of(seed)
    rows = []
    for source in config.sources:
        draw = generator(seed, "uncurry", source)
        drawn = task.text(source, config.fit + 2 * config.held_out, config.query_length, draw)
        fit, held = drawn[: config.fit], without(drawn[config.fit :], drawn[: config.fit])[: config.held_out]
        contexts = task.text(source, config.candidates, config.context_length, draw)
        told = {"source": source, "seed": seed}
        for kind, matrix, step in _steps(model, task.text(source, 64, 32, draw), fit, config.nats, draw):
            rows.append({**told, "kind": kind, "matrix": matrix, **_reached(model, step, fit, held, contexts, config)})
        rows.append({**told, "kind": OWN, "matrix": "K, V", **_own(model, contexts[0], held, config, draw)})
    return rows, _first_layer(model, task, config, seed)


def _steps(model, texts: Tensor, queries: Tensor, nats: float, draw: torch.Generator) -> Iterator[tuple]:
    """Per kind of matrix a step down the loss on texts, and one of the same change in a random direction."""
    for matrix, name in MATRICES.items():
        names = [f"blocks.{layer}.{name}" for layer in range(model.cfg.n_layers)]
        slope = loss_gradient(model, texts, names)
        noise = {one: torch.randn(g.shape, generator=draw).to(g) for one, g in slope.items()}
        down = {one: -g for one, g in slope.items()}
        for kind, direction in ((GRADIENT, down), (RANDOM, noise)):
            yield kind, matrix, step_of(model, direction, queries, nats)


def _reached(model, step: dict, fit: Tensor, held: Tensor, contexts: Tensor, config) -> dict[str, float]:
    """Shares on held-out queries, and how far the step moves what no context can."""
    found = uncurry(model, step, fit, contexts, steps=config.steps)
    target = said(updated(model, step), held)
    nothing = left(model, after_tokens(model, contexts[0, :0]), held, target)
    every = [left(model, after_tokens(model, context), held, target) for context in contexts]
    shift = moved(model, step, held)
    return {
        "change": nothing,
        "share": 1 - left(model, found.pairs, held, target) / nothing,
        "tokens_share": 1 - left(model, after_tokens(model, found.context), held, target) / nothing,
        "random_share": 1 - sum(every) / len(every) / nothing,
        "moved": shift[0].mean().item(),
        "moved_above": shift[1:].mean().item(),
    }


def _own(model, context: Tensor, held: Tensor, config, draw: torch.Generator) -> dict[str, float]:
    """The sink's edit of a context: how much of it BOS's own new pair reaches, and the context itself."""
    queries = own_queries(model, context, config.fit, config.query_length, draw, d_symbols=model.cfg.d_vocab - 1)
    oracle = Oracle(model, context)
    edit = sink(oracle, queries)
    target = said(updated(model, edit.weight_update), held)
    nothing = left(model, oracle.bare, held, target)
    shift = moved(model, edit.weight_update, held)
    itself = 1 - left(model, oracle.past, held, target) / nothing
    return {
        "change": nothing,
        "share": 1 - left(model, _absorbed(oracle, edit), held, target) / nothing,
        "tokens_share": itself,
        "random_share": itself,
        "moved": shift[0].mean().item(),
        "moved_above": shift[1:].mean().item(),
    }


def _first_layer(model, task, config, seed: int) -> float:
    """The largest difference that contexts make to the first layer's attention among the query's own tokens."""
    exact, draw = updated(model, {}).double(), generator(seed, "uncurry", "first layer")
    queries, worst = task.text(config.sources[0], 16, config.query_length, draw), 0.0
    alone = own_attention(exact, queries, after_tokens(exact, queries[0, :0]))[0]
    for context in task.text(config.sources[0], 4, config.context_length, draw):
        behind = own_attention(exact, queries, after_tokens(exact, context))[0]
        worst = max(worst, (behind - alone).abs().max().item())
    return worst
