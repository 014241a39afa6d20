"""The board can be read, shows every cell, outlines what disagrees, and computes its caption."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from analyses.core.results import Result
from figures.counting import expressivity_board as subject
from figures.draw import figure_for

SAID = np.full((len(subject.TASKS), len(subject.ARCHITECTURES)), subject.SILENT)
SAID[:, 0], SAID[:, 4] = subject.YES, subject.NO
ALL = tuple(itertools.product(subject.TASKS, subject.ARCHITECTURES))


def result(seeds=(10, 11, 12, 13, 14), run=ALL, at: dict | None = None) -> Result:
    """Nets that fit, at random accuracies beyond, below 0.9 wherever `at` does not set them."""
    noise = np.random.default_rng(0)
    rows = []
    for (task, architecture), seed, multiple in itertools.product(run, seeds, (1, 2, 4, 10)):
        accuracy = 1.0 if multiple == 1 else (at or {}).get((task, architecture), noise.uniform(0.1, 0.8))
        rows.append({"task": task, "architecture": architecture, "seed": seed, "multiple": multiple,
                     "accuracy": accuracy})  # fmt: skip
    counts = np.array([[13, 4, 2], [14, 6, 10], [3, 15, 1]])
    arrays = {"verdicts (task, architecture)": SAID, "median: cells (verdict, outcome)": counts}
    arrays |= {
        "best: cells (verdict, outcome)": counts[:, ::-1],
        "median: agree, tested (yes and no, count)": np.array([[13, 17], [15, 18]]),
    }
    arrays |= {"best: agree, tested (yes and no, count)": np.array([[14, 19], [12, 16]])}
    config = {"solved": 0.9, "multiples": [1, 2, 4, 10], "test_texts": 256}
    run = {"study": "expressivity_board", "config_hash": "0" * 12, "profile": "full", "config": config}
    return Result(pd.DataFrame(rows).sample(frac=1, random_state=0), arrays, run=run)


def outlined(figure) -> set[tuple[int, int]]:
    """(row, column) of the cells whose frame says that theory and measurement disagree."""
    frames = [one for one in figure.axes[0].patches if isinstance(one, Rectangle) and one.get_linewidth() == 1.8]
    return {(round(one.get_y() + 0.45), round(one.get_x() + 0.45)) for one in frames}


@pytest.mark.parametrize("options", [{}, {"seeds": (0,)}, {"run": ALL[:7]}], ids=["full", "one seed", "few cells"])
def test_the_figure_can_be_read(options, legible):
    legible(figure_for("expressivity_board", {"expressivity_board": result(**options)}))


def test_cells_in_which_theory_and_the_median_disagree_are_outlined_and_no_others():
    majority, parity = subject.TASKS.index("majority"), subject.TASKS.index("parity")
    measured = result(at={(task, "none"): 0.95 for task in subject.TASKS} | {("parity", "lstm"): 0.97})
    figure = figure_for("expressivity_board", {"expressivity_board": measured})
    assert outlined(figure) == {(parity, 4)}  # says no, and is solved
    at = {(task, "none"): 0.95 for task in subject.TASKS} | {("majority", "none"): 0.85, ("parity", "rope"): 0.95}
    assert outlined(figure_for("expressivity_board", {"expressivity_board": result(at=at)})) == {(majority, 0)}


def test_nets_that_do_not_fit_the_short_texts_test_nothing_and_their_mark_stands_in_brackets():
    measured = result(at={(task, "none"): 0.95 for task in subject.TASKS if task != "parity"})
    rows = (measured.table.task == "parity") & (measured.table.architecture == "none")
    measured.table.loc[rows, "accuracy"] = 0.5
    figure = figure_for("expressivity_board", {"expressivity_board": measured})
    assert outlined(figure) == set()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("(✓)") == 1
    assert texts.count("✓") == len(subject.TASKS) - 1
    assert texts.count("✗") == len(subject.TASKS)


def test_a_cell_shows_the_median_and_the_best_of_its_seeds():
    measured = result(seeds=(1, 2, 3))
    rows = (measured.table.task == "Dyck-1") & (measured.table.architecture == "rope") & (measured.table.multiple > 1)
    measured.table.loc[rows, "accuracy"] = measured.table[rows].seed.map({1: 0.111, 2: 0.222, 3: 0.777})
    texts = [
        text.get_text() for text in figure_for("expressivity_board", {"expressivity_board": measured}).axes[0].texts
    ]
    assert texts.count(".22") >= 1
    assert texts.count(".78") >= 1


def test_the_confusion_matrix_is_the_one_that_was_measured():
    texts = [
        text.get_text() for text in figure_for("expressivity_board", {"expressivity_board": result()}).axes[1].texts
    ]
    assert texts[::2] == ["13", "4", "2", "14", "6", "10", "3", "15", "1"]
    assert texts[1::2] == ["2", "4", "13", "10", "6", "14", "1", "15", "3"]


def test_the_caption_is_computed_from_the_table():
    measured = result(at={("parity", "lstm"): 0.987})
    told = subject.caption({"expressivity_board": measured})
    assert "5 seeds, 256 texts a length" in told
    assert "yes comes out in 13 of 17 cells by their median (14 of 19 by their best seed)" in told
    assert "its no in 15 of 18 (12 of 16)" in told
    assert "and 0.99; with all parities" in told
    assert "not run" not in told
    told = subject.caption({"expressivity_board": result(run=ALL[:7])})
    assert f"{len(ALL) - 7} cells were not run" in told
    assert "LSTM (not run) and (not run)" in told


def test_the_figure_knows_the_rows_and_columns_of_the_study():
    from analyses.counting.board.tasks import ROWS
    from analyses.counting.board.verdicts import ARCHITECTURES

    assert tuple(ROWS) == subject.TASKS
    assert tuple(subject.ARCHITECTURES) == ARCHITECTURES
    assert set(subject.TELLING) <= set(ROWS)
