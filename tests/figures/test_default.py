"""The default figure shows every number of a tidy table, whatever its columns are."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from figures import parts
from figures.default import default_figure


def drawn(table: pd.DataFrame, **columns: str):
    with parts.house_style():
        return default_figure(Result(table, run={"study": "s", "config_hash": "0" * 12, "columns": columns}))


def test_each_quantity_has_a_panel_with_a_thin_line_per_seed_and_a_bold_mean(kept, legible):
    with parts.house_style():
        figure = default_figure(kept)
    loss, score = figure.axes
    assert (loss.get_title(), score.get_title()) == ("loss", "score")
    assert loss.get_xlabel() == "optimiser step"
    assert loss.get_ylabel().replace("\n", " ") == "cross-entropy on the second copy, nats"
    bold = [line for line in loss.lines if line.get_linewidth() > 1]
    thin = [line for line in loss.lines if line.get_linewidth() < 1]
    assert (len(bold), len(thin)) == (2, 10)
    one_layer = kept.table[kept.table.model == "1 layer"].groupby("step")["loss"].mean()
    np.testing.assert_allclose(bold[1].get_ydata(), one_layer, rtol=1e-12)
    assert [text.get_text() for text in figure.legends[0].texts] == ["2 layers (5 seeds)", "1 layer (5 seeds)"]
    legible(figure)


def test_rows_that_share_an_x_are_points_and_not_joined():
    table = pd.DataFrame({"step": [0, 0, 1, 1], "head": [0, 1, 0, 1], "score": [0.1, 0.2, 0.3, 0.4]})
    (_, score) = drawn(table).axes
    assert [line.get_linestyle() for line in score.lines] == ["None"]
    assert len(score.lines[0].get_xdata()) == 4


def test_a_lone_quantity_is_drawn_against_its_row():
    (ax,) = drawn(pd.DataFrame({"case": ["a", "b"], "error": [0.5, 0.25]}), error="largest difference, nats").axes
    assert ax.get_xlabel() == "row of the table"
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.5], [0.25]]


def test_groups_beyond_the_colours_are_merged_and_the_legend_says_so(legible):
    table = pd.DataFrame({"causal": [True, False] * 6, "task": list("abcdefghijkl"), "x": range(12), "y": range(12)})
    figure = drawn(table)
    assert figure.legends[0].get_title().get_text() == "not told apart: task"
    assert [text.get_text() for text in figure.legends[0].texts] == ["causal True", "causal False"]
    legible(figure)


@pytest.mark.parametrize("quantities", [1, 2, 3, 4, 5, 7])
def test_every_number_of_panels_is_legible(quantities, legible):
    x = np.arange(5)
    table = pd.DataFrame({"n": x, **{f"quantity_{i}": 10.0**i * x for i in range(quantities)}})
    meanings = {
        f"quantity_{i}": "a meaning that is far longer than any panel is high, " * 3 + "nats" for i in range(quantities)
    }
    figure = drawn(table, **meanings)
    assert len(figure.axes) == quantities
    legible(figure)


@pytest.mark.parametrize("table", [pd.DataFrame({"x": [], "y": []}), pd.DataFrame({"seed": [0], "model": ["a"]})])
def test_a_table_with_nothing_to_draw_is_named(table):
    with pytest.raises(WorkbenchError, match=r"s/00000000 has . rows and . numeric columns: there is nothing to draw"):
        drawn(table)
