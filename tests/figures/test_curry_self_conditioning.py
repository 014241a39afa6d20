"""The figure of a text that grows: every source has its panel, ratios are those of the table, the title follows."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.currying import curry_self_conditioning as subject
from figures.draw import figure_for

SOURCES = ("chain 0", "biased die", "copy 2")


def result(ends: float = 0.3, sources=SOURCES, seeds: int = 8, paths: int = 2) -> Result:
    rows = []
    texts = {subject.OWN: 1.0, subject.TRUE: 1.2, subject.OTHER: 4.0}
    scales = {subject.EDITED: 0.02, subject.WITH: 0.1, subject.BAYES: 0.05, subject.BORN: 0.005}
    for seed in range(seeds):
        for source in sources:
            for text, much in texts.items():
                for who, scale in scales.items():
                    if who == subject.BORN and text != subject.OWN:
                        continue
                    for path in range(paths):
                        for t in range(16):
                            kl = much * scale * (1 + 0.1 * seed) * (ends if t >= 12 else 1.0)
                            step = 0.3 * (1 + 0.05 * seed) * (6 / (t + 6.0)) ** 0.5
                            rows.append((source, text, path, seed, who, t, kl, 0.1, 0.8, step))
    names = ["source", "text", "path", "seed", "predictor", "t", "kl", "squared", "from_start", "weight_step"]
    config = {"start": 4, "written": 16, "paths": paths}
    run = {"study": "curry_self_conditioning", "config_hash": "0" * 12, "profile": "full", "config": config}
    arrays = {"Bayes's expected gap (seed)": np.full(seeds, 2e-16)}
    return Result(pd.DataFrame(rows, columns=names), arrays, run=run)


def drawn(measured: Result):
    return figure_for("curry_self_conditioning", {"curry_self_conditioning": measured})


@pytest.mark.parametrize("measured", [result(), result(seeds=1, paths=1)], ids=["full", "quick"])
def test_every_text_can_be_read(legible, measured):
    legible(drawn(measured))


@pytest.mark.parametrize("n", [2, 3])
def test_every_source_has_a_panel_of_its_own(n):
    axes = drawn(result(sources=SOURCES[:n], seeds=1)).axes
    titles = [ax.get_title(loc="right") for ax in axes]
    assert titles == [*SOURCES[:n], "the weights, own text", "whose text moves W'", "do steps add up?"]


def test_ratios_are_those_of_the_table():
    measured = result()
    assert subject.settling(measured, "chain 0") == pytest.approx(np.full(8, 0.3))
    # 16 steps of 0.1 on two paths, and a squared way of 0.8 on each
    assert subject.squares(measured, "chain 0", subject.EDITED) == pytest.approx(np.full(8, 2.0))
    heights = {
        round(float(line.get_ydata()[0]), 6) for line in drawn(result(seeds=1)).axes[5].lines if len(line.get_ydata())
    }
    assert {2.0, 1.0} <= heights


def test_the_words_of_the_squares_stand_beside_the_points():
    measured = result()
    measured.table.loc[measured.table.predictor == subject.EDITED, "from_start"] *= 2.5  # just below 1
    figure = drawn(measured)
    ax = figure.axes[5]
    figure.draw_without_rendering()
    texts = [*ax.get_legend().get_texts(), *ax.texts]
    points = np.concatenate(
        [ax.transData.transform(line.get_xydata()) for line in ax.lines if line.get_marker() != "None"]
    )
    assert "martingale" in {text.get_text() for text in texts}
    assert points[:, 1].min() < ax.transData.transform((0, 1))[1] < points[:, 1].max()
    assert not [text.get_text() for text in texts if text.get_window_extent().count_contains(points)]


def test_the_title_follows_from_the_numbers():
    assert subject.title(result()) == "In most seeds a model that writes settles its own W'"
    assert subject.title(result(ends=2.0)) == "In most seeds writing does not settle W'"
    mixed = result()
    late = (mixed.table.source == "copy 2") & (mixed.table.t >= 12)
    mixed.table.loc[late, "kl"] *= 10
    assert subject.title(mixed) == "In most seeds writing settles W' on chain 0 and biased die, not on copy 2"


def test_the_caption_says_what_was_measured():
    told = subject.caption({"curry_self_conditioning": result(seeds=1, paths=1)})
    assert told.startswith("A transformer trained on a mixture writes 16 tokens behind 4 of a source")
    assert "1 seed (thin, small; thick, large: means), 1 text each" in told
    assert "chain 0: 0.30, all steps 0.264 on its own text, 0.317 on the true source, 1.056 on another" in told
    assert "slope -0.50 (-0.50 to -0.50) where an average has -1" in told
