"""The head maps show the means over seeds and can be read, for models of any size."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.draw import figure_for
from figures.induction import head_scores
from figures.parts import house_style

RANDOM = np.random.default_rng(0)
SCORES = (*head_scores.SHARES, "entropy", "relative_entropy", "copying", "output_norm")


def result(layers: int, n_heads: int, seeds: tuple[int, ...] = (3, 5)) -> Result:
    keys = pd.DataFrame(list(product(seeds, range(layers), range(n_heads))), columns=["seed", "layer", "head"])
    table = keys.assign(**{name: RANDOM.random(len(keys)) for name in SCORES})
    table.loc[(table.layer == 0) & (table["head"] == 0), "copying"] = np.nan
    run = {"study": "head_scores", "config_hash": "0" * 12, "profile": "full"}
    text = {"bos": None, "period": 7, "copies": 4}
    return Result(
        table.sample(frac=1, random_state=0), run=run | {"config": {"model": "a/tiny", "texts": 8}, "text": text}
    )


@pytest.mark.parametrize("shape", [(2, 1), (2, 4), (12, 12), (32, 32)])
def test_the_maps_of_a_model_of_any_size_can_be_read(shape, legible):
    legible(figure_for("head_scores", {"head_scores": result(*shape)}))


def test_each_map_is_the_mean_over_seeds_by_layer_and_head():
    measured = result(3, 4)
    figure = figure_for("head_scores", {"head_scores": measured})
    maps = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    expected = measured.table.groupby(["layer", "head"])[list(SCORES)].mean()
    for drawn, name in zip(maps, SCORES, strict=True):
        np.testing.assert_allclose(np.ma.filled(drawn, np.nan), expected[name].unstack().to_numpy())


def test_a_model_all_of_whose_heads_write_nothing_is_drawn():
    measured = result(2, 2)
    measured.table[["copying", "output_norm"]] = np.nan, 0.0
    with house_style():
        figure_for("head_scores", {"head_scores": measured}).canvas.draw()


def test_the_caption_names_the_strongest_head_and_the_texts():
    measured = result(2, 3)
    measured.table.loc[(measured.table.layer == 1) & (measured.table["head"] == 2), "prefix_matching"] = 1.0
    told = head_scores.caption({"head_scores": measured})
    assert "Every head of tiny on repeated random tokens: blocks of 7, 4 times, 8 texts for each of 2 seeds" in told
    assert "induction (prefix matching) 1.00 at layer 1, head 2" in told
