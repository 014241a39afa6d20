"""The figure of context length: lines are the table's, the best null is the best, and words follow from numbers."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.currying import curry_vs_context_length as subject
from figures.draw import figure_for

LENGTHS = (1, 2, 5, 10, 20)
SOURCES = ("chain 0", "biased die", "copy 2", "copy 4", "in deployment", "K=4", "fresh")
HARDER = ("copy 2", "copy 4", "fresh")
SHARES = {"lsq_o": 0.95, "none": 0.0, "bias": 0.1, "steer": 0.4, "bigram_shift": 0.6, "sibling": -2.0,
          "wrong task": -5.0, "oracle": 1.0}  # fmt: skip


def result(seeds: int = 8, sources=SOURCES) -> Result:
    rows = []
    for source in sources:
        for seed in range(seeds):
            for n in LENGTHS:
                left = 0.1 * n**0.5 if source in HARDER else 0.1 / n if source != "in deployment" else 0.1
                told = {"source": source, "seed": seed, "n": n, "rho_last": 0.02 * n, "untrained_rho_last": 0.01}
                told |= {"queries": 40 + seed, "baseline_kl": 1.0}
                for method, share in {"sink": 1 - left, **SHARES}.items():
                    share = share - 0.001 * seed
                    rows.append({**told, "method": method, "kl": 1 - share, "share": share, "bayes_kl": 1.1 - share})
    run = {"study": "curry_vs_context_length", "config_hash": "0" * 12, "profile": "full"}
    run["config"] = {"queries": {"length": 12}}
    return Result(pd.DataFrame(rows), {"empty context: largest difference (seed)": np.zeros(seeds)}, run=run)


def drawn(measured: Result):
    return figure_for("curry_vs_context_length", {"curry_vs_context_length": measured})


@pytest.mark.parametrize(("seeds", "sources"), [(1, SOURCES), (8, SOURCES), (2, ("chain 0", "copy 4", "fresh"))])
def test_every_text_can_be_read(legible, seeds, sources):
    legible(drawn(result(seeds, sources)))


def test_every_seed_and_the_mean_are_drawn_and_what_is_too_low_stands_on_the_edge():
    ax = drawn(result(3)).axes[0]
    assert len([line for line in ax.lines if len(line.get_xdata()) == len(LENGTHS)]) == 4 * (3 + 1)
    means = [line.get_ydata() for line in ax.lines if line.get_linewidth() == 1.4]
    assert means[0] == pytest.approx([1 - 0.1 / n - 0.001 for n in LENGTHS])
    assert means[3] == pytest.approx([subject.FLOOR] * len(LENGTHS))


def test_the_best_null_is_the_shift_that_leaves_least():
    table = subject.with_best_null(result(2).table)
    assert table[table.method == subject.BEST].share.tolist() == pytest.approx(
        table[table.method == "bigram_shift"].share.tolist()
    )


def test_titles_say_whether_longer_is_easier():
    table = result(2).table
    words = {source: subject.title(table, source).split("\n")[1] for source in SOURCES}
    assert words["chain 0"] == "easier"
    assert words["copy 4"] == "harder"
    assert words["in deployment"] == "as hard"


def test_four_sources_get_a_panel():
    assert subject.shown(["chain 0", "biased die", "copy 2", "copy 4", "in deployment"]) == [
        "chain 0", "biased die", "copy 4", "in deployment",
    ]  # fmt: skip
    assert subject.shown(["chain 0", "copy 2"]) == ["chain 0", "copy 2"]


def test_the_caption_says_what_was_measured():
    told = subject.caption({"curry_vs_context_length": result()})
    assert "8 seeds (thin; thick: means), on 40 to 47 held-out queries of 12 tokens" in told
    assert "The empty context gives W back to 0." in told
    assert "chain 0 1.00, 0.90, 0.02 to 1.00, 0.99, 0.40" in told
    assert "the word first 1.00, 0.90, 0.02" in told
