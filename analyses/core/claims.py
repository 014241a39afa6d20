"""Claims: what a study says, fixed before it was measured, and whether the measurement agrees."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.core.statistics import bootstrap_interval, interval

Kind = Literal["identity", "calibration", "replication", "finding"]


@dataclass(frozen=True)
class Bound:
    """The values that agree with a claim, both ends included; an end that is None is open."""

    low: float | None = None
    high: float | None = None

    def __post_init__(self):
        ends = [end for end in (self.low, self.high) if end is not None]
        if not ends or any(math.isnan(end) for end in ends) or ends != sorted(ends):
            raise WorkbenchError(f"a bound needs a low or a high end, low first: got {self.low} and {self.high}")

    def __str__(self) -> str:
        if self.low is None:
            return f"<= {self.high:.12g}"
        if self.high is None:
            return f">= {self.low:.12g}"
        if self.low == self.high:
            return f"= {self.low:.12g}"
        return f"{self.low:.12g} to {self.high:.12g}"

    def contains(self, value: float) -> bool:
        """Whether a value agrees; NaN never does."""
        return self.margin(value) >= 0

    def margin(self, value: float) -> float:
        """How far inside a value lies, in its own unit; negative outside, NaN for NaN."""
        margins = [value - self.low] if self.low is not None else []
        margins += [self.high - value] if self.high is not None else []
        return math.nan if math.isnan(value) else min(margins)


@dataclass(frozen=True)
class Claim:
    """One sentence that a table can contradict.

    Attributes:
        sentence: what is claimed.
        kind: "identity" (an equality up to rounding), "calibration" (a probe on a model with a known answer),
            "replication" (a published number or theorem) or "finding" (ours).
        source: where the expected value comes from.
        expected: the values that agree.
        measure: from the result to one value per seed.
        every: True: each seed must agree; False: their mean must.
        explanation: for a replication that fails: why.
        source_verdict: what the measurement says about the source, such as "not reproduced".
        speaks_of: whether a result is of the kind that is meant, such as one from a GPU; None: every result is.
    """

    sentence: str
    kind: Kind
    source: str
    expected: Bound
    measure: Callable[[Result], Sequence[float]]
    every: bool = True
    explanation: str = ""
    source_verdict: str = ""
    speaks_of: Callable[[Result], bool] | None = None

    def __post_init__(self):
        if self.kind not in get_args(Kind):
            raise WorkbenchError(f"a claim is one of {', '.join(get_args(Kind))}: got '{self.kind}' ({self.sentence})")


@dataclass(frozen=True)
class Verdict:
    """A claim beside its measurement: `measured` is the worst seed where each must agree, else the mean.

    `interval` is Student's for the mean, `bootstrap` that of the mean over seeds drawn again; both at 95 %.
    """

    study: str
    sentence: str
    kind: Kind
    source: str
    expected: str
    measured: float
    mean: float
    interval: tuple[float, float] | None
    bootstrap: tuple[float, float] | None
    n: int
    holds: bool
    explanation: str
    source_verdict: str
    result: str
    profile: str


def judge(study_name: str, claim: Claim, result: Result) -> Verdict:
    """Hold a claim against a saved result.

    Raises:
        WorkbenchError: nothing was measured, or a seed gave a value that is not finite: that is no verdict.
    """
    values = np.asarray(claim.measure(result), dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise WorkbenchError(f"{study_name}: no values measured for the claim '{claim.sentence}' in {result.id}")
    if not np.isfinite(values).all():
        odd = values[~np.isfinite(values)][0]
        raise WorkbenchError(f"{study_name}: a seed gave {odd} for the claim '{claim.sentence}' in {result.id}")
    mean = float(values.mean())
    measured = min(values.tolist(), key=claim.expected.margin) if claim.every else mean
    return Verdict(
        study=study_name,
        sentence=claim.sentence,
        kind=claim.kind,
        source=claim.source,
        expected=str(claim.expected),
        measured=measured,
        mean=mean,
        interval=interval(values),
        bootstrap=bootstrap_interval(values.tolist(), np.mean, 0.95, np.random.default_rng(0)),
        n=len(values),
        holds=claim.expected.contains(measured),
        explanation=claim.explanation,
        source_verdict=claim.source_verdict,
        result=result.id,
        profile=str(result.run["profile"]),
    )


def failed(verdict: Verdict) -> bool:
    """Whether something is wrong: an identity or a calibration that fails, or a replication that fails unexplained."""
    if verdict.holds or verdict.kind == "finding":
        return False
    return verdict.kind in ("identity", "calibration") or not verdict.explanation
