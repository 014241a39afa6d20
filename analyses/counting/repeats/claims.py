"""What `repeated_token` claims, and how it is read off the table."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from analyses.counting.repeats.subjects import BARE, START, TRAINED, UNTRAINED
from probes.collapse import slope

Measure = Callable[[Result], list[float]]


def rows(result: Result, **where: str | bool) -> pd.DataFrame:
    """The rows in which every named column has its value, from the first copy on."""
    table = result.table
    for column, value in where.items():
        table = table[table[column] == value]
    return table.sort_values("k", kind="stable")


def half_copies(table: pd.DataFrame, column: str) -> pd.Series:
    """By seed, the first measured copy whose value is at most half of the first copy's; where none is, the last one
    measured, which it is beyond."""

    def first(one: pd.DataFrame) -> float:
        one = one.sort_values("k")
        reached = one.k[one[column] <= one[column].iloc[0] / 2]
        return float(reached.min() if len(reached) else one.k.max())

    return table.groupby("seed")[["k", column]].apply(first)


def _worst(column: str, **where: str) -> Measure:
    """By seed, the largest value among the rows that have one."""
    return lambda result: rows(result, **where).dropna(subset=[column]).groupby("seed")[column].max().tolist()


def _alike(result: Result) -> list[float]:
    """By seed, nothing before the copies, codes that are not added to the stream: largest distance of any layer."""
    table = rows(result, prefix=BARE)
    table = table[table.position != "learned"]
    return table[["first_layer", "last_layer"]].max(axis=1).groupby(table.seed).max().tolist()


def _slope(last: int = 4, **where: str) -> Measure:
    def measure(result: Result) -> list[float]:
        table = rows(result, **where)
        return [
            slope(one.k.tolist()[-last:], one.last_layer.tolist()[-last:]).value for _, one in table.groupby("seed")
        ]

    return measure


def _left(**where: str) -> Measure:
    """By seed, the distance behind the last layer at the last copy over that at the first."""

    def measure(result: Result) -> list[float]:
        wide = rows(result, **where).pivot(index="seed", columns="k", values="last_layer")
        return (wide[wide.columns.max()] / wide[wide.columns.min()]).tolist()

    return measure


def _as_foreseen(result: Result) -> list[float]:
    """By seed, octaves from the half-way copy of the closed form to that behind the last layer, trained."""
    table = rows(result, position="none", moment=TRAINED, **STARTED)
    return np.log2(half_copies(table, "last_layer") / half_copies(table, "first_theory")).tolist()


def _ratio(above: str, below: str, **where: str | bool) -> Measure:
    """By seed, one column over another after most copies, where both were measured."""

    def measure(result: Result) -> list[float]:
        table = rows(result, **where).dropna(subset=[above, below]).groupby("seed").last()
        return (table[above] / table[below]).tolist()

    return measure


YONA, GU = "Yona et al. 2025, arXiv:2503.08908", "Gu et al. 2024, arXiv:2410.10781"
HERE = "analyses/counting/repeats/copies.py, derived there"
OURS = "this study; bounds set on seeds 0 and 1"
STARTED = {"prefix": START, "start": True}
CLAIMS = (
    Claim(
        "Nothing before it, no positions or rope: every copy is the lone token in every layer (largest distance)",
        *("identity", f"{HERE}; {GU}, appendix C.1", Bound(high=1e-12), _alike),
    ),
    Claim(
        "No positions: the first layer's weight on the prefix is 1 / (1 + k e^c) (largest error of any head)",
        *("identity", HERE, Bound(high=1e-12), _worst("weight_off")),
    ),
    Claim(
        "No positions: what the first layer writes for the k-th copy (largest error of any coordinate)",
        *("identity", HERE, Bound(high=1e-10), _worst("first_off")),
    ),
    Claim(
        "Behind a start token copies draw near the lone token, no positions, untrained: slope behind the last layer, "
        "last three octaves",
        *("replication", f"{YONA}, theorem 4.1; rate ln(k)/k, {HERE}", Bound(-1.15, -0.6)),
        *(_slope(position="none", moment=UNTRAINED, **STARTED), False),
    ),
    Claim(
        "The same with rope, untrained: distance behind the last layer at the last copy over the first's",
        *("replication", f"{YONA}, theorem 4.1: it tends to 0", Bound(high=0.25)),
        *(_left(position="rope", moment=UNTRAINED, **STARTED), False),
    ),
    *(
        Claim(
            f"Trained models draw near as well, {position}: distance at the last copy over the first's",
            *("replication", f"{YONA}, theorem 4.1: it tends to 0", Bound(high=0.75)),
            *(_left(position=position, moment=TRAINED, **STARTED), False),
        )
        for position in ("none", "rope")
    ),
    Claim(
        "How many copies it takes stands in the first layer: octaves from the half-way copy of its closed form to that "
        "behind the last layer, trained, no positions",
        *("finding", OURS, Bound(-2.0, 2.0), _as_foreseen),
    ),
    Claim(
        "Learned positions, trained: the copies stay away from the lone token (distance at the last over the first's)",
        *("finding", OURS, Bound(low=0.5), _left(position="learned", moment=TRAINED, **STARTED), False),
    ),
    Claim(
        "Repetition spreads attention evenly: weight on position 0 over that on each further copy, nothing before",
        *("identity", f"{GU}, appendix C.1", Bound(1 - 1e-9, 1 + 1e-9)),
        _ratio("first", "each", position="none", moment=TRAINED, prefix=BARE, start=False),
    ),
    Claim(
        "No sink fires here, for there is none: largest size of a copy over that of ordinary text, trained",
        *("finding", OURS, Bound(high=2.0), _worst("size", moment=TRAINED)),
    ),
)
