import math
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from analyses.core import running
from analyses.core.claims import Bound, Claim, failed, judge
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result

RESULT = Result(
    pd.DataFrame({"y": [0.5, 1.0, 0.9]}), run={"study": "s", "config_hash": "0123456789ab", "profile": "full"}
)


def claim(bound, kind="finding", **more):
    return Claim("y is large", kind, "a theorem", bound, lambda result: result.table.y, **more)


@pytest.mark.parametrize(
    ("bound", "text", "inside", "outside"),
    [
        (Bound(low=0.98), ">= 0.98", [0.98, 2, math.inf], [0.97999, math.nan, -math.inf]),
        (Bound(high=0.15), "<= 0.15", [0.15, -1], [0.16, math.nan]),
        (Bound(1, 2), "1 to 2", [1, 1.5, 2], [0.9, 2.1, math.nan]),
        (Bound(2, 2), "= 2", [2], [1.9, 2.1, math.nan]),
        (Bound(high=1e-12), "<= 1e-12", [0], [1e-11]),
        (Bound(low=0.9999999), ">= 0.9999999", [1], [0.999]),
    ],
)
def test_a_bound_includes_its_ends_and_never_nan(bound, text, inside, outside):
    assert str(bound) == text
    assert all(bound.contains(value) for value in inside)
    assert not any(bound.contains(value) for value in outside)


@pytest.mark.parametrize("ends", [(None, None), (2, 1), (math.nan, 1)])
def test_a_bound_without_an_end_or_upside_down_is_refused(ends):
    with pytest.raises(WorkbenchError, match="needs a low or a high end"):
        Bound(*ends)


def test_a_claim_of_an_unknown_kind_is_refused():
    with pytest.raises(WorkbenchError, match="one of identity, calibration, replication, finding: got 'guess'"):
        claim(Bound(low=0), kind="guess")


@pytest.mark.parametrize(
    ("bound", "every", "measured", "holds"),
    [
        (Bound(low=0.7), True, 0.5, False),
        (Bound(low=0.7), False, 0.8, True),
        (Bound(high=0.95), True, 1.0, False),
        (Bound(0.4, 1.0), True, 1.0, True),
        (Bound(0.6, 1.3), True, 0.5, False),
    ],
)
def test_a_verdict_shows_the_worst_seed_where_each_must_agree_and_else_the_mean(bound, every, measured, holds):
    verdict = judge("s", claim(bound, every=every), RESULT)
    assert verdict.measured == pytest.approx(measured)
    assert verdict.holds is holds
    assert verdict.mean == pytest.approx(0.8)
    assert verdict.interval[0] < verdict.bootstrap[0] < 0.8 < verdict.bootstrap[1] < verdict.interval[1]
    assert (verdict.n, verdict.result, verdict.profile, verdict.expected) == (3, "s/01234567", "full", str(bound))


def test_one_seed_has_a_verdict_without_an_interval():
    one = Claim("y", "finding", "", Bound(low=0), lambda result: [1.0])
    assert (judge("s", one, RESULT).interval, judge("s", one, RESULT).bootstrap) == (None, None)


@pytest.mark.parametrize(("values", "message"), [([], "no values measured"), ([1.0, math.nan], "a seed gave nan")])
def test_an_empty_or_undefined_measure_is_an_error_that_names_the_claim(values, message):
    odd = Claim("y is large", "finding", "", Bound(low=0), lambda result: values)
    with pytest.raises(WorkbenchError, match=f"s: {message} for the claim 'y is large' in s/01234567"):
        judge("s", odd, RESULT)


@pytest.mark.parametrize(
    ("kind", "explanation", "fails"),
    [
        ("identity", "", True),
        ("identity", "because", True),
        ("calibration", "because", True),
        ("replication", "", True),
        ("replication", "because", False),
        ("finding", "", False),
    ],
)
def test_what_fails_is_an_identity_a_calibration_or_an_unexplained_replication(kind, explanation, fails):
    assert failed(judge("s", claim(Bound(low=2), kind, explanation=explanation), RESULT)) is fails
    assert not failed(judge("s", claim(Bound(low=0), kind, explanation=explanation), RESULT))


def test_a_claim_is_not_held_against_a_result_that_it_does_not_speak_of(monkeypatch):
    short, long = (
        claim(Bound(low=low), speaks_of=lambda result, short=short: (len(result.table) < 5) == short)
        for low, short in ((1, True), (2, False))
    )
    found = SimpleNamespace(claims=(short, long, claim(Bound(low=3))))
    monkeypatch.setattr(running.study, "find", lambda name: found)
    monkeypatch.setattr(running, "fetch", lambda *where: RESULT)
    assert [verdict.expected for verdict in running.verdicts("s", "kept", Path())] == [">= 1", ">= 3"]
