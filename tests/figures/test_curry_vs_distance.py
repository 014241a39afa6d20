"""The figure of distances: points stand where the table says, verdicts follow from the numbers."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.currying import curry_vs_distance as subject
from figures.draw import figure_for

POINTS = {  # method -> share, distance
    "none": (0.0, 0.0),
    "bias": (0.1, 0.0),
    "steer": (0.5, 0.0),
    "bigram_shift": (0.3, 0.0),
    "sibling": (0.6, 0.7),
    "wrong task": (-4.0, 0.9),
    "sink": (0.95, 0.8),
    "lsq_o": (0.96, 1.2),
    "child": (0.7, 0.2),
    "gradient": (0.2, 0.03),
    "distill_gradient": (0.5, 0.05),
}
PATHS = [("alpha", "sink", a, 1 - abs(1 - a), 0.8 * a) for a in (0.0, 0.5, 1.0, 1.5)]
PATHS += [("alpha", "lsq", a, 1 - abs(1 - a), 1.1 * a) for a in (0.0, 0.5, 1.0, 1.5)]
PATHS += [("length", "gradient", x, 0.3 - 3 * x, x) for x in (0.01, 0.1, 0.5)]
PATHS += [("reg", "lsq", reg, 0.97 - reg / 50, 1 / (1 + reg)) for reg in (0.0, 3.0)]
PATHS += [("rank", "lora", r, 0.9, 0.75) for r in (1, 4)]
DESCENTS = [
    ("steps", method, start, at, np.exp(-at / 8), error)
    for method, error in (("entity", 0.4), ("kl", 0.9))
    for start in ("none", "sink")
    for at in (0, 6, 12)
]


def result(names=("chain 0", "copy 4"), seeds: int = 3, least: float = 0.1) -> Result:
    rows = []
    for name in names:
        for seed in range(seeds):
            key = {"context": name, "seed": seed, "start": "", "baseline_kl": 0.3, "queries": 90 + seed}
            points = [("", method, np.nan, share, far) for method, (share, far) in POINTS.items()]
            for path, method, at, share, far in (*points, *PATHS):
                row = {"path": path, "method": method, "at": at, "share": share, "distance": far}
                rows.append({**key, **row, "kl": 0.3 * (1 - share), "entity_error": 0.3 + far})
            for path, method, start, at, kl, error in DESCENTS:
                row = {"path": path, "method": method, "start": start, "at": at, "kl": kl, "entity_error": error}
                rows.append({**key, **row, "share": 1 - kl, "distance": 0.1})
    arrays = {
        "cosine, gauge-free cosine (context, seed, pair, measure)": np.full((len(names), seeds, 5, 2), 0.2),
        "ln entity error in KL over in entities, at equal KL (context, seed, start)": np.full(
            (len(names), seeds, 2), np.log(2.0)
        ),
        "least distance (context, seed)": np.full((len(names), seeds), least),
    }
    run = {"study": "curry_vs_distance", "config_hash": "0" * 12, "profile": "full", "contexts": list(names)}
    run |= {"config": {"context_length": 20, "query_length": 12}, "pairs": list(subject.PAIRS)}
    return Result(pd.DataFrame(rows), arrays, run=run)


def drawn(measured: Result):
    return figure_for("curry_vs_distance", {"curry_vs_distance": measured})


@pytest.mark.parametrize("seeds", [1, 8])
def test_every_text_can_be_read(legible, seeds):
    legible(drawn(result(("chain 0", "biased die", "copy 4", "in deployment"), seeds)))


def test_methods_stand_at_their_distance_and_share_and_nulls_are_lines():
    ax = drawn(result()).axes[0]
    points = {(round(x, 6), round(y, 6)) for line in ax.lines for x, y in zip(*line.get_data(), strict=True)}
    for method in ("sink", "lsq_o", "child", "gradient", "distill_gradient"):
        share, far = POINTS[method]
        assert (far, share) in points
    flat = {round(float(line.get_ydata()[0]), 6) for line in ax.lines if list(line.get_xdata()) == [0, 1]}
    assert flat == {0.1, 0.5, 0.3, 0.6, subject.ENOUGH}


def test_what_is_too_bad_stands_on_the_edge():
    ax = drawn(result()).axes[0]
    assert min(min(line.get_ydata()) for line in ax.lines) == subject.FLOOR  # the longest gradient step: -1.2


def test_both_objectives_have_a_path_from_either_start_and_each_seed_a_thin_one():
    ax = drawn(result()).axes[4]
    assert len(ax.lines) == 4 * (3 + 1)
    errors = {round(float(line.get_ydata()[-1]), 6) for line in ax.lines}
    assert errors == {0.4, 0.9}


def test_the_verdict_counts_the_seeds_that_get_there():
    some = result()
    some.arrays["least distance (context, seed)"][0] = (0.05, 0.2, 1.0)
    assert subject.verdict(some, 0) == "90 % at 0.12 |W|\n(2 of 3 seeds)"
    assert subject.verdict(some, 1) == "90 % at 0.1 |W|\n(3 of 3 seeds)"
    assert subject.verdict(result(seeds=1, least=1.0), 0) == "90 % nowhere\n(0 of 1 seed)"


def test_the_caption_says_what_was_measured():
    told = subject.caption({"curry_vs_distance": result()})
    assert "Contexts of 20 tokens, 3 seeds" in told
    assert "on 90 to 92 held-out queries of 12 tokens" in told
    assert "Chain 0, 0.30 nats without the context: 90 % is gone in 3 of 3 seeds, first at 0.1 to 0.1 |W|" in told
    assert "sink 0.95, best null sibling 0.60, wrong task -4.0, best step down the gradient 0.20" in told
    assert "the KL fit's entity error is 2.00 (from none) and 2.00 (from sink) times" in told
    assert "90 % is gone in 0 of 3 seeds; sink" in subject.caption({"curry_vs_distance": result(least=1.0)})
