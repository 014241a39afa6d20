"""Some contexts of one source: every method's W', held against its own oracle and against the next context's."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from analyses.currying.every_method.methods import NULL, PAIRS, PREFIX, SETTINGS, WRONG, Setting
from analyses.currying.nets.asking import fit_and_held, own_queries, without
from analyses.currying.nets.contexts import Case, mixed
from analyses.currying.nets.ladder import pair_ladder
from probes.currying.curried import Curried, curry
from probes.currying.objective import Objective
from probes.currying.oracle import Oracle
from probes.currying.report import compare
from toy_models.seeding import generator
from toy_models.tasks.hidden_source import BOS
from toy_models.tasks.in_deployment import InDeployment

UNKNOWN = float("nan")
Made = tuple[Setting, Curried]


@dataclass(frozen=True)
class Asked:
    """One context with its oracle and queries; `held` are new to every fit that is held against it."""

    case: Case
    oracle: Oracle
    fit: Int[Tensor, "fit query"]
    held: Int[Tensor, "held query"]
    uniform: Int[Tensor, "fit query"]
    stranger: Curried
    posterior: float


def measure(model: Any, task: InDeployment, source: str, config: Any, seed: int) -> list[dict]:
    """Rows of every method on every context of a source; a context's sibling is the next of them."""
    asked = [_asked(model, task, source, config, seed, i) for i in range(config.contexts)]
    made = [_made(model, one, config) for one in asked]
    rows = []
    for i, one in enumerate(asked):
        after = (i + 1) % len(asked)
        held = without(one.held, asked[after].fit)
        goal = Objective(one.oracle, one.fit)
        for label, (setting, curried) in made[i].items():
            sibling = made[after][label][1] if setting.shared else None
            told = _told(one, setting, curried, held, sibling)
            told["fit_error"] = UNKNOWN if setting.uniform else goal.total(curried.model, curried.reader)
            rows.append({"source": source, "index": i, "seed": seed, **told})
        wrong = _told(one, Setting(WRONG, "sink", NULL, 1), one.stranger, held, None)
        rows.append({"source": source, "index": i, "seed": seed, **wrong, "fit_error": UNKNOWN})
    return rows


def _asked(model: Any, task: InDeployment, source: str, config: Any, seed: int, index: int) -> Asked:
    """A context, samples of the model behind it, and the W' that knows another task's context."""
    case = mixed(task, source, config.context_length, seed, index)
    words = (seed, "every method", source, index)
    sizes, length = (config.fit, config.held_out), config.query_length
    fit, held = fit_and_held(model, case.context, sizes, length, generator(*words, "own"), task.switch)
    uniform = torch.randint(1, task.switch, (config.fit, length), generator=generator(*words, "uniform"))
    other = own_queries(model, case.wrong, config.fit, length, generator(*words, WRONG), task.switch)
    text = torch.cat([torch.tensor([BOS]), case.context])[None]
    return Asked(
        case=case,
        oracle=Oracle(model, case.context),
        fit=fit,
        held=without(held, uniform, other),
        uniform=uniform,
        stranger=curry(model, case.wrong, "sink", other),
        posterior=task.posterior(text)[0, -1, task.sources.index(source)].item(),
    )


def _made(model: Any, asked: Asked, config: Any) -> dict[str, Made]:
    """Every method's W' of a context, by label."""
    context, found = asked.case.context, {}
    for setting in SETTINGS:
        queries = asked.uniform if setting.uniform else asked.fit
        options = {**setting.options, **({"steps": config.steps} if setting.descends else {})}
        found[setting.label] = (setting, curry(model, context, setting.method, queries, **options))
    pairs = pair_ladder(model, context, asked.fit, max(PAIRS), config.steps)
    return found | {f"kv_r {r}": (Setting(f"kv_r {r}", "kv_r", PREFIX, r), pairs[r - 1]) for r in PAIRS}


def _told(asked: Asked, setting: Setting, curried: Curried, held: Tensor, sibling: Curried | None) -> dict:
    """What COLUMNS says of one W', but for where it comes from and how well it was fitted."""
    report = compare(curried, asked.oracle, held, sibling=sibling)
    known = report.share_removed is not None
    kl, baseline, own = report.kl.item(), report.baseline_kl.item(), report.context_share
    sibling_kl = UNKNOWN if own is None else kl / (1 - own)
    return {
        "method": setting.label,
        "family": setting.family,
        "r": setting.r,
        "kl": kl,
        "baseline_kl": baseline,
        "share": report.share_removed if known else UNKNOWN,
        "sibling_share": 1 - sibling_kl / baseline if known else UNKNOWN,
        "context_share": UNKNOWN if own is None else own,
        "entity_error": report.entity_error.mean().item(),
        "bytes": report.stored_bytes,
        "token_forwards": report.token_forwards,
        "posterior": asked.posterior,
        "queries": len(held),
    }
