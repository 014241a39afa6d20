"""What came out: did the nets of a cell fit the short texts, and did they hold at length?

    solved         accuracy at the lengths beyond training, their mean, is at least the threshold
    short only     it is not, but the accuracy at the training lengths is
    not learned    neither is: what theory says of nets that fit was not tested

A cell is judged by the medians of its seeds, or by the seed that did best at length.
"""

import numpy as np
import pandas as pd
from jaxtyping import Int

from analyses.counting.board.verdicts import NO, SILENT, YES

SOLVED, SHORT, UNLEARNED = OUTCOMES = ("solved", "short only", "not learned")
SAYINGS = (YES, SILENT, NO)
CELL = ["task", "architecture"]


def outcome(short: float, long: float, threshold: float) -> str:
    """One of OUTCOMES, from the accuracies (0 to 1) at the training lengths and beyond."""
    return SOLVED if long >= threshold else SHORT if short >= threshold else UNLEARNED


def runs(table: pd.DataFrame) -> pd.DataFrame:
    """One row per net: its cell, seed and verdict, `short` and `long`, the mean over the longer tests."""
    by = [*CELL, "verdict", "seed"]
    short = table[table.multiple == 1].set_index(by).accuracy
    long = table[table.multiple > 1].groupby(by, sort=False).accuracy.mean()
    return pd.DataFrame({"short": short, "long": long}).reset_index()


def cells(table: pd.DataFrame, threshold: float, best: bool) -> pd.DataFrame:
    """One row per cell: its verdict, `short`, `long` and `outcome`, of the median or of the best seed."""
    found = runs(table)
    groups = found.groupby([*CELL, "verdict"], sort=False)
    if best:
        cell = found.loc[groups["long"].idxmax()].drop(columns="seed").reset_index(drop=True)
    else:
        cell = groups[["short", "long"]].median().reset_index()
    cell["outcome"] = [outcome(one.short, one.long, threshold) for one in cell.itertuples()]
    return cell


def confusion(cell: pd.DataFrame) -> Int[np.ndarray, "saying outcome"]:
    """How many cells of each verdict (yes, silent, no) came out how (solved, short only, not learned)."""
    return np.array(
        [[int(((cell.verdict == said) & (cell.outcome == came)).sum()) for came in OUTCOMES] for said in SAYINGS]
    )


def agreement(cell: pd.DataFrame, verdict: str) -> tuple[int, int]:
    """Cells of a verdict, yes or no, that came out so, and those that could: whose nets fit the short texts."""
    tested = cell[(cell.verdict == verdict) & (cell.outcome != UNLEARNED)]
    return int((tested.outcome == (SOLVED if verdict == YES else SHORT)).sum()), len(tested)
