"""The figure of composition: every way stands where the table says, and words follow from the numbers."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.currying import curry_composition as subject
from figures.draw import figure_for

PAIRS = ("chain 0", "biased die", "copy 2", "copy 4", "in deployment", "chain 0 then chain 1",
         "chain 0 then in deployment", "biased die then copy 4")  # fmt: skip
WAYS = {"baseline_kl": 0.3, "direct_kl": 0.01, "composed_kl": 0.02, "half_kl": 0.012, "swapped_kl": 0.025}
WAYS |= {"added_kl": 0.5, "oracle_swapped_kl": 0.015}
WEIGHTS = {"composed_apart": 0.3, "composed_free_apart": 0.35, "again_apart": 0.1, "again_free_apart": 0.12}


def result(seeds: int = 8, pairs=PAIRS) -> Result:
    rows = []
    for at, pair in enumerate(pairs):
        for seed in range(seeds):
            for method in ("sink", "lsq_o"):
                told = {"pair": pair, "seed": seed, "method": method, "queries": 30 + seed, "composed_cosine": 0.96}
                away = {name: value * (1 + at) * (1 + 0.013 * seed) for name, value in WAYS.items()}
                rows.append({**told, **away, **WEIGHTS})
    run = {"study": "curry_composition", "config_hash": "0" * 12, "profile": "full", "pairs": list(pairs)}
    run["config"] = {"length": 20, "queries": {"length": 12}}
    return Result(pd.DataFrame(rows), {"cache error (seed, pair)": np.full((seeds, len(pairs)), 3e-7)}, run=run)


def drawn(measured: Result):
    return figure_for("curry_composition", {"curry_composition": measured})


@pytest.mark.parametrize(("seeds", "pairs"), [(1, PAIRS), (8, PAIRS), (2, PAIRS[:2])])
def test_every_text_can_be_read(legible, seeds, pairs):
    legible(drawn(result(seeds, pairs)))


def test_every_way_of_every_pair_has_its_seeds_and_their_median():
    ax = drawn(result(3)).axes[0]
    points = np.array([p for line in ax.lines for p in zip(*line.get_data(), strict=True)])
    for at in range(len(PAIRS)):
        for column, (_, _, _, shift) in subject.WAYS.items():
            for seed in range(3):
                wanted = (WAYS[column] * (1 + at) * (1 + 0.013 * seed), at + shift)
                assert np.abs(points - wanted).max(1).min() < 1e-9


def test_outputs_stand_against_weights():
    ax = drawn(result(1)).axes[3]
    points = {(round(line.get_xdata()[0], 6), round(line.get_ydata()[0], 6)) for line in ax.lines[:-1]}
    assert points == {(0.3, 2.0)}


def test_names_and_verdicts_follow_from_the_table():
    assert subject.named("chain 0") == "chain 0, halves"
    assert subject.named("in deployment") == "the word, halves"
    assert subject.named("chain 0 then in deployment") == "chain 0,\nthen the word"
    assert subject.verdict(result(2).table) == "KL times 2.0"


def test_the_caption_says_what_was_measured():
    told = subject.caption({"curry_composition": result()})
    assert "of 20 tokens together, 8 seeds (faint; large: medians), on 30 to 37 held-out queries of 12 tokens" in told
    assert "Cached keys and values compose to 3e-07" in told
    assert "chain 0, halves 0.01, 0.021, 0.013, 0.016; 0.30, 0.96" in told
    assert subject.caption({"curry_composition": result(1)}).count("1 seed ") == 1
