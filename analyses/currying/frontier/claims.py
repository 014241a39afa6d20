"""What was expected of the frontier before its full run."""

import numpy as np
import pandas as pd

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result

PROTOTYPE = "this project, on a prototype"
SIMPLE, COPIED = ("chain 0", "biased die"), "copy 4"
WHO = ["source", "context", "seed"]
ORDER = "objective of nested pairs (seed, source, pairs)"


def largest(result: Result) -> pd.DataFrame:
    """Every method at the largest budget that it has a row for, first contexts alone: the others have none there."""
    table = result.table[result.table.context == 0]
    return table.loc[table.groupby([*WHO, "method"]).budget.idxmax()]


def _wide(table: pd.DataFrame, column: str) -> pd.DataFrame:
    return table.pivot(index=["source", "seed"], columns="method", values=column)


def _ratio(above: str, below: str, sources: tuple[str, ...], column: str = "kl"):
    """One method's column over another's at the largest budget, geometric mean over sources, one per seed."""

    def measured(result: Result) -> list[float]:
        wide = _wide(largest(result), column).loc[list(sources)]
        return np.exp(np.log(wide[above] / wide[below]).groupby("seed").mean()).tolist()

    return measured


def _best(at_least: int, at_most: int):
    """The largest share on the copied word of a method with so many pairs or ranks, exact ones aside, one per seed."""

    def measured(result: Result) -> list[float]:
        rows = largest(result)
        inside = rows.r.between(at_least, at_most) & ~rows.family.isin(["null", "exact"])
        return rows[inside & (rows.source == COPIED)].groupby("seed").share.max().tolist()

    return measured


def _exact(result: Result) -> list[float]:
    table = result.table
    return table[table.method == "kv"].groupby("seed").kl.max().tolist()


def _spent(result: Result) -> list[float]:
    return (result.table.spent / result.table.budget).groupby(result.table.seed).max().tolist()


def _rises(result: Result) -> list[float]:
    """Largest rise of the objective from one number of pairs to the next, over its size, one per seed."""
    found = result.arrays[ORDER]
    return (np.diff(found, axis=-1) / found[..., :-1]).max((1, 2)).tolist()


def _cost(result: Result) -> list[float]:
    wide = _wide(largest(result), "spent")
    return (wide["kv_r 1"] / wide["sink"]).groupby("seed").min().tolist()


ENOUGH, NEAR = Bound(low=0.9), Bound(high=1.35)
CLAIMS = (
    Claim("Everything kept is exact: KL of the whole cache (nats)", "identity", "causal attention; float32 rounding",
          Bound(high=1e-6), _exact),
    Claim("No method spends more than its budget: cost over budget, tuning included", "identity",
          "steps are counted before they are taken", Bound(high=1.0), _spent),
    Claim("More learned pairs are never worse on the queries of the fit: relative rise of the objective at equal steps",
          "identity", "r pairs begin at r - 1, and the best is kept", Bound(high=1e-6), _rises),
    Claim("On a chain the sink is within 35 % of one learned pair: ratio of their KL", "finding",
          f"{PROTOTYPE}: 1.22", NEAR, _ratio("sink", "kv_r 1", SIMPLE[:1]), every=False,
          explanation="where a chain's context is not one pair, descent finds a better pair than the mean"),
    Claim("So it is on a die", "finding", f"{PROTOTYPE}: 1.20 to 1.35", NEAR, _ratio("sink", "kv_r 1", SIMPLE[1:]),
          every=False),
    Claim("It costs 1/37 or less: build cost of one learned pair at the largest budget over the sink's", "finding",
          f"{PROTOTYPE}: 37", Bound(low=37.0), _cost),
    Claim("A copied word loses with whatever has r = 1: largest share of the KL removed", "finding",
          f"{PROTOTYPE}: .43 to .72", Bound(high=0.9), _best(1, 1), every=False),
    Claim("With ten pairs it does not: largest share of learned pairs or attention matching", "finding",
          f"{PROTOTYPE}: .99", ENOUGH, _best(10, 10**6), every=False),
    Claim("One closed-form key beats one kept key on chain and die: KL of attention matching at r = 1 over the sink's",
          "finding", "this project: the key of the sink meets the log mass, a kept key only its mean", Bound(low=1.0),
          _ratio("attention_matching 1", "sink", SIMPLE), every=False),
)  # fmt: skip
