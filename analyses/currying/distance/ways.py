"""Ways from W to W' for one context: what lies on them, by name."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor

from analyses.currying.nets.asking import own_queries, without
from analyses.currying.nets.contexts import Case
from probes.currying.curried import NULLS, Curried, curry, interpolate
from probes.locality import norm, size
from toy_models.seeding import generator

SIBLING, WRONG, CHILD = "sibling", "wrong task", "child"
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
LENGTHS = tuple(2.0**-power for power in range(8, 0, -1))  # of a gradient step, over |W|
RANKS = (1, 4)  # of lora
SCANNED = ("sink", "lsq")
OBJECTIVES, STARTS = ("entity", "kl"), ("none", "sink")
# What `at` counts.
POINT, ALPHA, LENGTH, REG, RANK, STEPS = "", "alpha", "length", "reg", "rank", "steps"


@dataclass(frozen=True)
class Asked:
    """Own samples behind a context: to fit on, and others to measure on; to fit the sibling's and the wrong task's W'
    on, behind theirs; and texts to train the child on."""

    fit: Int[Tensor, "fit query"]
    held: Int[Tensor, "held query"]
    sibling: Int[Tensor, "sibling query"]
    wrong: Int[Tensor, "wrong query"]
    samples: Int[Tensor, "sample query"]


@dataclass(frozen=True)
class Point:
    """One W' on a way: `at` is how far along, in what `path` names; nan for a point of its own."""

    path: str
    method: str
    curried: Curried
    at: float = float("nan")
    start: str = ""


def asked(model: Any, case: Case, config: Any, d_symbols: int, seed: int) -> Asked:
    """Queries of one context; none that is held out was fitted on."""

    def drawn(context: Tensor, n: int, words: str) -> Tensor:
        return own_queries(model, context, n, config.query_length, generator(seed, words, case.name), d_symbols)

    fit, samples = drawn(case.context, config.fit, "fit"), drawn(case.context, config.samples, "samples")
    sibling, wrong = drawn(case.sibling, config.fit, "sibling"), drawn(case.wrong, config.fit, "wrong")
    many = drawn(case.context, 3 * config.held_out, "held out")
    return Asked(fit, without(many, fit, samples, sibling, wrong)[: config.held_out], sibling, wrong, samples)


def points(model: Any, case: Case, ask: Asked, config: Any) -> Iterator[Point]:
    """Every W' of one context: nulls, closed forms, fits, the child, and the ways that go through some of them."""

    def made(method: str, queries: Tensor = ask.fit, **options: Any) -> Curried:
        return curry(model, case.context, method, queries, **options)

    for name in NULLS:
        yield Point(POINT, name, made(name))
    for name, context, queries in ((SIBLING, case.sibling, ask.sibling), (WRONG, case.wrong, ask.wrong)):
        yield Point(POINT, name, curry(model, context, "sink", queries))
    yield Point(POINT, "lsq_o", made("lsq_o"))
    yield Point(POINT, "gradient", made("gradient"))
    yield Point(POINT, "distill_gradient", made("distill_gradient"))
    yield Point(POINT, CHILD, made("finetune", ask.samples, steps=2 * config.steps, lr=config.lr))
    for rank in RANKS:
        yield Point(RANK, "lora", made("lora", rank=rank, steps=config.steps, lr=config.lr), rank)
    ends = {"sink": made("sink")}
    for reg in config.regs:
        fitted = made("lsq", reg=reg, steps=config.steps, lr=config.lr)
        ends.setdefault("lsq", fitted)
        yield Point(REG, "lsq", fitted, reg)
    for name in SCANNED:
        yield Point(POINT, name, ends[name])
        yield from (Point(ALPHA, name, interpolate(ends[name], alpha), alpha) for alpha in ALPHAS)
    yield from _steps_downhill(made("gradient", eta=1.0), size(model))
    yield from descents(made, config.fit_steps, config.lr)


def _steps_downhill(step: Curried, scale: float) -> Iterator[Point]:
    """Steps along the gradient that a step of rate 1 was made of, of LENGTHS."""
    unit = scale / norm(step.weight_update)
    for length in LENGTHS:
        yield Point(LENGTH, "gradient", interpolate(step, length * unit), length)


def descents(made: Callable[..., Curried], steps: tuple[int, ...], lr: float) -> Iterator[Point]:
    """Whole matrices fitted for either objective, from either start, for so many steps; 0 is the start."""
    for objective in OBJECTIVES:
        for start in STARTS:
            for n in (0, *steps):
                fitted = made("lsq", objective=objective, start=start, steps=n, lr=lr)
                yield Point(STEPS, objective, fitted, n, start)
