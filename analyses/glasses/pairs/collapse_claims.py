"""What `collapse_vs_length` claims, and how it is read off the table."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

import analyses.glasses.pairs.one_head as one_head
from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from analyses.glasses.pairs.models import LEARNED, NONE, ROPE, SHALLOW, STEEP
from probes.collapse import slope

MODEL, HEAD, WEIGHTS, DOUBLED, MASKED = "model", "one head", "weights", "doubled, no mask", "doubled, causal mask"
PAPER = "arXiv:2406.04267"
Measure = Callable[[Result], Sequence[float]]


def rows(result: Result, **where: str) -> pd.DataFrame:
    """The rows in which every named column has its value, from the shortest text on."""
    table = result.table
    for column, value in where.items():
        table = table[table[column] == value]
    return table.sort_values("length", kind="stable")


def slopes(table: pd.DataFrame, column: str = "l1", last: int | None = None, up_to: float = np.inf) -> pd.Series:
    """By seed, the slope of ln column against ln length, over the last so many lengths, or those up to one."""
    table = table[table.length <= up_to]
    return table.groupby("seed")[["length", column]].apply(
        lambda one: slope(one.length.tolist()[-(last or 0):], one[column].tolist()[-(last or 0):]).value
    )  # fmt: skip


def _slope(last: int | None = None, up_to: float = np.inf, column: str = "l1", **where: str) -> Measure:
    return lambda result: slopes(rows(result, **where), column, last, up_to).tolist()


def _worst(column: str, **where: str) -> Measure:
    return lambda result: rows(result, **where).groupby("seed")[column].max().tolist()


def _alternated(result: Result) -> list[float]:
    table = rows(result, case=WEIGHTS, text="alternating logits")
    return (table.l1 - table.theory).abs().groupby(table.seed).max().tolist()


def _perturbed(result: Result) -> list[float]:
    table = rows(result, case=WEIGHTS, text="perturbed prefix")
    return (table.l1 * table.length).groupby(table.seed).last().tolist()


def _broken(result: Result) -> list[float]:
    """By seed, the least relative difference among the cases that a mask or positions should tell apart."""
    table = result.table[result.table.case.isin((DOUBLED, MASKED))]
    table = table[(table.case == MASKED) | (table.position != NONE)]
    return table.groupby("seed").relative.min().tolist()


def beside_control(result: Result, text: str) -> pd.Series:
    """By seed, the slope of a repeated pair less that of the middle pair, in models without positions."""
    repeated, middle = (
        slopes(rows(result, case=MODEL, position=NONE, text=text, pair=pair), "relative", last=4)
        for pair in ("repeated", "middle")
    )
    return repeated - middle


def _ordered(result: Result) -> list[float]:
    """By seed: how many times closer "ones" are than "digits" at the longest text, without positions."""
    ones, digits = (
        rows(result, case=MODEL, position=NONE, text=text, pair="repeated").groupby("seed").linf.last()
        for text in ("ones", "digits")
    )
    return (ones / digits).tolist()


RANDOM, FLAT = {"case": HEAD, "text": "digits"}, Bound(high=-0.5)
NO_CODE = {"case": MODEL, "position": NONE, "pair": "repeated"}
CLAIMS = (
    Claim(
        "A perturbed prefix of 200 logits: n times the 1-norm of the weights' change at the longest text",
        *("replication", f"{PAPER}, figure 9; limit {one_head.PERTURBED:.2f}", Bound(19, 22), _perturbed, False),
    ),
    Claim(
        "A perturbed prefix: the change falls as n^-1 (slope over the last three lengths)",
        *("replication", f"{PAPER}, lemma B.2", Bound(-1.05, -0.9)),
        _slope(last=3, case=WEIGHTS, text="perturbed prefix"),
    ),
    Claim(
        "Logits 1010... against 0101...: the weights stay 2(e-1)/(e+1) apart at every even length (largest error)",
        *("identity", f"{PAPER}, proposition B.4", Bound(high=1e-12), _alternated),
    ),
    Claim(
        "One head without positions: z - z* = alpha* (z - v), both texts, every length (largest error)",
        *("identity", "theory/collapse.md", Bound(high=1e-12), _worst("off", case=HEAD, position=NONE)),
    ),
    Claim(
        "One head, a prefix and then one token alone: slope -2",
        *("replication", f"{PAPER}, theorem 4.2; rate in theory/collapse.md", Bound(-2.05, -1.9)),
        *(_slope(last=4, case=HEAD, text="ones", position=NONE), False),
    ),
    Claim(
        "One head, growing random text: slope -1 without positions",
        *("replication", f"{PAPER}, figure 10; rate in theory/collapse.md", Bound(-1.1, -0.9)),
        *(_slope(last=6, position=NONE, **RANDOM), False),
    ),
    Claim(
        "The same with RoPE: slope about -1/2, as if one step drew all scores anew",
        *("replication", f"{PAPER}, figure 10; rate derived here", Bound(-0.65, -0.35)),
        *(_slope(position=ROPE, **RANDOM), False),
    ),
    Claim(
        "The same with ALiBi of slope 1/2: it collapses like the others (slope -1/2 or steeper)",
        *("replication", f"{PAPER}, figure 10", FLAT, _slope(position=STEEP, **RANDOM), False),
        explanation="the penalty grows without bound, which the theorem's premise excludes: the last token competes "
        "with a window that does not grow with the text",
        source_verdict="not reproduced; premise not met",
    ),
    Claim(
        "The same with ALiBi of slope 1/256, up to 128 tokens: it collapses (slope -1/2 or steeper)",
        *("replication", f"{PAPER}, figure 10", FLAT, _slope(up_to=128, position=SHALLOW, **RANDOM), False),
        source_verdict="reproduced below 1/slope tokens",
    ),
    Claim(
        "The same with learned absolute positions: it collapses like the others (slope -1/2 or steeper)",
        *("replication", f"{PAPER}, figure 10", FLAT, _slope(position=LEARNED, **RANDOM), False),
        explanation="position n and position n + 1 carry unrelated vectors: the query itself is another one in the "
        "second text, and nothing that decays with the distance tells them apart",
        source_verdict="not reproduced with unrelated position vectors; premise not met",
    ),
    Claim(
        "No mask, no positions: every token of a text and of its doubling has the same logits (largest error, nats)",
        *("identity", f"{PAPER}, proposition 6.1", Bound(high=1e-12), _worst("linf", case=DOUBLED, position=NONE)),
    ),
    Claim(
        "A causal mask or any position code breaks it (least relative difference of eight less one cases)",
        *("replication", f"{PAPER}, proposition 6.1", Bound(low=1e-3), _broken),
    ),
    Claim(
        "Random models without positions: ones end closer together than random digits (ratio of inf-norms)",
        *("replication", f"{PAPER}, figure 5, a and b", Bound(high=1.0), _ordered),
    ),
    Claim(
        "Random models without positions: ones fall at slope -2 or so (last four lengths)",
        *("finding", "this study; one head falls as n^-2, theory/collapse.md", Bound(-2.2, -1.5)),
        *(_slope(last=4, text="ones", **NO_CODE), False),
    ),
    Claim(
        "Random models without positions: a separator after every third one keeps them apart (slope -0.5 or flatter)",
        *("replication", f"{PAPER}, figure 5, d", Bound(low=-0.5), _slope(last=4, text="separated", **NO_CODE), False),
        explanation="untrained weights average over separators as over any token: the mean differs from the last "
        "token's value, so the slope is -1 in place of -2, which delays the collapse and does not prevent it",
        source_verdict="not reproduced without training",
    ),
    Claim(
        "Ones drown their last token: they fall a power of n faster than the middle control (difference of slopes)",
        *("finding", "this study, after one head in theory/collapse.md", Bound(-1.3, -0.5)),
        *(lambda result: beside_control(result, "ones").tolist(), False),
    ),
    Claim(
        "Digits do not: their pair falls as the middle control does (difference of slopes)",
        *("finding", "this study, after one head in theory/collapse.md", Bound(-0.4, 0.4)),
        *(lambda result: beside_control(result, "digits").tolist(), False),
    ),
)
