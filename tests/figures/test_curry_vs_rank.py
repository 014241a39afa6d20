"""The figure of ranks: curves and points stand where the table says, and the title follows from them."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.currying import curry_vs_rank as subject
from figures.draw import figure_for

# source -> facts, r_90
CONTEXTS = {"copy 2": (2, 2), "copy 4": (4, 4), "copy 8": (8, 8), "chain 0": (9, 1), "biased die": (6, 1)}
CONTEXTS |= {"K=4": (6, 1), "fresh": (7, 7)}
MOST = 9


def result(contexts=CONTEXTS, seeds: int = 3, known: bool = True) -> Result:
    rows = []
    for source, (facts, enough) in contexts.items():
        for seed in range(seeds):
            shared = {
                "source": source,
                "index": 0,
                "seed": seed,
                "facts": facts,
                "enough": enough,
                "queries": 40 + seed,
            }
            shares = [("kv_r", r, min(1.0, 0.9 * r / enough) - 0.01 * seed) for r in range(1, MOST + 1)]
            shares += [("lora", r, 0.1 * r) for r in (1, 2, 8)] + [("lsq_o", r, 0.1 * r) for r in (1, 8, 48)]
            shares += [("kv", 0, 1.0), ("none", 0, 0.0), ("bias", 0, 0.1), ("steer", 0, 0.4), ("bigram_shift", 0, 0.3)]
            shares += [("sink", 1, 0.5), ("sibling", 1, -2.0), ("wrong task", 1, -5.0)]
            rows += [{**shared, "method": name, "r": r, "share": one if known else np.nan} for name, r, one in shares]
    run = {"study": "curry_vs_rank", "config_hash": "0" * 12, "profile": "full"}
    config = {"net": {"model": {"n_layers": 2, "n_heads": 2}}, "contexts": 1, "steps": 8}
    return Result(pd.DataFrame(rows), {}, run={**run, "config": config})


def drawn(measured: Result):
    return figure_for("curry_vs_rank", {"curry_vs_rank": measured})


@pytest.mark.parametrize("seeds", [3, 1])
def test_every_text_can_be_read(legible, seeds):
    legible(drawn(result(seeds=seeds)))


def test_a_mean_curve_for_every_source_and_a_thin_one_for_every_seed():
    lines = [line for line in drawn(result()).axes[0].lines if len(line.get_xdata()) == MOST]
    means = [line for line in lines if line.get_marker() not in ("None", "")]
    assert len(means) == len(CONTEXTS)
    assert len(lines) == 4 * len(CONTEXTS)
    assert means[1].get_ydata()[1] == pytest.approx(0.9 / 2 - 0.01)


def test_every_context_is_a_point_at_its_facts_and_its_r90_and_open_beyond_the_last_pair():
    ax = drawn(result({**CONTEXTS, "fresh": (7, MOST + 1)})).axes[1]
    points = np.concatenate([one.get_offsets() for one in ax.collections])
    assert {(round(x), round(y)) for x, y in points} == {*CONTEXTS.values()} - {(7, 7)} | {(7, MOST + 1)}
    assert len(points) == 3 * len(CONTEXTS)
    white = [one for one in ax.collections if (one.get_facecolor()[:, :3] == 1).all()]
    assert [len(one.get_offsets()) for one in white] == [3]
    assert [label.get_text() for label in ax.get_yticklabels()][-1] == f">{MOST}"


def test_the_message_is_in_numbers_of_the_table():
    said = subject.message(result().table)
    assert said == "Copying takes 1.0 pairs per further fact, a known source 1 pair in all"
    hard = {**CONTEXTS, "chain 0": (9, 3), "K=4": (6, 3)}
    assert subject.message(result(hard).table).endswith("a known source 3 pairs in all")
    assert subject.message(result({"fresh": (7, 7)}).table) == ""


def test_a_source_of_ones_own_is_drawn_too():
    figure = drawn(result({**CONTEXTS, "K=64": (7, 5)}))
    assert "K=64" in [text.get_text() for text in figure.axes[5].get_legend().get_texts()]


def test_the_caption_says_what_was_measured():
    told = subject.caption({"curry_vs_rank": result({**CONTEXTS, "fresh": (7, MOST + 1)})})
    assert "transformers of 2 layers, 1 a source for each of 3 seeds" in told
    assert "40 to 42 held-out queries" in told
    assert "it rises by 1.00 a fact" in told
    assert "one point for each of 21 contexts" in told
    assert (
        "Copy 4, 4 facts: median 4 pairs, 1 to 9 pairs 0.21 to 0.99, rank 1 to 8 0.10 to 0.80, best null steer" in told
    )
    assert "Fresh chain, 7 facts: median 10 pairs (3 of 3 beyond 9)" in told
    quiet = subject.caption({"curry_vs_rank": result({"chain 0": (9, 10)}, known=False)})
    assert "Chain 0: says almost nothing." in quiet
