"""What `sharpness_vs_length` claims, and how each claim is read off its table."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from analyses.glasses.retrieval.nets import ADAPTIVE, LOG_N, MAX_RETRIEVAL, NEEDLE, SOFTMAX, TRAINED, UNTRAINED
from analyses.glasses.retrieval.scores import BOUNDED, BOUNDED_LIMIT, CONSTRUCTED, EQUAL, UNIFORM

JUDGED = 4096  # items: the longest sets that the claims on accuracies look at; beyond, all is near chance


def _of(result: Result, model: str, task: str, normaliser: str = SOFTMAX) -> pd.DataFrame:
    table = result.table
    rows = table[(table.model == model) & (table.task == task) & (table.normaliser == normaliser)]
    return rows.sort_values(["seed", "length"])


def _by_length(result: Result, column: str, normaliser: str = SOFTMAX, task: str = MAX_RETRIEVAL) -> pd.DataFrame:
    """(seed, length) of the trained net, up to the judged length."""
    rows = _of(result, TRAINED, task, normaliser)
    return rows[rows.length <= JUDGED].pivot(index="seed", columns="length", values=column)


def _shortest(column: str) -> Callable[[Result], list[float]]:
    return lambda result: _by_length(result, column).iloc[:, 0].tolist()


def _longest(column: str) -> Callable[[Result], list[float]]:
    return lambda result: _by_length(result, column).iloc[:, -1].tolist()


def _steps(column: str, worst: Callable) -> Callable[[Result], list[float]]:
    """The worst change of a column from one length to the next."""
    return lambda result: worst(_by_length(result, column).diff(axis=1).iloc[:, 1:], axis=1).tolist()


def _remedy(result: Result) -> list[float]:
    """Accuracy of the adaptive temperature less that of softmax, at the length where the mean over seeds is least."""
    gain = _by_length(result, "accuracy", ADAPTIVE) - _by_length(result, "accuracy")
    return gain[gain.mean().idxmin()].tolist()


def _ranking_share(result: Result) -> list[float]:
    ranking, accuracy = (_by_length(result, column).iloc[:, -1] for column in ("ranking", "accuracy"))
    return (ranking / (1 - accuracy)).tolist()


def _needle_least(column: str) -> Callable[[Result], list[float]]:
    return lambda result: _of(result, TRAINED, NEEDLE).groupby("seed")[column].min().tolist()


def _untrained(result: Result) -> list[float]:
    rows = _of(result, UNTRAINED, MAX_RETRIEVAL)
    right = (rows.accuracy * rows.sets).groupby(rows.seed).sum() / rows.sets.groupby(rows.seed).sum()
    return right.tolist()


def _unchanged(result: Result) -> list[float]:
    plain, scaled = (_by_length(result, "target_weight", normaliser).iloc[:, 0] for normaliser in (SOFTMAX, LOG_N))
    return (plain - scaled).abs().tolist()


def _worst_excess(result: Result) -> list[float]:
    return result.table.groupby("seed").peak_excess.max().tolist()


def _slack(result: Result) -> list[float]:
    rows = _of(result, TRAINED, MAX_RETRIEVAL)
    return (rows.spread - np.log(rows.length)).groupby(rows.seed).min().tolist()


def _bounded(result: Result) -> list[float]:
    last = _of(result, BOUNDED, "none").groupby("seed").last()
    return (last.length * last.peak / BOUNDED_LIMIT - 1).abs().tolist()


def _dead(zone: str) -> Callable[[Result], list[float]]:
    """Sets in a zone that were changed; nan, and so no verdict, where no set lies in it."""

    def measure(result: Result) -> list[float]:
        rows = result.table[(result.table.normaliser == ADAPTIVE) & (result.table[zone] > 0)]
        return rows.groupby("seed").dead_changed.sum().reindex(sorted(set(result.table.seed))).tolist()

    return measure


def _closed_form(task: str, shortest: int) -> Callable[[Result], list[float]]:
    def measure(result: Result) -> list[float]:
        rows = _of(result, CONSTRUCTED, task, LOG_N)
        rows = rows[rows.length >= shortest]
        return (rows.target_weight - rows.theory).abs().groupby(rows.seed).max().tolist()

    return measure


def critical(result: Result) -> pd.DataFrame:
    """s * margin at which a needle among equal distractors has half the weight, by seed, length and margin: where the
    log odds, which are straight in it, cross 0 between measured points."""
    rows = _of(result, CONSTRUCTED, EQUAL, LOG_N).sort_values("s_times_margin")
    rows = rows.assign(odds=np.log(rows.target_weight / (1 - rows.target_weight)))
    groups = rows.groupby(["seed", "length", "margin"])
    return pd.DataFrame(
        [(*key, np.interp(0.0, group.odds, group.s_times_margin)) for key, group in groups],
        columns=["seed", "length", "margin", "at"],
    )


PAPER, TABLE = "arXiv:2410.01104", "table of max retrieval, arXiv:2410.01104"
CRITICAL, OURS = "arXiv:2510.05554", "this study; bounds set on seeds 0 to 2"
CLAIMS = (
    Claim(
        "Max retrieval is learned: accuracy at 16 items, the most of training",
        *("replication", f"{TABLE}: 0.986", Bound(low=0.97), _shortest("accuracy")),
    ),
    Claim(
        "It is lost on long sets: accuracy at 4096 items",
        *("replication", f"{TABLE}: 0.226, chance 0.1", Bound(high=0.30), _longest("accuracy")),
    ),
    Claim(
        "Accuracy falls from every length to the next, to 4096 items (largest change)",
        *("replication", TABLE, Bound(high=0.0), _steps("accuracy", pd.DataFrame.max)),
    ),
    Claim(
        "Mean entropy rises from every length to the next, to 4096 items (least change, nats)",
        *("replication", PAPER, Bound(low=0.0), _steps("entropy", pd.DataFrame.min)),
    ),
    Claim(
        "On every set: ln peak <= spread - ln n (largest excess, nats)",
        *("replication", f"Lemma 2.1, {PAPER}; more than 0 by rounding alone", Bound(high=1e-4), _worst_excess),
    ),
    Claim(
        "Scores from U(-4, 4): n * peak is 8 / (1 - exp(-8)) on the longest sets (relative distance)",
        *("calibration", "law of large numbers, probes/theory/sharpness.md", Bound(high=0.01), _bounded),
    ),
    Claim(
        "The trained net's spread leaves Lemma 2.1 nothing to say at any length: spread - ln n (least, nats)",
        *("finding", OURS, Bound(low=0.0), _slack),
    ),
    Claim(
        "Most of what is lost at 4096 items is ranking: error of the hard-max over error of softmax",
        *("finding", OURS, Bound(low=0.5), _ranking_share),
    ),
    Claim(
        "The same net finds a needle of fixed margin at every length: least accuracy, to 16384 items",
        *("finding", OURS, Bound(low=0.9995), _needle_least("accuracy")),
    ),
    Claim(
        "And keeps its attention on it: least mean weight on the needle, to 16384 items",
        *("finding", OURS, Bound(low=0.99), _needle_least("target_weight")),
    ),
    Claim(
        "Adaptive temperature never costs accuracy, to 4096 items: gain over softmax at the worst length",
        # Two standard errors of a paired difference over 4096 sets of which one in a hundred changes its answer.
        *("replication", f"{TABLE}; -0.003 is sampling error", Bound(low=-0.003), _remedy),
        every=False,
    ),
    Claim(
        "Adaptive temperature is softmax to the bit where the entropy is low (sets that differ)",
        *("identity", f"its fit is below 1 there, {PAPER}", Bound(0.0, 0.0), _dead("dead_below")),
    ),
    Claim(
        "And where the entropy is high, so that it cannot help a head that has dispersed (sets that differ)",
        *("identity", f"its fit is below 1 there, {PAPER}", Bound(0.0, 0.0), _dead("dead_above")),
    ),
    Claim(
        "log_n with s = 1 / ln 16 is softmax at 16 items (difference of the weight on the target)",
        *("calibration", "s ln n = 1; rounding of scores of some hundred nats", Bound(high=1e-4), _unchanged),
    ),
    Claim(
        "Before training the net guesses: accuracy over all sets of max retrieval",
        *("calibration", "ten classes, all alike", Bound(0.05, 0.15), _untrained),
    ),
    Claim(
        "A needle among equal distractors, scores times s ln n: its weight is the closed form (largest error)",
        *("identity", "probes/theory/sharpness.md", Bound(high=1e-9), _closed_form(EQUAL, 0)),
    ),
    Claim(
        "It has half the weight at s * margin = 1, whatever n and the margin (least)",
        # One distractor less than n moves it down, by 0.004 at n = 64.
        *("replication", CRITICAL, Bound(0.99, 1.0), lambda r: critical(r).groupby("seed")["at"].min().tolist()),
    ),
    Claim(
        "Among uniform distractors its weight tends to the closed form: largest error from 4096 items on",
        # Five standard errors of 4 rows of 4096 at s ln n = 33, the largest: (33 / 2 / 4096 / 4)^(1/2) / 4 each.
        *("calibration", "law of large numbers", Bound(high=0.04), _closed_form(UNIFORM, 4096)),
    ),
)
