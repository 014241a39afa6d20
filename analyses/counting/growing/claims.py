"""What `counting_vs_length` claims, and how each claim is read off its table."""

from collections.abc import Callable

import pandas as pd

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from analyses.counting.growing.columns import BFLOAT16, CAUSAL, EXACT, LSTM, NONE, RATIO, TRAINED, WITH_BOS

GLASSES = "Barbero et al. 2024, arXiv:2406.04267"


def accuracy(table: pd.DataFrame, by: list[str]) -> pd.Series:
    """Share of texts told right; every count of a length weighs as much as it has texts."""
    sums = table.groupby(by)[["right", "texts"]].sum()
    return sums.right / sums.texts


def _of(result: Result, net: str, kind: str, moment: str = TRAINED) -> pd.DataFrame:
    table = result.table
    return table[(table.net == net) & (table.kind == kind) & (table.moment == moment)]


def _at(net: str, kind: str, times: int, moment: str = TRAINED) -> Callable[[Result], list[float]]:
    """Accuracy at so many times the longest training text, one per seed."""

    def measure(result: Result) -> list[float]:
        rows = _of(result, net, kind, moment)
        return accuracy(rows[rows.length == times * result.run["config"]["longest"]], ["seed"]).tolist()

    return measure


def _difference(one: Callable, other: Callable) -> Callable[[Result], list[float]]:
    return lambda result: [a - b for a, b in zip(one(result), other(result), strict=True)]


def _error_of_large_counts(result: Result) -> list[float]:
    """Mean error over the upper half of the counts less that over the lower half, at the longest trained length."""
    longest = result.run["config"]["longest"]
    rows = _of(result, NONE, "bernoulli")
    rows = rows[rows.length == longest]
    upper = rows["count"] > longest / 2
    weighed = rows.error * rows.texts
    halves = [weighed[at].groupby(rows.seed).sum() / rows.texts[at].groupby(rows.seed).sum() for at in (upper, ~upper)]
    return (halves[0] - halves[1]).tolist()


def _ratio(net: str, pick: str) -> Callable[[Result], list[float]]:
    """Per seed, the largest or smallest difference between a text and its double over the lengths."""

    def measure(result: Result) -> list[float]:
        rows = result.table[result.table.net == net]
        return rows.groupby("seed").difference.agg(pick).tolist()

    return measure


CLAIMS = (
    Claim(
        sentence="Both ways, without positions and BOS, c ones of n and 2c of 2n are one: largest difference",
        kind="identity",
        source=f"{GLASSES}, proposition 6.1",
        expected=Bound(high=EXACT),
        measure=_ratio(RATIO, "max"),
    ),
    Claim(
        sentence="One BOS tells them apart: smallest difference",
        kind="finding",
        source="this study",
        expected=Bound(low=1e-4),
        measure=_ratio(WITH_BOS, "min"),
    ),
    Claim(
        sentence="So does a causal mask: smallest difference",
        kind="finding",
        source="this study",
        expected=Bound(low=1e-4),
        measure=_ratio(CAUSAL, "min"),
    ),
    Claim(
        sentence="Ones among zeros, no positions: errors grow with the count, upper less lower half (counts)",
        kind="replication",
        source=f"{GLASSES}, figure 3: errors grow with the count",
        expected=Bound(low=0.0),
        measure=_error_of_large_counts,
    ),
    Claim(
        sentence="Ones among zeros, no positions: accuracy lost from the trained length to ten times that",
        kind="replication",
        source=f"{GLASSES}, section 6: counting fails as texts grow",
        expected=Bound(low=0.25),
        measure=_difference(_at(NONE, "bernoulli", 1), _at(NONE, "bernoulli", 10)),
    ),
    Claim(
        sentence="An LSTM counts ones among zeros at ten times the trained length: accuracy",
        kind="replication",
        source="Weiss et al. 2018, arXiv:1805.04908: LSTMs count, well beyond the trained lengths",
        expected=Bound(low=0.9),
        measure=_at(LSTM, "bernoulli", 10),
        explanation="trained for 600 updates on at most 24 symbols, where it is not yet always right, and read as one "
        "of 25 classes; the source trains longer and asks for acceptance, not for a number",
        source_verdict="not reproduced in short training",
    ),
    Claim(
        sentence="An LSTM goes on further than a transformer without positions: difference at ten times the length",
        kind="finding",
        source="this study",
        expected=Bound(low=0.0),
        measure=_difference(_at(LSTM, "bernoulli", 10), _at(NONE, "bernoulli", 10)),
        every=False,
    ),
    Claim(
        sentence="In bfloat16 the transformer without positions counts as well at the trained length: difference",
        kind="finding",
        source="this study: counts up to 24 lie within what 8 bits tell apart",
        expected=Bound(low=-0.05, high=0.05),
        measure=_difference(_at(NONE, "bernoulli", 1), _at(NONE, "bernoulli", 1, BFLOAT16)),
        every=False,
    ),
)
