"""One context at every rank: learned pairs, fitted factors, truncated least squares, beside the nulls."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from analyses.currying.nets.asking import fit_and_held, own_queries, without
from analyses.currying.nets.ladder import pair_ladder
from analyses.currying.ranks.subjects import Subject, facts, subject
from probes.currying.curried import NULLS, Curried, curry, updated
from probes.currying.fitted import wide
from probes.currying.objective import Objective
from probes.currying.oracle import Oracle
from probes.currying.report import compare
from toy_models.seeding import generator

PAIRS, LORA, TRUNCATED = "kv_r", "lora", "lsq_o"
SIBLING, WRONG = "sibling", "wrong task"
ENOUGH = 0.9  # of the KL removed
UNKNOWN = float("nan")
Made = Iterator[tuple[str, int, Curried]]


def measure(source: str, config: Any, seed: int, index: int) -> list[dict]:
    """Every method at every rank on one context."""
    about = subject(config.net, config.pools, source, seed, index, config.device)
    context, sizes, words = about.case.context, (config.fit, config.held_out), (seed, "ranks", source, index)
    fit, held = fit_and_held(about.model, context, sizes, about.length, generator(*words), about.d_symbols)
    strangers = dict(_strangers(about, config.fit, words))
    held = without(held, *(curried.fit_queries for curried in strangers.values()))
    oracle = Oracle(about.model, context)
    goal = Objective(oracle, fit)
    every = [(name, 1, made) for name, made in strangers.items()] + list(_made(about, goal, fit, config))
    rows = [{"source": source, "index": index, "seed": seed, "method": name, "r": r, "facts": facts(context),
             **_told(made, oracle, goal, held)} for name, r, made in every]  # fmt: skip
    enough = [row["r"] for row in rows if row["method"] == PAIRS and row["share"] >= ENOUGH]
    return [{**row, "enough": min(enough, default=config.pairs + 1)} for row in rows]


def _strangers(about: Subject, n: int, words: tuple) -> Iterator[tuple[str, Curried]]:
    """Sink's W' of another context of the source, and of another source."""
    for name, other in ((SIBLING, about.case.sibling), (WRONG, about.case.wrong)):
        asked = own_queries(about.model, other, n, about.length, generator(*words, name), about.d_symbols)
        yield name, curry(about.model, other, "sink", asked)


def _made(about: Subject, goal: Objective, fit: Tensor, config: Any) -> Made:
    """(method, rank, W'), ranks rising; rank 0 is what has none."""
    model, context = about.model, about.case.context
    for name in ("kv", *NULLS):
        yield name, 0, curry(model, context, name, fit)
    yield "sink", 1, curry(model, context, "sink", fit)
    for pairs, made in enumerate(pair_ladder(model, context, fit, config.pairs, config.steps), 1):
        yield PAIRS, pairs, made
    yield from _factors(model, context, goal, fit, config)
    whole = curry(model, context, "lsq_o", fit)
    for rank in config.ranks:
        yield TRUNCATED, rank, truncated(whole, model, rank)
    yield TRUNCATED, model.cfg.d_model, whole


def _factors(model: Any, context: Tensor, goal: Objective, fit: Tensor, config: Any) -> Made:
    """LoRA at every rank; the best on the fit queries of any rank so far, since that contains the smaller ones."""
    best, least = None, float("inf")
    for rank in config.ranks:
        made = curry(model, context, "lora", fit, rank=rank, steps=config.steps)
        if (now := goal.total(made.model, made.reader)) < least:
            best, least = made, now
        yield LORA, rank, best


def truncated(whole: Curried, model: Any, rank: int) -> Curried:
    """The same update, every matrix the nearest of that rank over all heads of its layer.

    Args:
        model: the one that was curried, with W.
    """
    update = {}
    for name, change in whole.weight_update.items():
        u, s, v = torch.linalg.svd(wide(name, change), full_matrices=False)
        near = (u[:, :rank] * s[:rank]) @ v[:rank]
        if name.endswith("W_O"):
            update[name] = near.view_as(change)
        else:
            update[name] = near.unflatten(1, change.shape[::2]).transpose(0, 1)
    return replace(whole, model=updated(model, update), weight_update=update)


def _told(made: Curried, oracle: Oracle, goal: Objective, held: Tensor) -> dict:
    """What COLUMNS says of one W'."""
    report = compare(made, oracle, held)
    return {
        "kl": report.kl.item(),
        "baseline_kl": report.baseline_kl.item(),
        "share": UNKNOWN if report.share_removed is None else report.share_removed,
        "entity_error": report.entity_error.mean().item(),
        "fit_error": goal.total(made.model, made.reader),
        "queries": len(held),
    }
