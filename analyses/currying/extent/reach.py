"""How far one context lies, how far a gradient step gets, and what its heads' messages depend on."""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from analyses.currying.extent.divergences import bare_logits, divergence, from_bayes, heads, share
from analyses.currying.extent.subjects import Subject, kept_apart
from probes.currying.comparable import SMALLEST_BASELINE
from probes.currying.curried import curry
from probes.currying.fitted import lsq
from probes.currying.gradients import descent, distill_gradient
from probes.currying.oracle import Oracle
from probes.locality import Path, norm, size, steps_against, walk

CLOSED = ("sink", "lsq_o")
NULLS = ("bias", "steer", "bigram_shift")
DIRECTIONS = ("plain", "rms")
ALPHAS = tuple(0.1 * step for step in range(1, 11))  # from W to W'
WANTED = {"distance_90": 0.9, "distance_50": 0.5}


@dataclass
class Walked:
    """Paths from W, by what they follow; and the shares of methods at their own W'."""

    paths: dict[str, Path] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    length: float = math.nan  # of sink's W' - W, over |W|

    def smallest(self, wanted: float) -> float:
        """The least distance on any path that removes this share; infinite where none does."""
        found = [path.smallest(wanted) for path in self.paths.values()]
        return min((one for one in found if one is not None), default=math.inf)

    def reached(self, *names: str) -> float:
        """The best share on these paths."""
        return max((self.paths[name].best for name in names if name in self.paths), default=math.nan)


def measured(subject: Subject, config: Any, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """What is measured of one context, by column: of the trained model, and of the untrained on the same queries."""
    fit, held = subject.asked(config.queries, seed)
    return _trained(subject, config, seed, fit, held), _untrained(subject, fit, held)


def _trained(subject: Subject, config: Any, seed: int, fit: Tensor, held: Tensor) -> dict[str, float]:
    case, model = subject.case, subject.model
    others = {
        name: subject.behind(model, x, config.queries, seed, name)
        for name, x in (("sibling", case.sibling), ("wrong", case.wrong))
    }
    held = kept_apart(held, *others.values())
    oracle = Oracle(model, case.context)
    target, bare = oracle.logits(held), bare_logits(oracle, held)
    baseline = divergence(target, bare)
    found = Walked()
    if baseline >= SMALLEST_BASELINE:
        found = _walked(subject, config, oracle, fit, held, baseline)
        for name, asked in others.items():
            stranger = curry(model, getattr(case, name), "sink", asked)
            found.shares[name] = share(divergence(target, stranger.logits(held)), baseline)
    return {
        "baseline_kl": baseline,
        "bayes_kl": from_bayes(case.exact, oracle, held, target),
        "bayes_none_kl": from_bayes(case.exact, oracle, held, bare),
        **heads(oracle, held),
        **found.shares,
        "gradient": found.reached(*DIRECTIONS),
        "distill": found.reached("distill"),
        **{column: found.smallest(wanted) for column, wanted in WANTED.items()},
        "sink_distance": found.length,
        "queries": len(held),
    }


def _untrained(subject: Subject, fit: Tensor, held: Tensor) -> dict[str, float]:
    oracle = Oracle(subject.untrained, subject.case.context)
    target = oracle.logits(held)
    baseline = divergence(target, bare_logits(oracle, held))
    row = {"baseline_kl": baseline, **heads(oracle, held), "queries": len(held)}
    if baseline >= SMALLEST_BASELINE:
        made = curry(oracle.model, oracle.context, "sink", fit)
        row["sink"] = share(divergence(target, made.logits(held)), baseline)
    return row


def _walked(subject: Subject, config: Any, oracle: Oracle, fit: Tensor, held: Tensor, baseline: float) -> Walked:
    model, context = subject.model, subject.case.context
    found, target, updates = Walked(), oracle.logits(held), {}
    for method in (*CLOSED, *NULLS):
        made = curry(model, context, method, fit)
        found.shares[method] = share(divergence(target, made.logits(held)), baseline)
        if method in CLOSED:
            updates[method] = _straight(made.weight_update)
        if method == "sink":
            found.length = norm(made.weight_update) / size(model)
    fitted = lsq(oracle, fit, objective="kl", reg=config.penalty * baseline, steps=config.steps, start="none")
    updates["lsq"] = _straight(fitted.weight_update)
    slopes = {direction: descent(oracle, direction=direction)[0] for direction in DIRECTIONS}
    downhill = distill_gradient(oracle, fit, eta=1.0).weight_update
    slopes["distill"] = {name: -change for name, change in downhill.items()}
    updates |= {name: steps_against(slope, model) for name, slope in slopes.items()}
    found.paths = _walks(oracle, held, updates)
    return found


def _straight(update: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    return [{name: alpha * change for name, change in update.items()} for alpha in ALPHAS]


def _walks(oracle: Oracle, held: Tensor, updates: dict[str, list[dict[str, Tensor]]]) -> dict[str, Path]:
    """All paths in one walk: the oracle is read and the model copied once."""
    found, points = walk(oracle, held, [update for path in updates.values() for update in path]), {}
    at = 0
    for name, path in updates.items():
        points[name] = Path(found.distance[at : at + len(path)], found.share[at : at + len(path)])
        at += len(path)
    return points
