"""The figure of length generalisation can be read, draws what the table holds, and computes its caption."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.counting import length_generalisation as subject
from figures.draw import figure_for

N, CHANCE = 200, {"a^n b^n": 0.0, "sum mod 3": 1 / 3}


def result(seeds: tuple[int, ...] = (10, 11, 12), tasks=subject.TASKS, arms=tuple(subject.ARMS), far=10) -> Result:
    noise, rows = np.random.default_rng(0), []
    for task in tasks:
        for arm in arms:
            for seed in seeds:
                for stretch in (1, 2, far):
                    row = {"task": task, "arm": arm, "seed": seed, "stretch": stretch, "length": 20 * stretch}
                    row |= {"chance": CHANCE.get(task, 0.5), "accuracy": noise.random()}
                    if (task, arm, stretch) == ("a^n b^n", "lstm", far):
                        row |= {"cell_r2": 0.99, "cell_up": -2.0, "cell_down": 1.98}
                    rows.append(row)
    rows.append({"task": "a^n b^n", "arm": "constructed", "seed": 0, "stretch": 50, "length": 1000, "accuracy": 1.0})
    rows[-1] |= {"cell_drift": 0.0, "cell_r2": 1.0, "cell_up": 1.0, "cell_down": -1.0, "chance": 0.0}
    count = np.concatenate([np.arange(N + 1), np.arange(N)[::-1]]).astype(float)
    arrays = {"count (pos)": count, "constructed cell (pos)": count}
    if "a^n b^n" in tasks and "lstm" in arms:
        arrays["trained cell (seed, pos)"] = np.stack([0.5 - 2 * count] * len(seeds))
    config = {"longest": 20, "stretch": [1, 2, far], "texts": 128}
    columns = ["cell_r2", "cell_up", "cell_down", "cell_drift"]
    run = {"study": "length_generalisation", "config_hash": "0" * 12, "profile": "full", "config": config}
    return Result(pd.DataFrame(rows).reindex(columns=[*rows[0], *columns]), arrays, run=run)


@pytest.mark.parametrize(
    "options",
    [{}, {"seeds": (0,), "tasks": ("parity", "a^n b^n"), "arms": ("none", "lstm")}, {"arms": ("rope",)}],
    ids=str,
)
def test_the_figure_can_be_read(options, legible):
    legible(figure_for("length_generalisation", {"length_generalisation": result(**options)}))


def test_every_seed_is_a_line_their_median_another_and_guessing_a_third():
    measured = result()
    axes = figure_for("length_generalisation", {"length_generalisation": measured}).axes
    for ax, task in zip(axes[:6], subject.TASKS, strict=True):
        drawn = [line.get_ydata() for line in ax.lines]
        for arm in subject.ARMS:
            rows = measured.table[(measured.table.task == task) & (measured.table.arm == arm)]
            values = rows.pivot(index="seed", columns="length", values="accuracy").to_numpy()
            for expected in (*values, np.median(values, 0)):
                assert any(np.array_equal(line, expected) for line in drawn)
        assert any(np.array_equal(line, [CHANCE.get(task, 0.5)] * 2) for line in drawn)


def test_what_was_not_run_says_so():
    measured = result(tasks=("parity",), arms=("none",))
    axes = figure_for("length_generalisation", {"length_generalisation": measured}).axes
    told = [[text.get_text() for text in ax.texts] for ax in axes]
    assert [one == ["not run"] for one in told[:6]] == [task != "parity" for task in subject.TASKS]
    assert "trained: not run" in told[7]


def test_cells_are_drawn_from_their_start_in_units_of_their_step_whatever_its_sign():
    measured = result()
    axes = figure_for("length_generalisation", {"length_generalisation": measured}).axes
    count = measured.arrays["count (pos)"]
    assert sum(np.allclose(line.get_ydata(), count) for line in axes[6].lines if len(line.get_ydata()) == 401) == 4
    assert sum(np.allclose(line.get_ydata(), 0) for line in axes[7].lines if len(line.get_ydata()) == 401) == 4


def test_the_caption_gives_the_best_seed_beside_the_median():
    measured = result()
    table = measured.table
    chosen = (table.task == "majority") & (table.arm == "alibi") & (table.length == 200)
    table.loc[chosen, "accuracy"] = [0.5, 0.6, 0.9]
    assert ", 0.60 (0.90); LSTM" in subject.caption({"length_generalisation": measured})


def test_the_caption_is_computed_from_the_table():
    measured = result(seeds=(10,))
    table = measured.table
    chosen = (table.task == "parity") & (table.arm == "rope")
    table.loc[chosen & (table.length == 20), "accuracy"] = 0.987
    table.loc[chosen & (table.length == 200), "accuracy"] = 0.512
    table.loc[(table.task == "sum mod 3") & (table.length == 20), "accuracy"] = 0.21
    told = subject.caption({"length_generalisation": measured})
    assert "1 seed, 128 test texts each" in told
    assert "rope 0.99, 0.51" in told
    assert "at least 0.9900, its steps down -0.990 to -0.990 of those up" in told
    assert "off by 0e+00 at most up to n = 1000" in told
    assert "or sum mod 3 at 20 (best below 0.9)." in told or "learned sum mod 3 at 20 (best below 0.9)." in told
    assert "No LSTM was trained on it" in subject.caption({"length_generalisation": result(arms=("none",))})
