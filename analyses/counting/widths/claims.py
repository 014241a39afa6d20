"""What `counting_vs_width` claims."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from analyses.counting.widths.columns import CONSTRUCTED, EXACT, LEVEL, TRAINED, critical_widths

YEHUDAI = "Yehudai et al. 2024, arXiv:2407.15160"


def _largest_reading(frame: str) -> Callable[[Result], list[float]]:
    def measure(result: Result) -> list[float]:
        rows = result.table[(result.table.model == CONSTRUCTED) & (result.table.frame == frame)]
        return rows.groupby("seed").reading_error.max().tolist()

    return measure


def _interference(result: Result) -> list[float]:
    """Accuracy of random directions less that of the best guess, the largest of any cell."""
    rows = result.table[(result.table.model == CONSTRUCTED) & (result.table.frame == "random")]
    return (rows.accuracy - rows.guess).groupby(rows.seed).max().tolist()


def _accuracy(where: Callable[[pd.DataFrame], pd.Series], pick: str) -> Callable[[Result], list[float]]:
    """Per seed, the mean or the smallest accuracy of the trained nets there."""

    def measure(result: Result) -> list[float]:
        rows = result.table[(result.table.model == TRAINED) & where(result.table)]
        return rows.groupby("seed").accuracy.agg(pick).tolist()

    return measure


def _drop(result: Result) -> list[float]:
    """Mean accuracy at d = m less that at m / 4, over the vocabularies that have both."""
    table = result.table[result.table.model == TRAINED]
    at = [table[table.d_model * k == table.vocabulary].set_index(["seed", "vocabulary"]).accuracy for k in (1, 4)]
    return (at[0] - at[1]).dropna().groupby("seed").mean().tolist()


def _slope(result: Result) -> list[float]:
    """Per seed, the slope of ln d* over ln m; a d* outside the widths counts as their end, which flattens it."""
    found = critical_widths(result.table)
    return [
        np.polyfit(np.log(rows.vocabulary), np.log(rows.critical), 1)[0].item() for _, rows in found.groupby("seed")
    ]


CLAIMS = (
    Claim(
        sentence="Orthogonal tokens, one head, weights by hand: largest error of the count held, d >= m",
        kind="calibration",
        source=f"{YEHUDAI}, the histogram of orthogonal embeddings",
        expected=Bound(high=EXACT),
        measure=_largest_reading("orthogonal"),
    ),
    Claim(
        sentence="A simplex counts exactly with one direction fewer, d = m - 1, at a known length: largest error",
        kind="calibration",
        source="all products of two tokens are -1/(m - 1), so that what they add is known",
        expected=Bound(high=EXACT),
        measure=_largest_reading("simplex"),
    ),
    Claim(
        sentence="The same weights on random directions, d < m - 1, do not beat the best guess: accuracy above it",
        kind="replication",
        source=f"{YEHUDAI}: below d = m embeddings interfere",
        expected=Bound(high=0.0),
        measure=_interference,
    ),
    Claim(
        sentence="Trained nets count where d >= m: mean accuracy",
        kind="replication",
        source=f"{YEHUDAI}: from d = m on counting is learned",
        expected=Bound(low=0.9),
        measure=_accuracy(lambda table: table.d_model >= table.vocabulary, "mean"),
    ),
    Claim(
        sentence="Accuracy drops below the threshold: that at d = m less that at d = m / 4",
        kind="replication",
        source=f"{YEHUDAI}: a drop at the threshold",
        expected=Bound(low=0.1),
        measure=_drop,
    ),
    Claim(
        sentence=f"The critical width grows like the vocabulary: slope of ln d* over ln m (accuracy {LEVEL})",
        kind="replication",
        source=f"{YEHUDAI}: d* = m, slope 1",
        expected=Bound(low=0.75, high=1.25),
        measure=_slope,
        every=False,
        explanation="the source proves orthogonal tokens to be enough, not to be needed: below d = m they overlap, and "
        "training finds overlaps under which most counts of these texts can still be told, more so the more tokens "
        "there are; nothing marks d = m but that accuracy stops rising there",
        source_verdict="not reproduced: a slope, no threshold, and the width grows more slowly than the vocabulary",
    ),
)
