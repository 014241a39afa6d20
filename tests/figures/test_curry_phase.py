"""The phase figure: points where the table says, and a title that the numbers bear."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.currying import curry_phase as subject
from figures.draw import figure_for

SIZES, STEPS = (4, 64, 0), (0, 400, 1600)
WAYS = ["unigram retrieval", "bigram retrieval", "unigram inference", "bigram inference"]
SHARES = {4: 0.95, 64: 0.3, 0: 0.1}


def result(shares=SHARES, seeds: int = 5) -> Result:
    rows = []
    for size in SIZES:
        for step in STEPS:
            for seed in range(seeds):
                share = shares[size] + 0.01 * seed if step else np.nan
                row = {"n_chains": size, "step": step, "seed": seed, "context": 0, "inference": 1 - shares[size]}
                row |= {"baseline_kl": 0.2, "sink": share, "rho_last": 0.8 * (1 - shares[size]) if step else 0.01}
                row |= {"rho_first": 0.3, "rho_look_up": 0.7}
                beside = {"lsq_o": 0.97, "bias": 0.1, "steer": -3.0, "bigram_shift": 0.5, "sibling": 0.6}
                rows.append(row | {name: value if step == STEPS[-1] else np.nan for name, value in beside.items()})
    weights = np.full((3, 3, seeds, 4), 0.25)
    weights[2, ..., :2], weights[2, ..., 2:] = np.nan, 0.5
    losses = np.broadcast_to([1.3, 2.5, 1.2, 1.5], (3, 3, seeds, 4))
    config = {"n_chains": list(SIZES), "steps": list(STEPS), "seeds": list(range(seeds))}
    config |= {"context_length": 32, "queries": {"length": 12}}
    config |= {"pools": {"model": {"n_layers": 2}, "task": {"n_symbols": 8}, "train": {"steps": 1600}}}
    run = {"study": "curry_phase", "config_hash": "0" * 12, "profile": "full", "config": config, "ways": WAYS}
    arrays = {"weights (chains, step, seed, way)": weights, "losses (chains, step, seed, which)": losses}
    return Result(pd.DataFrame(rows), arrays, run=run)


def drawn(measured: Result):
    return figure_for("curry_phase", {"curry_phase": measured})


@pytest.mark.parametrize("seeds", [8, 1])
def test_every_text_can_be_read(legible, seeds):
    legible(drawn(result(seeds=seeds)))


def test_the_title_says_what_the_shares_bear():
    assert "models of 4 chains make of a context, not 64 and fresh" in drawn(result()).get_suptitle()
    assert "models of 4 and fresh chains" in drawn(result({4: 0.95, 64: 0.3, 0: 0.9})).get_suptitle()
    assert "How much" in drawn(result({4: 0.75, 64: 0.6, 0: 0.0})).get_suptitle()
    assert "How much" in drawn(result({4: 0.4, 64: 0.3, 0: 0.0})).get_suptitle()


def test_every_share_is_drawn_and_what_is_too_low_stands_on_the_edge():
    axes = drawn(result()).axes[1]
    lines = [line for line in axes.lines if line.get_linestyle() == "None"]
    heights = np.concatenate([line.get_ydata() for line in lines])
    assert heights.min() == subject.FLOOR
    assert {0.97, 0.5, 0.6} <= set(np.round(heights, 2))


def test_weights_stack_to_one_at_every_size():
    bars = drawn(result()).axes[0].patches
    tops = {round(bar.get_x(), 3): 0.0 for bar in bars}
    for bar in bars:
        tops[round(bar.get_x(), 3)] += bar.get_height()
    assert list(tops.values()) == pytest.approx([1, 1, 1])


def test_the_caption_counts_and_computes():
    words = subject.caption({"curry_phase": result()})
    assert "5 seeds (points)" in words
    assert "0.97, 0.32, 0.12" in words
    assert "0.10 (bias), -3.00 (steer), 0.50 (bigram_shift)" in words
    assert "K = 4, 64, fresh" in words
    assert "still speak unigrams" not in words
    half = result()
    half.table.loc[(half.table.n_chains == 0) & (half.table.seed < 2), ["inference", "sink"]] = 0.2, 0.9
    assert "2 of 5 models still speak unigrams, and the edit removes 0.90; of the others 0.13" in subject.caption(
        {"curry_phase": half}
    )
