"""One context of one length: steps, nulls and W' beside the oracle, and the best near each of three directions."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from analyses.currying.downhill.many_steps import many_steps
from analyses.currying.downhill.slopes import distillation, slope_errors
from analyses.currying.nets.asking import own_queries, without
from analyses.currying.nets.contexts import Case
from probes.currying.comparable import SMALLEST_BASELINE
from probes.currying.curried import NULLS, Curried, curry, updated
from probes.currying.directions import directions
from probes.currying.gradients import DIRECTIONS, descent
from probes.currying.oracle import Oracle
from probes.currying.report import CurryReport, compare
from probes.locality import norm, size
from toy_models.seeding import generator

SIBLING, WRONG, RANDOM = "sibling", "wrong task", "random"
# What a row is about.
METHOD, NULL, STEP, DISTILLED, CONE, DIRECTION = "method", "null", "step", "distilled", "cone", "direction"
NAN = float("nan")


def measure(model: Any, case: Case, config: Any, d_symbols: int, seed: int, whole: bool) -> list[dict]:
    """Rows of one context.

    Args:
        whole: with everything; else without several steps, step sizes by matrix and what lies near.
    """
    oracle = Oracle(model, case.context)
    fit, held, sibling, wrong = _asked(model, case, config, d_symbols, seed)
    strangers = ((SIBLING, case.sibling, sibling), (WRONG, case.wrong, wrong))
    rows, sink = [], None
    for kind, name, curried in (
        *_curried(oracle, case.context, fit, config, whole),
        *((NULL, name, curry(model, context, "sink", queries)) for name, context, queries in strangers),
    ):
        sink = curried if name == "sink" else sink
        rows.append(_row(compare(curried, oracle, held), kind, name, len(held), _distance(curried, oracle)))
    base = rows[0]["baseline_kl"]
    if not base >= SMALLEST_BASELINE:
        return rows  # there is no share to find near a direction
    draw = generator(seed, "direction", case.name, len(case.context))
    return rows + list(_near(oracle, sink, held, config, whole, draw, rows[0]))


def _asked(model: Any, case: Case, config: Any, d_symbols: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Own samples behind the context to fit on and to measure on, and behind the sibling and the wrong one."""

    def drawn(context: Tensor, n: int, words: str) -> Tensor:
        draw = generator(seed, words, case.name, len(context))
        return own_queries(model, context, n, config.query_length, draw, d_symbols)

    fit, sibling, wrong = (
        drawn(context, config.fit, words)
        for context, words in ((case.context, "fit"), (case.sibling, SIBLING), (case.wrong, WRONG))
    )
    many = drawn(case.context, 3 * config.held_out, "held out")
    return fit, without(many, fit, sibling, wrong)[: config.held_out], sibling, wrong


def _curried(
    oracle: Oracle, context: Tensor, fit: Tensor, config: Any, whole: bool
) -> Iterator[tuple[str, str, Curried]]:
    """Kind, name and W' of everything that is made from the context itself; "none" first."""

    def made(method: str, **options: Any) -> Curried:
        return curry(oracle.model, context, method, fit, **options)

    yield from ((NULL, name, made(name)) for name in NULLS)
    yield from ((METHOD, name, made(name)) for name in ("sink", "lsq_o"))
    yield from ((STEP, name, made("gradient", direction=name)) for name in DIRECTIONS)
    yield from ((DISTILLED, name, made("distill_gradient", direction=name)) for name in ("plain", "rms"))
    if whole:
        yield STEP, "by matrix", made("gradient", direction="rms", per_matrix=True)
        yield DISTILLED, "by matrix", made("distill_gradient", direction="rms", per_matrix=True)
        like = made("gradient", eta=0.0)
        for count, update in many_steps(oracle, fit, config.gd_steps).items():
            yield STEP, f"{count} steps", replace(like, model=updated(oracle.model, update), weight_update=update)


def _near(
    oracle: Oracle, sink: Curried, held: Tensor, config: Any, whole: bool, draw: torch.Generator, like: dict
) -> Iterator[dict]:
    """What lies near the gradient, near that of the distillation, and near no direction in particular."""
    own = descent(oracle)[0]
    axes, errors = {"gradient": own, "distill_gradient": distillation(oracle, sink.fit_queries)}, {}
    if whole:
        axes[RANDOM] = {
            name: g.norm() * _unit(torch.randn(g.shape, generator=draw, dtype=torch.float64)).to(g)
            for name, g in own.items()
        }
        errors = slope_errors(oracle, sink.fit_queries)
    angles, steps = (config.angles, config.cone_steps) if whole else ((0.0,), 0)
    for name, axis in axes.items():
        found = directions(sink, oracle, held, axis, angles=angles, steps=steps)
        said = {
            "weight_cosine": found.cosine.item(),
            "curried_cosine": found.step_and_curried.item(),
            "context_cosine": found.step_and_context.item(),
            "slope_error": errors.get(name, NAN),
        }
        yield {**_blank(like), "kind": DIRECTION, "method": name, **said}
        if whole:
            for angle, distance, share in zip(angles, found.within.distance, found.within.share, strict=True):
                known = {"share": share.item(), "kl": (1 - share.item()) * like["baseline_kl"]}
                yield {
                    **_blank(like),
                    "kind": CONE,
                    "method": name,
                    "angle": angle,
                    "distance": distance.item(),
                    **known,
                }


def _unit(x: Tensor) -> Tensor:
    return x / x.norm()


def _row(report: CurryReport, kind: str, name: str, queries: int, distance: float) -> dict:
    return {
        **{"kind": kind, "method": name, "angle": NAN, "kl": report.kl.item(), "distance": distance},
        "baseline_kl": report.baseline_kl.item(),
        "share": NAN if report.share_removed is None else report.share_removed,
        "rho": report.rho[-1].mean().item(),
        **dict.fromkeys(("weight_cosine", "curried_cosine", "context_cosine", "slope_error"), NAN),
        "queries": queries,
    }


def _blank(like: dict) -> dict:
    """A row of the same context that says nothing yet."""
    return {**like, "kl": NAN, "share": NAN, "distance": NAN}


def _distance(curried: Curried, oracle: Oracle) -> float:
    attention = {name: one for name, one in curried.weight_update.items() if ".attn.W_" in name}
    return norm(attention) / size(oracle.model)
