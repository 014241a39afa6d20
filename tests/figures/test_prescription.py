"""The figure of remedies can be read, draws what the table holds, and computes its caption."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from analyses.core.results import Result
from analyses.counting.remedies.failures import FAILURES
from analyses.counting.remedies.marks import AT_TEST, BASELINE, TRAINED, UNTRAINED
from analyses.counting.remedies.table import REMEDIES
from figures.counting import prescription as subject
from figures.draw import figure_for

APPLIES = np.ones((len(FAILURES), len(REMEDIES)), dtype=bool)
APPLIES[3:, :3] = False


def result(seeds: tuple[int, ...] = (10, 11, 12), failures=tuple(FAILURES), remedies=tuple(REMEDIES)) -> Result:
    noise, rows = np.random.default_rng(0), []
    for y, failure in enumerate(failures):
        for seed in seeds:
            base = {"failure": failure, "seed": seed, "texts": 64, "parameters": 100, "operations": 1000}
            base |= {"tokens_in": 10, "tokens_long": 258}
            level = {"accuracy_in": 1.0, "accuracy_long": 0.5 + 0.01 * noise.random()}
            rows.append(base | level | {"remedy": BASELINE, "stage": BASELINE})
            rows.append(base | level | {"remedy": BASELINE, "stage": UNTRAINED})
            for name in remedies:
                if APPLIES[y, list(REMEDIES).index(name)]:
                    cost = {"parameters": 112, "operations": 1500} if name == "gated" else {}
                    level = {"accuracy_in": 0.9, "accuracy_long": noise.random()}
                    level |= {"accuracy_long": 1.0} if name == "window" else {}
                    rows.append(base | level | cost | {"remedy": name, "stage": REMEDIES[name].stage})
    config = {"texts": 64, "rates": [0.003, 0.01], "model": {"position": {"kind": "Rope"}}}
    run = {"study": "prescription", "config_hash": "0" * 12, "profile": "full", "config": config}
    arrays = {"applies (failure, remedy)": APPLIES}
    return Result(pd.DataFrame(rows).sample(frac=1, random_state=0), arrays, run=run)


def drawn(measured: Result):
    return figure_for("prescription", {"prescription": measured})


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_the_columns_and_rows_are_those_of_the_study():
    assert list(subject.FAILURES) == list(FAILURES)
    assert list(subject.PLACES) == list(REMEDIES)
    for stage, names in ((TRAINED, subject.WITH), (AT_TEST, subject.AT)):
        assert {REMEDIES[name].stage for name in names} == {stage}


@pytest.mark.parametrize(
    "options",
    [{}, {"seeds": (0,)}, {"failures": ("copy last", "parity"), "remedies": ("separators", "window", "bfloat16")}],
    ids=str,
)
def test_the_figure_can_be_read(options, legible):
    legible(drawn(result(**options)))


def test_every_cell_says_its_change_and_stars_stand_where_p_is_small():
    measured = result()
    found = subject.cells(measured.table)
    ax = drawn(measured).axes[1]
    shown = texts(ax)
    for one in found.itertuples():
        star = "*" if one.adjusted < 0.05 else ""
        assert subject._signed(one.change) + star in shown
    assert any(text.endswith("*") for text in shown)
    assert sum(text == "n/a" for text in shown) == (~APPLIES).sum()
    assert not [patch for patch in ax.patches if patch.get_hatch()]


def test_what_was_not_run_is_hatched_and_what_does_not_apply_is_named():
    ax = drawn(result(failures=("copy last",), remedies=("window",))).axes[1]
    hatched = [patch for patch in ax.patches if isinstance(patch, Rectangle) and patch.get_hatch()]
    assert len(hatched) == APPLIES.sum() - 1
    assert sum(text == "n/a" for text in texts(ax)) == (~APPLIES).sum()


def test_costs_are_means_over_the_baseline():
    over = subject.overheads(result().table)
    assert over.loc["gated"].tolist() == pytest.approx([1.12, 1.5])
    assert over.loc["window"].tolist() == [1.0, 1.0]
    assert "×1.5" in {text for ax in drawn(result()).axes for text in texts(ax)}


@pytest.mark.parametrize(
    ("value", "text"), [(0.314, "+.31"), (-0.05, "−.05"), (0.004, "0"), (-0.004, "0"), (1.0, "+1"), (-1.0, "−1")]
)
def test_changes_are_told_with_their_sign(value, text):
    assert subject._signed(value) == text


def test_the_caption_is_computed_from_the_table():
    measured = result()
    table = measured.table
    table.loc[(table.failure == "parity") & (table.remedy == "float64"), "accuracy_long"] = 1.0
    told = subject.caption({"prescription": measured})
    assert "3 seeds, 64 texts each" in told
    assert "the better of 0.003, 0.01 on one other seed" in told
    assert "The dearest remedy is gated: ×1.5 operations" in told
    assert "1 seed, " in subject.caption({"prescription": result(seeds=(0,))})
