"""The figure of local and far contexts: points stand where the table says, and words follow from the numbers."""

import math

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.currying import curry_local_or_far as subject
from figures.currying.extent.styles import STYLES, in_order, label
from figures.draw import figure_for

# source -> rho, sink, gradient, distance at 90 % and at 50 %
KINDS = {
    "chain 0": (0.2, 0.9, 0.2, 0.06, 0.03),
    "fair die": (0.4, 0.8, 0.6, math.inf, 0.02),
    "biased die": (0.3, 0.99, 0.9, 0.02, 0.01),
    "copy 2": (0.4, 0.7, 0.4, math.inf, 0.03),
    "copy 4": (0.5, 0.4, 0.2, math.inf, 0.04),
    "copy 8": (0.6, 0.3, 0.1, math.inf, 0.05),
    "in deployment": (0.15, 0.92, 0.0, 0.1, 0.06),
    "the word alone": (0.0, 0.9, 0.0, 0.1, 0.06),
    "K=4": (0.02, 1.0, 0.1, 0.1, 0.03),
    "fresh": (0.6, -0.9, 0.05, math.inf, math.inf),
}


def result(kinds=KINDS, seeds: int = 8) -> Result:
    rows = []
    for source, (rho, sink, step, most, half) in kinds.items():
        for seed in range(seeds):
            told = {"source": source, "seed": seed, "index": 0, "queries": 50 + seed}
            shares = {
                "sink": sink,
                "gradient": step,
                "bias": 0.1,
                "steer": 0.3,
                "bigram_shift": 0.5,
                "sibling": 0.2,
                "wrong": -3.0,
            }
            away = {"distance_90": most, "distance_50": half, "rho_last": rho + 0.001 * seed}
            rows.append({**told, "moment": "trained", **shares, **away})
            rows.append({**told, "moment": "untrained", "sink": 0.8, "rho_last": 0.01})
    config = {"context_length": 20, "pool_context_length": 32, "contexts": 2, "queries": {"length": 12}}
    run = {"study": "curry_local_or_far", "config_hash": "0" * 12, "profile": "full", "config": config}
    return Result(pd.DataFrame(rows), {}, run=run)


def drawn(measured: Result):
    return figure_for("curry_local_or_far", {"curry_local_or_far": measured})


@pytest.mark.parametrize("seeds", [1, 8])
def test_every_text_can_be_read(legible, seeds):
    legible(drawn(result(seeds=seeds)))


def test_contexts_stand_where_the_table_says_and_unreached_ones_in_the_band():
    axes = drawn(result(seeds=3)).axes
    near, step, rho = ({tuple(np.round(p, 4)) for p in _medians(ax)} for ax in axes[:3])
    assert len(near) == len(KINDS)
    assert (0.01, 0.301) in near
    assert (3 * 0.06, 0.601) in near  # fresh: beyond all others
    assert (0.9, 0.301) in step
    assert (0.601, subject.FLOOR) in rho


def _medians(ax) -> list[tuple[float, float]]:
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_markersize() == 6]


def test_the_title_says_what_the_medians_say():
    def told(**changes) -> str:
        table = result({**KINDS, **changes}).table
        return subject._first_title(table[table.moment == "trained"])

    assert told() == "The word is far,\nand the same for all"
    assert told(**{"in deployment": (0.15, 0.9, 0.0, 0.1, 0.001)}) == "The word is not far"
    assert told(**{"in deployment": (0.7, 0.9, 0.0, 0.1, 0.06)}) == "The word is far"
    table = result().table
    assert subject._step_title(table[table.moment == "trained"]) == "A step reaches a die,\nnot the word"
    few = {name: KINDS[name] for name in ("K=4", "fresh")}
    assert subject._first_title(result(few).table) == "near or far"


def test_the_caption_says_what_was_measured():
    told = subject.caption({"curry_local_or_far": result()})
    assert "8 seeds, 2 of each source and seed" in told
    assert "on 50 to 57 held-out queries" in told
    assert "the word amid text 0.15, 0.06, 0.1, 0.00, 0.92, 0.50" in told
    assert "fresh chain 0.60, none, none, 0.05, -0.90, 0.50" in told
    assert "rho -0.8" in told
    assert "(of another source: -3.0, median)" in told
    assert subject.caption({"curry_local_or_far": result(seeds=1)}).count("1 seed,") == 1


def test_no_two_sources_look_alike_and_each_has_its_name():
    assert len(set(STYLES.values())) == len(STYLES)
    assert in_order(["fresh", "another", "chain 0"]) == ["chain 0", "fresh", "another"]
    assert [label(one) for one in ("K=4", "K=64", "fresh", "copy 2")] == [
        "1 of 4 chains", "1 of 64 chains", "fresh chain", "copy 2",
    ]  # fmt: skip
