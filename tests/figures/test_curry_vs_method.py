"""The figure of every method: points stand where the table says, and verdicts follow from the numbers."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.currying import curry_vs_method as subject
from figures.draw import figure_for

# method -> family, share, share of the sibling's W'
METHODS = {
    "kv": ("exact", 1.0, np.nan),
    "sink": ("closed form", 0.95, 0.6),
    "sink, uniform queries": ("closed form", 0.94, np.nan),
    "lsq_o": ("closed form", 0.96, 0.5),
    "lora 1": ("descent", 0.96, 0.6),
    "finetune": ("descent", -2.0, -1.0),
    "gradient": ("gradient", 0.2, 0.1),
    "none": ("null", 0.0, np.nan),
    "bias": ("null", 0.1, 0.1),
    "steer": ("null", 0.4, 0.3),
    "bigram_shift": ("null", 0.5, 0.4),
    "kv_r 1": ("learned pairs", 0.95, 0.6),
    "kv_r 5": ("learned pairs", 0.99, 0.5),
    "wrong task": ("null", -5.0, np.nan),
}
SOURCES = {
    "chain 0": {},
    "biased die": {"sink": ("closed form", 0.99, 0.96)},
    "in deployment": {"bigram_shift": ("null", 0.87, 0.85), "sink": ("closed form", 0.9, 0.86)},
    "copy 4": {"sink": ("closed form", 0.3, -1.5)},
}


def result(sources=SOURCES, seeds: int = 3) -> Result:
    rows = [
        {**{"source": source, "index": i, "seed": seed, "method": name, "family": family, "r": 0},
         **{"kl": 0.2 * (1 - share), "baseline_kl": 0.2, "share": share + 0.01 * (seed - 1), "sibling_share": sibling},
         **{"context_share": 1 - (1 - share) / (1 - sibling), "entity_error": 0.9 - 0.3 * share, "fit_error": 0.1},
         **{"posterior": 0.9, "queries": 60 + seed}}
        for source, changes in sources.items()
        for name, (family, share, sibling) in {**METHODS, **changes}.items()
        for seed in range(seeds)
        for i in range(2)
    ]  # fmt: skip
    config = {"net": {"model": {"n_layers": 2}, "task": {"n_chains": 4}}, "contexts": 2, "context_length": 20}
    run = {"study": "curry_vs_method", "config_hash": "0" * 12, "profile": "full"}
    return Result(pd.DataFrame(rows), {}, run={**run, "config": {**config, "query_length": 12}})


def drawn(measured: Result):
    return figure_for("curry_vs_method", {"curry_vs_method": measured})


@pytest.mark.parametrize("seeds", [3, 1])
def test_every_text_can_be_read(legible, seeds):
    legible(drawn(result(seeds=seeds)))


def test_every_mean_stands_where_the_table_says_and_what_is_too_low_on_the_edge():
    axes = np.array(drawn(result()).axes).reshape(3, 4)
    methods = [label.get_text() for label in axes[0, 0].get_yticklabels()]
    assert methods[:5] == ["none", "bias", "steer", "bigram_shift", "wrong task"]
    assert set(methods) == set(METHODS)
    points = {
        (round(x, 6), methods[round(y)])
        for line in axes[0, 0].lines
        if line.get_markersize() == 3.8
        for x, y in zip(*line.get_data(), strict=True)
    }
    assert points == {(max(share, -0.6), name) for name, (_, share, _) in METHODS.items()}
    siblings = [line for line in axes[0, 0].lines if line.get_marker() == "D"]
    assert len(siblings) == sum(not np.isnan(sibling) for *_, sibling in METHODS.values())


def test_seeds_are_drawn_one_by_one():
    ax = drawn(result()).axes[0]
    assert {len(line.get_xdata()) for line in ax.lines if line.get_markersize() == 2.2} == {3}


def test_the_verdict_is_the_null_that_knows_least_and_suffices():
    told = {name: subject.verdict(rows) for name, rows in result().table.groupby("source", sort=False)}
    assert told == {
        "chain 0": "this very context",
        "biased die": "its task",
        "in deployment": "mostly a bigram law",
        "copy 4": "this very context",
    }
    simple = {"die": {"bias": ("null", 0.92, 0.9), "steer": ("null", 0.95, 0.9)}}
    assert subject.verdict(result(simple).table) == "a marginal"
    quiet = result({"die": {name: (family, np.nan, np.nan) for name, (family, *_) in METHODS.items()}})
    assert subject.verdict(quiet.table) == "next to nothing"


def test_titles_carry_the_verdict():
    figure = drawn(result())
    assert [ax.get_title() for ax in figure.axes[:2]] == ["chain 0:\nthis very context", "biased die:\nits task"]


def test_the_caption_says_what_was_measured():
    told = subject.caption({"curry_vs_method": result()})
    assert "Contexts of 20 tokens, 2 of each source for each of 3 seeds" in told
    assert "trained on 4 chains" in told
    assert "60 to 62 held-out queries of 12 tokens" in told
    assert "Chain 0 (0.20 nats without the context): this very context (bias 0.10, steer 0.40, bigram_shift" in told
    assert (
        "sibling 0.96; sink 0.99, its own share 0.75, on uniform queries 0.94, entity error 0.60, kv_r 5 0.99)" in told
    )
    quiet = {"die": {name: (family, np.nan, np.nan) for name, (family, *_) in METHODS.items()}}
    assert "Die (0.20 nats without the context): next to nothing." in subject.caption(
        {"curry_vs_method": result(quiet, 1)}
    )
