"""One context: each W' on each way beside the oracle, and how alike some of them are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from analyses.currying.distance.likeness import cosines
from analyses.currying.distance.ways import CHILD, POINT, STEPS, Point, asked, points
from analyses.currying.nets.contexts import Case
from probes.currying.oracle import Oracle
from probes.currying.report import compare
from probes.locality import norm, size

# Ends whose updates are held against each other: descents by objective and start, points by method.
PAIRS = (
    ("kl from none", "kl from sink"),
    ("entity from none", "entity from sink"),
    ("entity from none", "kl from none"),
    ("entity from none", "sink"),
    ("entity from none", CHILD),
)
BEYOND = 1.0  # the distance of what no way reached: as far as W is long


@dataclass(frozen=True)
class Measured:
    """Rows of the table, and cosine and gauge-free cosine of PAIRS."""

    rows: list[dict]
    likeness: Float[np.ndarray, "pair measure"]


def measure(model: Any, case: Case, config: Any, d_symbols: int, seed: int) -> Measured:
    """Go every way from W towards the context's W', and look."""
    oracle, ask = Oracle(model, case.context), asked(model, case, config, d_symbols, seed)
    scale, rows, ends = size(model), [], {}
    for point in points(model, case, ask, config):
        rows.append(_row(point, oracle, ask.held, scale))
        if point.path in (POINT, STEPS):  # of a descent the last is kept
            ends[f"{point.method} from {point.start}" if point.start else point.method] = point.curried
    return Measured(rows, cosines(model, ends, PAIRS))


def _row(point: Point, oracle: Oracle, held: Any, scale: float) -> dict:
    report = compare(point.curried, oracle, held)
    attention = {name: one for name, one in point.curried.weight_update.items() if ".attn.W_" in name}
    return {
        **{"path": point.path, "method": point.method, "start": point.start, "at": point.at},
        "kl": report.kl.item(),
        "baseline_kl": report.baseline_kl.item(),
        "share": float("nan") if report.share_removed is None else report.share_removed,
        "entity_error": report.entity_error.mean().item(),
        "distance": norm(attention) / scale,
        "qk_distance": report.qk_distance.mean().item(),
        "ov_distance": report.ov_distance.mean().item(),
        "queries": len(held),
    }
