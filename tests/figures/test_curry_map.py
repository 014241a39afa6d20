"""The map of contexts: points, shares and neighbours stand where the table says, and the title follows."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.currying import curry_map as subject
from figures.draw import figure_for

SOURCES = ("chain 0", "chain 1", "biased die", "fair die", "copy 2", "copy 4", "in deployment")
NULLS = {"none": 0.0, "bias": 0.1, "steer": 0.5, "bigram_shift": 0.4, "itself": 0.9}


def result(near: float = 0.8, weights: float = 0.4, seeds: int = 8, contexts: int = 6) -> Result:
    rows = []
    for seed in range(seeds):
        for model, behind in (("trained", 0.0), ("untrained", 0.2)):
            told = {"behaviour": near - behind, "weights": weights - behind, "chance": 0.12}
            rows += [("nearest", model, seed, what, "all", 0, value) for what, value in told.items()]
            for source in SOURCES:
                shares = {**NULLS, **{other: 0.95 if other == source else -3.0 for other in SOURCES}}
                rows += [("transfer", model, seed, what, source, 0, value) for what, value in shares.items()]
    names = ["part", "model", "seed", "what", "source", "index", "value"]
    draw = np.random.default_rng(0)
    maps = {f"{name} (seed, context, number)": draw.normal(size=(seeds, 7 * contexts, 2)) for name in
            ("behaviour", "weights")}  # fmt: skip
    config = {"contexts": contexts, "context_length": 20, "transferred": [2, 48]}
    run = {"study": "curry_map", "config_hash": "0" * 12, "profile": "full", "config": config}
    run["of source"] = [source for source in SOURCES for _ in range(contexts)]
    return Result(pd.DataFrame(rows, columns=names), maps, run=run)


def drawn(measured: Result):
    return figure_for("curry_map", {"curry_map": measured})


@pytest.mark.parametrize("seeds", [8, 1])
def test_every_text_can_be_read(legible, seeds):
    legible(drawn(result(seeds=seeds)))


def test_every_context_is_on_both_maps_and_what_transfers_in_the_matrix():
    measured = result()
    axes = drawn(measured).axes
    for ax in axes[:2]:
        assert sum(len(line.get_xdata()) for line in ax.lines) == 42
    found = subject.matrix(measured)
    assert list(found.columns) == [*SOURCES, "best null", "itself"]
    assert np.allclose(np.diag(found.to_numpy()[:, :7]), 0.95)
    assert np.allclose(found["best null"], 0.5)
    shown = axes[2].images[0]
    assert shown.get_array().min() == -3.0
    assert shown.norm.vmin == subject.LOWEST


def test_neighbours_stand_beside_chance_and_the_untrained_model():
    heights = {round(float(line.get_ydata()[0]), 6) for line in drawn(result()).axes[3].lines}
    assert {0.8, 0.6, 0.4, 0.2, 0.12} <= heights


def test_the_title_follows_from_the_numbers():
    assert subject.title(result()).endswith("by what W' does, less by where it lies")
    assert subject.title(result(weights=0.9)).endswith("by what W' does and where it lies")
    assert subject.title(result(near=0.15)) == "Contexts of one source do not stand together"


def test_the_caption_says_what_was_measured():
    told = subject.caption({"curry_map": result()})
    assert told.startswith("6 contexts of 20 tokens of each of 7 sources, curried by sink")
    assert "chain 0 0.95, -3.00, 0.50, 0.90;" in told
    assert "by behaviour 0.80 (0.80 to 0.80), by weights 0.40" in told
    assert told.endswith("chance 0.12.")
    alone = subject.caption({"curry_map": result(seeds=1)})
    assert "by behaviour 0.80, by weights 0.40" in alone
