"""What a calibration's table says of each reading, and when its claim fails."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analyses.core import calibration
from analyses.core.claims import judge
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result

LISTED = calibration.known(
    {
        ("ruler", "a note"): (("length", "cm", 0.5, "it is 10"), ("width", "cm", 0.1, "it is 2", "identity")),
        ("clock", "another"): (("length", "1", 0.0, "it is 1"),),
    }
)
RUN = {"study": "s", "config_hash": "0" * 12, "profile": "full"}
GOOD = {("ruler", "length"): ([9.75, 10.5], 10), ("ruler", "width"): (2.0, 2.0), ("clock", "length"): (1.0, 1)}
NUMBERS = st.floats(-1e6, 1e6)


def result(*seeds: dict) -> Result:
    return Result(calibration.table(LISTED, dict(enumerate(seeds))), run=RUN)


def holds(measured: Result) -> list[bool]:
    return [judge("s", one.claim(), measured).holds for one in LISTED]


def test_a_row_has_the_means_and_the_largest_difference():
    first = result(GOOD).table.iloc[0]
    assert list(first.index) == list(calibration.COLUMNS)
    assert (first.instrument, first.quantity, first.unit, first.seed) == ("ruler", "length", "cm", 0)
    assert (first.entries, first.measured, first.known, first.error, first.tolerance) == (2, 10.125, 10, 0.5, 0.5)


def test_a_claim_holds_up_to_its_tolerance_and_fails_beyond_at_any_seed():
    assert holds(result(GOOD)) == [True, True, True]
    off = GOOD | {("ruler", "length"): ([9.75, 10.5001], 10)}
    assert holds(result(GOOD, off, GOOD)) == [False, True, True]
    assert holds(result(GOOD, GOOD | {("clock", "length"): (2, 1)})) == [True, True, False]


def test_errors_of_opposite_sign_do_not_cancel():
    assert holds(result(GOOD | {("ruler", "length"): ([9.0, 11.0], 10)})) == [False, True, True]


def test_a_claim_names_its_reading_its_unit_and_its_kind():
    claims = [one.claim() for one in LISTED]
    assert claims[1].sentence == "ruler, width: it is 2 (largest error, cm)"
    assert claims[2].sentence == "clock, length: it is 1 (largest error)"
    assert [claim.kind for claim in claims] == ["calibration", "identity", "calibration"]
    assert [claim.source for claim in claims] == ["a note", "a note", "another"]


@given(values=st.lists(NUMBERS, min_size=1, max_size=5), answer=NUMBERS)
def test_a_tensor_an_array_and_a_list_make_the_same_row(values, answer):
    wide = torch.tensor(values, dtype=torch.float64)
    rows = [LISTED[0].row(3, one, answer) for one in (values, np.array(values), wide, wide[None])]
    assert rows.count(rows[0]) == 4
    assert rows[0]["error"] == max(abs(value - answer) for value in values)


@pytest.mark.parametrize("wrong", [np.nan, [1.0, np.nan]])
def test_a_reading_that_is_no_number_is_no_agreement(wrong):
    measured = result(GOOD | {("clock", "length"): (wrong, 1)})
    with pytest.raises(WorkbenchError, match="a seed gave nan for the claim 'clock, length"):
        holds(measured)


def test_readings_that_do_not_match_the_list_are_refused_by_name():
    with pytest.raises(WorkbenchError, match="seed 1: ruler, width was not read"):
        result(GOOD, {key: pair for key, pair in GOOD.items() if key != ("ruler", "width")})
    with pytest.raises(WorkbenchError, match="seed 0: ruler, weight is not listed"):
        result(GOOD | {("ruler", "weight"): (1, 1)})


def test_a_reading_without_values_or_of_another_shape_is_refused():
    with pytest.raises(WorkbenchError, match="seed 4: ruler, length read no value"):
        LISTED[0].row(4, [], 1.0)
    with pytest.raises(ValueError, match="shape"):
        LISTED[0].row(0, [1.0, 2.0], [1.0, 2.0, 3.0])
