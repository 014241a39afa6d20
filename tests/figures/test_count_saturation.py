"""The figure of piled-up answers can be read, draws what the table holds, and computes its caption."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.counting import count_saturation as subject
from figures.draw import figure_for

MOST = 24


def result(seeds: tuple[int, ...] = (10, 11, 12)) -> Result:
    draw, rows = np.random.default_rng(0), []
    for seed in seeds:
        for prior in (subject.FLAT, subject.PEAKED):
            for moment in (subject.TRAINED, subject.UNTRAINED):
                for count in range(MOST + 1):
                    row = {
                        "seed": seed,
                        "prior": prior,
                        "moment": moment,
                        "count": count,
                        "texts": 40,
                        "prediction": "",
                    }
                    row |= {"right": 0.6, "wrong_round": 0.3, "bias": draw.normal(), "spread": 1.0}
                    rows.append(row)
        for name, far in zip(subject.PREDICTIONS, (0.5, 0.3, 0.25, 0.1), strict=True):
            row = {"seed": seed, "prior": subject.PEAKED, "moment": "", "prediction": name}
            rows.append(row | {"total_variation": far + 0.001 * seed})
    names = ("uniform", "peaked", "foretold")
    shares = {name: draw.dirichlet(np.ones(MOST + 1), (len(seeds), MOST + 1)) for name in names}
    arrays = {f"{name}: answers (seed, true, told)": table for name, table in shares.items()}
    config = {"most": MOST, "length": 48, "favour": 8.0, "test_texts": 4096}
    run = {"study": "count_saturation", "config_hash": "0" * 12, "profile": "full", "config": config}
    return Result(pd.DataFrame(rows).sample(frac=1, random_state=0), arrays, run=run)


@pytest.mark.parametrize("options", [{}, {"seeds": (0, 1)}], ids=str)
def test_the_figure_can_be_read(options, legible):
    legible(figure_for("count_saturation", {"count_saturation": result(**options)}))


def test_answers_piles_and_distances_are_those_of_the_table():
    measured = result()
    axes = figure_for("count_saturation", {"count_saturation": measured}).axes
    for ax, name in zip(axes[:3], ("uniform", "peaked", "foretold"), strict=True):
        shares = measured.arrays[f"{name}: answers (seed, true, told)"]
        assert np.array_equal(ax.images[0].get_array(), shares.mean(0).T)
        assert any(
            np.allclose(line.get_ydata(), shares.sum(1).mean(0)) for line in axes[3].lines if len(line.get_xdata()) > 2
        )
    for name in subject.PREDICTIONS:
        values = measured.table[measured.table.prediction == name].sort_values("seed").total_variation
        assert any(np.array_equal(line.get_xdata(), values) for line in axes[5].lines)


def test_the_caption_is_computed_from_the_table():
    told = subject.caption({"count_saturation": result()})
    assert "3 seeds, 4096 texts each" in told
    assert "(a, b) Right 0.60 and 0.60; chance 0.04" in told
    assert "Of wrong answers 0.75 and 0.75 are round, 0.08 of all counts" in told
    assert "0.51 unshrunk, 0.31 by Bayes' rule on (a), which takes away 0.39" in told
