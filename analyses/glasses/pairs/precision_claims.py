"""What `collapse_vs_precision` claims, and how it is read off the table."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from probes import precision

HEAD, RANDOM = "one head", "random model"
STORED, WEIGHTS, ACTIVATIONS, SUMS = "stored", "weights", "activations", "accumulation"
HALF, ALL, ANSWER = "half", "all", "answer"
CRITERIA = (HALF, ALL, ANSWER)
ONES, DIGITS = "ones", "digits"
PAPER = "arXiv:2406.04267"


def roundoff(format: str) -> float:
    """2^-p for a significand of p bits; NaN for a format with a scale."""
    return torch.finfo(precision.FLOATS[format]).eps / 2 if format in precision.FLOATS else float("nan")


def lengths(result: Result, subject: str, arm: str, text: str, criterion: str) -> pd.DataFrame:
    """Critical lengths by seed and format; where there is none the longest, which it is above."""
    table = result.table
    for column, value in {"subject": subject, "arm": arm, "text": text, "criterion": criterion}.items():
        table = table[table[column] == value]
    return table.assign(critical=table.critical.fillna(table.longest)).pivot(
        index="seed", columns="format", values="critical"
    )


def _exponent(text: str, coarse: str, fine: str) -> Callable[[Result], list[float]]:
    """By seed, the power of 1/u with which the length grows from one format to a finer one."""

    def measure(result: Result) -> list[float]:
        found = lengths(result, HEAD, STORED, text, HALF)
        return (np.log(found[fine] / found[coarse]) / np.log(roundoff(coarse) / roundoff(fine))).tolist()

    return measure


def _beside_prediction(text: str, *formats: str) -> Callable[[Result], list[float]]:
    """By seed, the geometric mean over the formats of measured over predicted length."""

    def measure(result: Result) -> list[float]:
        table = result.table[(result.table.subject == HEAD) & (result.table.criterion == HALF)]
        table = table[(table.text == text) & table.format.isin(formats)]
        return np.exp(np.log(table.critical / table.predicted).groupby(table.seed).mean()).tolist()

    return measure


def _first(subject: str, arm: str, text: str, criterion: str, format: str) -> Callable[[Result], list[float]]:
    return lambda result: lengths(result, subject, arm, text, criterion)[format].tolist()


def _ordered(result: Result) -> list[float]:
    ones, digits = (lengths(result, RANDOM, WEIGHTS, text, HALF)["bfloat16"] for text in (ONES, DIGITS))
    return (digits / ones).tolist()


def _hidden(result: Result) -> list[float]:
    """By seed, weights in bfloat16: the share equal unrounded, where half of the coordinates are once rounded."""
    table = result.table[(result.table.subject == RANDOM) & (result.table.arm == WEIGHTS)]
    table = table[(table.text == ONES) & (table.format == "bfloat16") & (table.criterion == HALF)]
    return table.held_share.dropna().groupby(table.seed).first().tolist()


def _noise(result: Result) -> list[float]:
    """By seed, ones in bfloat16: the length with rounded activations over that with rounded weights alone."""
    steps, once = (lengths(result, RANDOM, arm, ONES, HALF)["bfloat16"] for arm in (ACTIVATIONS, WEIGHTS))
    return (steps / once).tolist()


def _same_answer_first(result: Result) -> list[float]:
    """By seed, activations in bfloat16: the length for the same best token over that for half of the coordinates."""
    answer, half = (lengths(result, RANDOM, ACTIVATIONS, DIGITS, c)["bfloat16"] for c in (ANSWER, HALF))
    return (answer / half).tolist()


RATE, DERIVED = "rates in theory/collapse.md, rounding derived here", "derived here"
CLAIMS = (
    Claim(
        "One head, ones: from float16 to float32 the critical length grows as u^(-1/2)",
        *("replication", RATE, Bound(0.45, 0.55), _exponent(ONES, "float16", "float32"), False),
    ),
    Claim(
        "One head, digits: from bfloat16 to float16 the critical length grows as u^(-1)",
        *("replication", RATE, Bound(0.8, 1.2), _exponent(DIGITS, "bfloat16", "float16"), False),
    ),
    Claim(
        "One head, ones: measured over predicted length (geometric mean of bfloat16, float16, float32)",
        *("replication", DERIVED, Bound(0.5, 2), _beside_prediction(ONES, "bfloat16", "float16", "float32")),
    ),
    Claim(
        "One head, digits: measured over predicted length (geometric mean of bfloat16, float16)",
        *("replication", DERIVED, Bound(0.5, 2), _beside_prediction(DIGITS, "bfloat16", "float16"), False),
    ),
    Claim(
        "One head, ones after a prompt of 10: half of the bfloat16 numbers are equal at about 50 tokens (25 to 100)",
        *("replication", f"{PAPER}, figure 5, a: bfloat16 level at about 50 tokens", Bound(25, 100)),
        *(_first(HEAD, STORED, ONES, HALF, "bfloat16"), False),
    ),
    Claim(
        "Random models with bfloat16 weights: digits stay apart longer than ones (ratio of lengths for half)",
        *("replication", f"{PAPER}, figure 5, a and b", Bound(low=1), _ordered),
    ),
    Claim(
        "bfloat16 weights, float32 sums: where half of the numbers are equal once rounded, few were before (share)",
        *("finding", "this study", Bound(high=0.1), _hidden, False),
    ),
    Claim(
        "Rounding at every step in place of once, at the end, keeps ones apart longer (ratio of lengths for half)",
        *("finding", "this study; bound set on seeds 0 and 1", Bound(low=1.5), _noise, False),
    ),
    Claim(
        "The best token is the same long before the numbers are (ratio of lengths, bfloat16 activations, digits)",
        *("finding", "this study", Bound(high=1), _same_answer_first),
    ),
)
