"""The figure of the heads' roles can be read for models of any size, with and without rotary positions."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.draw import figure_for
from figures.glasses import head_roles as subject

SCORES = (*subject.ROLES, "linear", "lost_zero", "lost_map", "sink_rate_gu", "sink_rate_barbero")


def result(layers: int = 2, heads: int = 4, rotary: bool = True, model: object = None) -> Result:
    random = np.random.default_rng(0)
    rows = [
        {"condition": condition, "seed": seed, "layer": layer, "head": head, "role": "own token"}
        for condition, seed, layer, head in product(("trained", "untrained"), (3, 5), range(layers), range(heads))
    ]
    hand = {*(where for _, where in subject.ROLES.values()), ("uniform head", 0)}
    rows += [{"condition": name, "seed": 3, "layer": layer, "head": 0, "role": "own token"} for name, layer in hand]
    table = pd.DataFrame(rows)
    table = table.assign(**{name: random.random(len(table)) for name in SCORES})
    arrays = {
        "[bos, x, x], no positions, random (seed, head)": random.random((2, 9)) / 2,
        "[bos, x, x], no positions, optimised (seed, head)": np.full((2, 4), 0.5),
        "[bos, x, x], rotary, optimised (seed, head)": np.ones((2, 4)),
        "[bos, x, x], rotary, constructed (model)": np.ones(1),
    }
    for norm in (5, 20, 100):
        for which in ("own weight", "closed form"):
            arrays[f"one frequency, {norm}, 512 tokens: {which} (query)"] = 1 / np.arange(1, 513) ** (1 / norm**0.2)
    for condition in ("trained", "untrained") if rotary else ():
        name = f"{condition}: share of each frequency (seed, layer, head, pair)"
        arrays[name] = random.dirichlet(np.ones(4), (2, layers, heads))
    run = {"study": "head_roles", "config_hash": "0" * 12, "profile": "full"}
    return Result(table, arrays, run=run | {"config": {"model": model or {}, "texts": 8, "length": 64}})


@pytest.mark.parametrize("measured", [result(), result(1, 1), result(12, 12), result(rotary=False)])
def test_the_figure_can_be_read(measured, legible):
    legible(figure_for("head_roles", {"head_roles": measured}))


def test_the_caption_computes_what_the_map_keeps_and_the_frequencies():
    measured = result()
    table, name = measured.table, "trained: share of each frequency (seed, layer, head, pair)"
    table.loc[table.layer == 1, ["lost_zero", "lost_map"]] = 0.8, 0.2
    measured.arrays[name][:] = (0.1, 0.1, 0.2, 0.6)
    told = subject.caption({"head_roles": measured})
    assert "16 heads of byte models with rotary positions, 2 seeds, 8 texts of 64 tokens each" in told
    assert "it keeps 0.75 of the loss" in told
    assert "slower half of the rotary frequencies has 0.80" in told


def test_a_checkpoint_is_named_and_without_rotation_nothing_is_said_of_frequencies():
    told = subject.caption({"head_roles": result(rotary=False, model="a/tiny")})
    assert "heads of the checkpoint tiny" in told
    assert "frequencies" not in told
