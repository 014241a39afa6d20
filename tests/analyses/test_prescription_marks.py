"""Stars: tests beside scipy's own, Holm by hand and by its law, and what a table of cells holds."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analyses.counting.remedies.marks import AT_TEST, BASELINE, TRAINED, TUNING, cells, holm, paired, welch

FIRST, SECOND = [0.5, 0.61, 0.55, 0.7, 0.52], [0.9, 0.8, 0.85, 0.97, 0.6]


def test_spread_accuracies_get_the_p_of_scipy():
    assert welch(SECOND, FIRST, 1000) == pytest.approx(stats.ttest_ind(SECOND, FIRST, equal_var=False).pvalue, rel=1e-9)
    assert paired(SECOND, FIRST, 1000) == pytest.approx(stats.ttest_rel(SECOND, FIRST).pvalue, rel=1e-9)


def test_seeds_that_agree_are_as_far_apart_as_their_rounding():
    for test in (welch, paired):
        assert test([0.5] * 5, [0.5] * 5, 64) == 1
        assert test([1.0] * 5, [0.5] * 5, 64) < 1e-6
        assert np.isnan(test([1.0], [0.5], 64))
    t = (1 / 64) / (12**-0.5 / 64 / 5**0.5)
    assert paired([33 / 64] * 5, [0.5] * 5, 64) == pytest.approx(2 * stats.t.sf(t, 4), rel=1e-9)


def test_holm_by_hand():
    # times 4, 3, 2 and 1 in rising order: 0.04, 0.06, 0.06 (not below the one before), 0.9
    assert holm([0.02, 0.9, 0.01, 0.03]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    adjusted = holm([0.01, float("nan"), 0.04])
    assert adjusted[[0, 2]] == pytest.approx([0.02, 0.04])  # what was not tested does not count
    assert np.isnan(adjusted[1])
    assert len(holm([])) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.2))
def test_holm_rejects_what_its_steps_reject(p, level):
    adjusted = holm(p)
    assert (adjusted >= np.array(p)).all()
    assert (adjusted <= 1).all()
    rejected, order = set(), np.argsort(p, kind="stable")
    for step, at in enumerate(order):
        if not p[at] * (len(p) - step) <= level:
            break
        rejected.add(int(at))
    assert rejected == set(np.flatnonzero(adjusted <= level).tolist())


def table() -> pd.DataFrame:
    rows = []
    for failure in ("copy last", "parity"):
        for seed in range(5):
            base = {"failure": failure, "seed": seed, "texts": 64, "accuracy_in": 1.0}
            rows.append(base | {"remedy": BASELINE, "stage": BASELINE, "accuracy_long": FIRST[seed]})
            rows.append(base | {"remedy": BASELINE, "stage": TUNING, "accuracy_long": np.nan})
            rows.append(base | {"remedy": "window", "stage": TRAINED, "accuracy_long": SECOND[seed]})
            rows.append(base | {"remedy": "float64", "stage": AT_TEST, "accuracy_long": FIRST[seed]})
            rows.append(base | {"remedy": "adaptive", "stage": AT_TEST, "accuracy_long": SECOND[seed]})
    return pd.DataFrame(rows).assign(accuracy_in=lambda t: t.accuracy_in - 0.25 * (t.remedy == "window"))


def test_cells_hold_changes_and_are_corrected_within_their_failure():
    found = cells(table().sample(frac=1, random_state=0)).set_index(["failure", "remedy"])
    assert len(found) == 6
    window = found.loc[("parity", "window")]
    assert window.change == pytest.approx(np.mean(SECOND) - np.mean(FIRST))
    assert window.deviation == pytest.approx(np.std(np.subtract(SECOND, FIRST), ddof=1))
    assert (window.change_in, window.n) == (-0.25, 5)
    assert window.p == pytest.approx(welch(SECOND, FIRST, 64))
    assert found.loc[("parity", "adaptive")].p == pytest.approx(paired(SECOND, FIRST, 64))
    for failure in ("parity", "copy last"):  # three remedies are a family, not six
        of = found.loc[failure]
        assert of.adjusted.to_numpy() == pytest.approx(holm(of.p))
    assert found.loc[("parity", "float64")].adjusted == 1
