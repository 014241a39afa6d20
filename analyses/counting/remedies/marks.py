"""Whether a remedy changes accuracy by more than the seeds differ, with Holm's correction over a failure's remedies.

    trained with       other nets of the same seeds: Welch's t on the accuracies, two-sided
    applied at test    the same nets: Student's t on their changes, two-sided

An accuracy is a share of N texts, so a multiple of 1 / N.  Where seeds agree their variance is not 0 but that of such
rounding, 1 / (12 N^2): a smaller one is raised to it.  A remedy with one seed has no p.

Source: Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

TRAINED, AT_TEST, BASELINE, UNTRAINED, TUNING = "trained with", "applied at test", "baseline", "untrained", "tuning"


def welch(changed: Sequence[float], baseline: Sequence[float], texts: int) -> float:
    """p of equal means of two samples, accuracies over `texts` texts each; NaN below two seeds."""
    if min(len(changed), len(baseline)) < 2:
        return float("nan")
    given = [
        number for values in (changed, baseline) for number in (np.mean(values), _deviation(values, texts), len(values))
    ]
    return float(stats.ttest_ind_from_stats(*given, equal_var=False).pvalue)


def paired(changed: Sequence[float], baseline: Sequence[float], texts: int) -> float:
    """p of a mean change of 0 in the same nets, accuracies over `texts` texts each; NaN below two seeds."""
    changes = np.subtract(changed, baseline)
    if len(changes) < 2:
        return float("nan")
    t = changes.mean() / (_deviation(changes, texts) / len(changes) ** 0.5)
    return float(2 * stats.t.sf(abs(t), len(changes) - 1))


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p: the k-th smallest of m times m - k + 1, made to rise and at most 1; NaN stays, uncounted."""
    values = np.asarray(p, dtype=float)
    adjusted, there = values.copy(), np.flatnonzero(~np.isnan(values))
    order = there[np.argsort(values[there], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    return adjusted


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """A row per failure and remedy that was run: the change of accuracy, on long texts and in training's lengths, its
    deviation over seeds, p, and p adjusted over the remedies of the failure (`adjusted`)."""
    found = []
    for failure, rows in table.groupby("failure", sort=False):
        plain = rows[rows.stage == BASELINE].set_index("seed").sort_index()
        one = [_cell(failure, remedy, of, plain) for remedy, of in _remedied(rows).groupby("remedy", sort=False)]
        frame = pd.DataFrame(one)
        if len(frame):
            found.append(frame.assign(adjusted=holm(frame.p)))
    return pd.concat(found, ignore_index=True)


def _remedied(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows.stage.isin((TRAINED, AT_TEST))]


def _cell(failure: str, remedy: str, rows: pd.DataFrame, plain: pd.DataFrame) -> dict:
    rows = rows.set_index("seed").sort_index()
    stage, texts = rows.stage.iloc[0], int(rows.texts.iloc[0])
    base = plain.loc[rows.index]
    test = paired if stage == AT_TEST else welch
    changes = rows.accuracy_long - base.accuracy_long
    return {
        "failure": failure,
        "remedy": remedy,
        "stage": stage,
        "change": changes.mean(),
        "deviation": changes.std(ddof=1) if len(changes) > 1 else float("nan"),
        "change_in": (rows.accuracy_in - base.accuracy_in).mean(),
        "n": len(changes),
        "p": test(rows.accuracy_long, base.accuracy_long, texts),
    }


def _deviation(values: Sequence[float], texts: int) -> float:
    return max(float(np.std(values, ddof=1)), 12**-0.5 / texts)
