"""One context of one model: every method beside the oracle, on queries that it was not fitted on."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.currying.nets.asking import own_queries, without
from analyses.currying.nets.contexts import Case
from analyses.currying.one_context.methods import NULL, OTHERS, SHARED, Setting, chosen, left_out, settings
from probes.currying.curried import Curried, curry
from probes.currying.oracle import Oracle
from probes.currying.reading import uniform_queries
from probes.currying.report import CurryReport, compare
from probes.errors import ProbeInputError
from toy_models.seeding import generator

OWN, UNIFORM = "own", "uniform"
SIBLING, WRONG = "sibling", "wrong task"


@dataclass
class Measured:
    """Rows of the table; rho and gate (layer, head), of the untrained model too; what refused, and why; the relative
    error of the cache."""

    rows: list[dict] = field(default_factory=list)
    rho: np.ndarray | None = None
    gate: np.ndarray | None = None
    born_rho: np.ndarray | None = None
    born_gate: np.ndarray | None = None
    refused: dict[str, str] = field(default_factory=dict)
    cache_error: float = float("nan")


def measure(model, born, case: Case, config, seed: int) -> Measured:
    """Curry the context by every method, and compare.

    Args:
        born: the model before it was trained: what its heads take from a context is the control.
    """
    oracle = Oracle(model, case.context)
    contexts = {"context": case.context, SIBLING: case.sibling, WRONG: case.wrong}
    fit = {name: queries(model, x, config, seed, f"fit {name} {case.name}") for name, x in contexts.items()}
    drawn = queries(model, case.context, config, seed, f"held out {case.name}", held_out=True)
    held = without(drawn, *fit.values())
    directory = isinstance(config.model, str)
    found = Measured(refused=left_out(config.methods, directory))
    found.born_rho, found.born_gate = _heads(Oracle(born, case.context), held, found.refused)
    whole = _whole(oracle, held)
    for setting in settings(config.steps, oracle.text.shape[1], chosen(config.methods, directory)):
        try:
            made = _curry(model, case.context, setting, fit["context"])
            sibling = _curry(model, case.sibling, setting, fit[SIBLING]) if setting.method in SHARED else None
        except ProbeInputError as error:
            found.refused[setting.label] = str(error)
            continue
        _compared(found, setting.label, setting, made, oracle, held, case, sibling)
        if setting.method == "kv":
            found.cache_error = ((made.logits(held) - whole).norm() / whole.norm()).item()
        if setting.method == OTHERS:
            stranger = _curry(model, case.wrong, setting, fit[WRONG])
            null = Setting(OTHERS, {}, 1)
            for name, other in ((SIBLING, sibling), (WRONG, stranger)):
                _compared(found, name, null, other, oracle, held, case, None)
    return found


def _curry(model, context: Tensor, setting: Setting, fit: Tensor) -> Curried:
    return curry(model, context, setting.method, fit, **setting.options)


def _compared(
    found: Measured,
    label: str,
    setting: Setting,
    made: Curried,
    oracle: Oracle,
    held: Tensor,
    case: Case,
    sibling: Curried | None,
) -> None:
    report = compare(made, oracle, held, sibling=sibling, exact=case.exact)
    found.rho, found.gate = report.rho.numpy(), report.gate.numpy()
    family = NULL if label in (SIBLING, WRONG) else setting.family
    found.rows.append(
        {"method": label, "family": family, "r": setting.r, **_numbers(report, made)} | {"queries": len(held)}
    )


def _numbers(report: CurryReport, made: Curried) -> dict[str, float]:
    """What COLUMNS says, of one report."""

    def known(share: float | None) -> float:
        return float("nan") if share is None else share

    return {
        "kl": report.kl.item(),
        "baseline_kl": report.baseline_kl.item(),
        "share": known(report.share_removed),
        "context_share": known(report.context_share),
        "entity_error": report.entity_error.mean().item(),
        "top1": report.top1.item(),
        "bayes_kl": float("nan") if report.exact_kl is None else report.exact_kl[1].item(),
        "bytes": report.stored_bytes,
        "token_forwards": report.token_forwards,
        "same_space": made.same_space,
        "weight_distance": report.weight_distance.max().item(),
    }


@torch.no_grad()
def _whole(oracle: Oracle, held: Tensor) -> Float[Tensor, "batch query d_vocab"]:
    """Logits of the query's rows from one pass over BOS, context and query, without any cache."""
    text = torch.cat([oracle.text.expand(len(held), -1), held], 1)
    return oracle.model(text.to(oracle.model.cfg.device))[:, oracle.text.shape[1] :]


def _heads(oracle: Oracle, held: Tensor, refused: dict[str, str]) -> np.ndarray:
    """rho and mean gate (2, layer, head); nan, and the reason noted, where a model has none."""
    try:
        heads = oracle.heads(held)
    except ProbeInputError as error:
        refused["rho and gate"] = str(error)
        return np.full((2, oracle.model.cfg.n_layers, oracle.model.cfg.n_heads), np.nan)
    rho = torch.stack([one.rho.double() for one in heads])
    return torch.stack([rho, torch.stack([one.gate.double().mean((0, 2)) for one in heads])]).cpu().numpy()


# Queries ------------------------------------------------------------------------------------------


def queries(
    model, context: Tensor, config, seed: int, words: str, held_out: bool = False
) -> Int[Tensor, "batch query"]:
    """What stands behind a context: uniform tokens, or the model's own samples from there, those with BOS left out."""
    asked, draw = config.queries, generator(seed, words)
    n = asked.held_out if held_out else asked.fit
    if asked.source == UNIFORM:
        return uniform_queries(model, n, asked.length, draw)
    return own_queries(model, context, n, asked.length, draw)
