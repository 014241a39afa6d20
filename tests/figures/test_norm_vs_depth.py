"""The figure of norms against depth can be read, shows every norm beside its theory, and its caption is computed."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.draw import figure_for
from figures.glasses import norm_vs_depth as subject

PRE, POST, RMS, NONE = subject.COLORS


def result(seeds: tuple[int, ...] = (3, 5), depths: tuple[int, ...] = (1, 4, 8, 32)) -> Result:
    rows, arrays = [], {}
    deepest = depths[-1]
    layer = np.arange(1.0, deepest + 1)
    for norm in subject.COLORS:
        pre = norm in (PRE, RMS)
        for seed, depth in ((s, d) for s in seeds for d in depths):
            row = {"norm": norm, "seed": seed, "depth": depth, "warmup": np.nan, "loss": np.nan}
            row |= {"stream": 1.0 + depth if pre else 1.0 if norm == POST else 2.0**depth}
            row |= {"attention_share": 0.5 / depth if pre else 0.5, "mlp_share": 0.25 / depth if pre else 0.25}
            row |= {"last_gradient": 3 * depth**-0.5 if pre else 3.0, "first_gradient": 2.0 + 0.01 * seed}
            row |= {
                "own": 1 / (1 + depth / 16) if pre else 2.0**-depth,
                "own_law": 2.0**-depth,
                "own_bound": 4.0**-depth,
            }
            rows.append(row)
        stream = 1 + layer if pre else np.ones(deepest) if norm == POST else 2**layer
        curves = {"stream": stream, "attention": 0.5 * np.ones(deepest), "mlp": 0.25 * np.ones(deepest)}
        for name, curve in curves.items():
            arrays[f"{norm}: {name} (seed, layer)"] = np.stack([curve] * len(seeds))
    for norm in (PRE, POST):
        for words, warmup in (("no", 0), ("with", 50)):
            loss = 2.5 + 0.1 * (norm == POST) + 0.001 * warmup
            arrays[f"{norm}, {words} warm-up: loss (seed, step)"] = loss + np.geomspace(3, 0.01, 100)[None].repeat(
                len(seeds), 0
            )
            rows += [{"norm": norm, "seed": s, "depth": 12, "warmup": warmup, "loss": loss} for s in seeds]
    config = {"slope_from": 4, "draws": 6, "d_model": 32, "n": 32, "train_depth": 12}
    run = {"study": "norm_vs_depth", "config_hash": "0" * 12, "profile": "full", "config": config}
    return Result(pd.DataFrame(rows), arrays, run=run)


def drawn(measured: Result):
    return figure_for("norm_vs_depth", {"norm_vs_depth": measured})


@pytest.mark.parametrize("options", [{}, {"seeds": (0,)}, {"depths": (1, 2, 4, 8, 16)}], ids=str)
def test_the_figure_can_be_read(options, legible):
    legible(drawn(result(**options)))


def lines(ax, color: str) -> list:
    return [line for line in ax.lines if line.get_color() == color and len(line.get_xdata())]


def test_each_panel_has_every_seed_and_its_mean_of_the_norms_it_speaks_of():
    axes = drawn(result()).axes
    shown = {0: (PRE, POST, RMS, NONE), 1: (PRE, POST, RMS, NONE), 2: (PRE, POST, RMS), 3: (PRE, POST, RMS)}
    for panel, norms in shown.items():
        for norm, color in subject.COLORS.items():
            assert len(lines(axes[panel], color)) == (3 if norm in norms else 0)
    assert len(lines(axes[4], subject.COLORS[PRE])) == 6  # measured, and the bound's share
    law = [line for line in axes[4].lines if line.get_linestyle() == "--" and line.get_color() == "0.3"]
    assert len(law) == 2
    assert law[0].get_ydata() == pytest.approx([2.0**-1, 2.0**-4, 2.0**-8, 2.0**-32])


def test_the_band_of_lemma_2_is_where_it_says():
    (band,) = drawn(result()).axes[0].collections
    points = band.get_paths()[0].vertices
    at_32 = points[points[:, 0] == 32][:, 1]
    assert at_32.min() == pytest.approx(17)
    assert at_32.max() == pytest.approx(49)


def test_the_captions_numbers_are_those_of_the_table():
    words = subject.caption({"norm_vs_depth": result()})
    assert "2 seeds of 6 draws" in words
    assert "33.0 with pre LN, which lemma 2 puts between 17 and 49" in words
    assert "depth to the -0.50 (pre LN), -0.50 (pre RMS)" in words
    assert "at 32 layers is 0.33 with pre LN, 2e-10 with post LN" in words
    assert "final loss 2.50 without and 2.55 with warm-up (pre LN), 2.60 without and 2.65 with (post LN)" in words
    assert "1 seed of" in subject.caption({"norm_vs_depth": result(seeds=(4,))})
