"""The figure of sharpness against context can be read, draws its medians and bounds, and its caption is computed."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.attention import sharpness_vs_context as subject
from figures.draw import figure_for

LENGTHS = (256, 1024, 16384)
HEADS = {subject.TRAINED: (2, 4), subject.UNTRAINED: (2, 4), subject.UNIFORM: (1, 1)}  # layers, heads


def result(seeds: tuple[int, ...] = (3, 5), lengths: tuple[int, ...] = LENGTHS) -> Result:
    rows = []
    for condition, (layers, heads) in HEADS.items():
        sharp = {subject.TRAINED: 0.5, subject.UNTRAINED: 0.95, subject.UNIFORM: 1.0}[condition]
        for seed, layer, head, n in product(seeds, range(layers), range(heads), lengths):
            used = n ** (sharp / (1 + layer) + 0.01 * head)
            row = {"condition": condition, "seed": seed, "layer": layer, "head": head, "length": n, "keys": n}
            row |= {"n_eff": used, "peak": 1 / used, "spread": 40 * (1 - sharp) * (1 + layer), "peak_excess": 2e-7}
            rows.append(row | {"peak_bound": min(1, np.exp(row["spread"]) / n)})
    config = {"task": {"n_ctx": 256}, "last_rows": 64, "texts": 2}
    run = {"study": "sharpness_vs_context", "config_hash": "0" * 12, "profile": "full", "config": config}
    return Result(pd.DataFrame(rows).sample(frac=1, random_state=0), run=run)


def drawn(measured: Result):
    return figure_for("sharpness_vs_context", {"sharpness_vs_context": measured})


@pytest.mark.parametrize("options", [{}, {"seeds": (0,)}, {"lengths": (256, 131072)}], ids=str)
def test_the_figure_can_be_read(options, legible):
    legible(drawn(result(**options)))


def test_medians_bounds_and_every_head_are_drawn():
    measured = result()
    figure = drawn(measured)
    lines = {line.get_label(): line for line in figure.axes[1].lines}
    for condition, layer, name in ((subject.TRAINED, 1, "trained, layer 1"), (subject.UNTRAINED, None, "untrained")):
        rows = measured.table[measured.table.condition == condition]
        rows = rows if layer is None else rows[rows.layer == layer]
        np.testing.assert_allclose(lines[name].get_ydata(), rows.groupby("length").peak.median())
        bound = rows.groupby("length").peak_bound.median()
        assert any(np.allclose(line.get_ydata(), bound) for line in figure.axes[1].lines if len(line.get_ydata()) == 3)
    thin = [line for line in figure.axes[0].lines if line.get_linewidth() == 0.5]
    assert len(thin) == 2 * (8 + 8)  # seeds, trained and untrained heads
    assert figure.axes[2].get_yscale() == "linear"


def test_the_caption_is_computed_from_the_table():
    told = subject.caption({"sharpness_vs_context": result()})
    assert "256 to 16384 tokens" in told
    assert "16 heads of 2 seeds" in told
    assert f"uses {256**0.515:.0f} to {16384**0.515:.0f} keys in the first layer" in told
    assert "in 16 of 16 heads" in told
    assert "largest excess 2e-07 nats" in told
