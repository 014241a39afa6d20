"""The figure of entropy against distinguishability can be read, draws every head, and its caption is computed."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.draw import figure_for
from figures.glasses import entropy_vs_distinguishability as subject

TEMPERATURES = (0.25, 0.5, 1.0)


def result(seeds: tuple[int, ...] = (3, 5)) -> Result:
    """Distance rises with entropy; with RoPE and the last token once more it falls."""
    rows, random = [], np.random.default_rng(0)
    grid = product(subject.MODELS, ("repeated", "middle"), seeds, TEMPERATURES, range(2), range(4))
    for model, pair, seed, temperature, layer, head in grid:
        entropy = temperature * (0.5 + 0.1 * head + 0.02 * random.random())
        turned = model == subject.ROTARY and pair == "repeated"
        distance = 10.0 ** (-4 * entropy if turned else 4 * entropy - 4)
        row = {"model": model, "pair": pair, "seed": seed, "temperature": temperature, "layer": layer, "head": head}
        row |= {"text": 0, "entropy": entropy, "relative_entropy": entropy, "distance": distance, "largest": 2.0}
        rows.append(row | {"shuffled": 2 * distance, "moved": distance / 2, "bound": 3 * distance})
    config = {"length": 256, "temperatures": TEMPERATURES}
    run = {"study": "entropy_vs_distinguishability", "config_hash": "0" * 12, "profile": "full", "config": config}
    return Result(pd.DataFrame(rows), run=run)


def drawn(measured: Result):
    return figure_for("entropy_vs_distinguishability", {"entropy_vs_distinguishability": measured})


@pytest.mark.parametrize("seeds", [(0,), (3, 5), (10, 11, 12, 13, 14)])
def test_the_figure_can_be_read(seeds, legible):
    legible(drawn(result(seeds)))


def test_every_head_stands_in_its_panel_and_beside_its_bound():
    measured = result()
    figure = drawn(measured)
    per_model = len(measured.table) // 4
    assert sum(len(line.get_xdata()) for line in figure.axes[0].lines) == per_model
    points = [line for line in figure.axes[3].lines if line.get_marker() == "."]
    assert sum(len(line.get_xdata()) for line in points) == len(measured.table)
    assert all((line.get_ydata() <= line.get_xdata()).all() for line in points)
    (bound,) = [line for line in figure.axes[3].lines if line.get_linestyle() == "--"]
    np.testing.assert_array_equal(bound.get_xdata(), bound.get_ydata())


def test_rank_correlations_are_those_of_the_first_layer():
    measured = result()
    measured.table.loc[measured.table.layer == 1, "distance"] = 1.0
    for model, sign in ((subject.RANDOM, 1), (subject.ROTARY, -1)):
        found = subject.correlations(measured, model, "repeated", "entropy", "distance")
        assert found.tolist() == pytest.approx([sign, sign])
    ends = [
        line for line in drawn(measured).axes[4].lines if len(set(line.get_ydata())) == 1 and len(line.get_xdata()) == 2
    ]
    assert ends


def test_the_caption_is_computed_from_the_table():
    told = subject.caption({"entropy_vs_distinguishability": result()})
    assert "2 seeds, scores divided by 3 temperatures from 0.25 to 1" in told
    assert "without positions (1.00) and worse with RoPE (-1.00), where a middle token gives 1.00" in told
    assert "the weight that moves gives 1.00 and 1.00" in told
    excess = (result().table.pipe(lambda t: (t.distance - t.bound) / t.largest)).max()
    assert f"largest excess {excess:.0e} of the largest value" in told
