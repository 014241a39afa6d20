"""The figure of one head against several can be read, and its caption is computed."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.draw import figure_for
from figures.glasses import one_head_averages as subject


def result(seeds: int) -> Result:
    rows = []
    for condition, seed, step in product(subject.COLORS, range(seeds), (0, 300, 600)):
        noises = (0.0, 0.5, 1.0) if step == 600 else (0.0,)
        share = 0.5 if step == 0 else 0.66 + 0.01 * seed
        row = {"condition": condition, "seed": seed, "step": step, "larger_share": share}
        rows += [row | {"noise": noise, "accuracy": step / 600 * (1 - 0.2 * noise)} for noise in noises]
    for condition, seed, noise in product(subject.BEST, range(seeds), (0.0, 0.5, 1.0)):
        name = {"condition": condition, "seed": seed, "step": 0, "larger_share": 0.66}
        rows.append(name | {"noise": noise, "accuracy": 1 - noise / 10})
    w = np.linspace(0.5, 0.96, 12)
    arrays = {
        "constructed: larger share (model)": w,
        "constructed: lead (model)": np.minimum((2 * w - 1) ** 2, (1 - w) ** 2),
    }
    for condition, heads in ((subject.ONE, 1), (subject.TWO, 2), (subject.FOUR, 4)):
        arrays[f"{condition}: weights (seed, head, role)"] = np.full((seeds, heads, 2), 0.4)
    run = {"study": "one_head_averages", "config_hash": "0" * 12, "profile": "full"}
    return Result(pd.DataFrame(rows), arrays, run=run | {"config": {"task": {"n_entities": 8}}})


@pytest.mark.parametrize("seeds", [1, 5])
def test_the_figure_can_be_read(seeds, legible):
    legible(figure_for("one_head_averages", {"one_head_averages": result(seeds)}))


def test_the_caption_computes_the_price_of_one_head_and_its_share():
    measured = result(5)
    table = measured.table
    table.loc[(table.condition == subject.TWO) & (table.noise == 1), "accuracy"] = 0.9
    told = subject.caption({"one_head_averages": measured})
    assert "5 seeds" in told
    assert "larger share is 0.66 to 0.70" in told
    assert (
        "one head answers 0.80, two 0.90, a difference of 0.10 (95% bootstrap interval over seeds 0.10 to 0.10)" in told
    )


def test_one_seed_has_no_interval():
    assert "interval" not in subject.caption({"one_head_averages": result(1)})
