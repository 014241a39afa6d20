"""What is read off the rows of one seed: entities at equal KL, the least distance, the end of a scan."""

import numpy as np
import pandas as pd

from analyses.currying.distance.measuring import BEYOND
from analyses.currying.distance.ways import ALPHA, OBJECTIVES, REG, STARTS, STEPS
from probes.locality import WANTED


def log_ratio(rows: pd.DataFrame, start: str) -> float:
    """ln of the entity error of a descent in KL over that of a descent in entities, where both have the same KL.

    That KL is the least that both reach; entity errors between two step counts are interpolated, logarithms linearly.
    """
    descents = rows[(rows.path == STEPS) & (rows.start == start)].sort_values("at")
    entity, output = (descents[descents.method == objective] for objective in OBJECTIVES)
    level = max(entity.kl.min(), output.kl.min())
    return _log_error_at(output, level) - _log_error_at(entity, level)


def _log_error_at(descent: pd.DataFrame, level: float) -> float:
    """ln entity error where a descent's KL first comes down to `level`."""
    kl, error = np.log(descent.kl.to_numpy()), np.log(descent.entity_error.to_numpy())
    first = int(np.argmax(kl <= np.log(level)))
    if not first:
        return error[0]
    before = first - 1
    share = (kl[before] - np.log(level)) / (kl[before] - kl[first])
    return error[before] + share * (error[first] - error[before])


def spread_over_starts(rows: pd.DataFrame, objective: str) -> float:
    """|ln| of the ratio of the entity errors at which descents from the two starts end."""
    ends = rows[(rows.path == STEPS) & (rows.method == objective)].sort_values("at").groupby("start").entity_error
    return float(np.ptp(np.log(ends.last().loc[list(STARTS)])))


def smallest(rows: pd.DataFrame) -> float:
    """The least distance of any W' that removes WANTED of the KL; BEYOND where none does."""
    there = rows[(rows.distance > 0) & (rows.share >= WANTED)].distance
    return float(there.min()) if len(there) else BEYOND


def best_alpha(rows: pd.DataFrame, method: str) -> float:
    """The alpha of the least KL."""
    scan = rows[(rows.path == ALPHA) & (rows.method == method)]
    return float(scan.loc[scan.kl.idxmin(), "at"])


def scan_error(rows: pd.DataFrame) -> float:
    """The largest |difference| in KL of the scans at 0 and 1 from no edit and from the method itself (nats)."""
    worst = 0.0
    for method, scan in rows[rows.path == ALPHA].groupby("method"):
        kl = scan.set_index("at").kl
        known = {name: rows[(rows.path == "") & (rows.method == name)].kl.item() for name in ("none", method)}
        worst = max(worst, abs(kl[0.0] - known["none"]), abs(kl[1.0] - known[method]))
    return worst


def share_at_half_the_way(rows: pd.DataFrame) -> float:
    """The largest share of a penalised fit that goes at most half as far as the one without a penalty; 0 if none."""
    fits = rows[rows.path == REG].sort_values("at")
    near = fits[fits.distance <= fits.distance.iloc[0] / 2]
    return max(float(near.share.max()), 0.0) if len(near) else 0.0
