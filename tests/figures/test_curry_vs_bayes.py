"""The figure of W' beside Bayes: every point stands where the table says, and the title follows from the numbers."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.currying import curry_vs_bayes as subject
from figures.draw import figure_for

FULL = ("K=2", "K=4", "K=16", "K=64", "fresh", "chain 0", "biased die", "copy 2", "in deployment")
PREDICTORS = {"with context": 0.1, "none": 1.0, "bias": 0.8, "steer": 0.7, "bigram_shift": 0.4, "sink": 0.2}
PREDICTORS |= {"lsq_o": 0.15, "sibling": 0.3, "wrong task": 2.0}
TESTED = ("Bayes", *subject.TESTED, "2 layers, none")


def rows(nets: tuple[str, ...], pools: tuple[str, ...], told: float):
    for net in nets:
        yield from (("bayes", net, who, 0, "kl", value) for who, value in PREDICTORS.items())
    for net in (*pools, "two dice"):
        for i, what in enumerate(subject.VECTORS):
            if net != "two dice" or "lsq_o" not in what:
                yield "odds", net, what, 0, "participation", 2.0 + i
            r2 = told if what == "outputs, trained" else 0.1
            yield "odds", net, what, 0, "R2 posterior", r2
            yield "odds", net, what, 0, "R2 shuffled", -0.9
    yield "odds", "two dice", "gate bias, trained", 0, "R2 odds", 0.4
    for i, who in enumerate(TESTED):
        for at in (2, 28):
            yield "martingale", "new dice", who, at, "gap", 1e-16 if who == "Bayes" else 0.02 * (i + 1) / at
            yield "martingale", "new dice", who, at, "move", 0.2 / at
            yield "martingale", "new dice", who, at, "order variance", 1e-6


def result(nets=FULL, pools=("K=2", "K=4", "K=16"), told: float = 0.8, seeds: int = 8) -> Result:
    names = ["part", "net", "what", "at", "quantity", "value"]
    one = pd.DataFrame(rows(nets, pools, told), columns=names)
    scaled = [one.assign(seed=seed, value=one.value * (1 + 0.02 * seed)) for seed in range(seeds)]
    cloud = np.random.default_rng(0).normal(size=(seeds, 12, 5))
    cloud[..., 4] = np.arange(12) % 4
    config = {"queries": [64, 64], "contexts": 2, "many": 40, "pool_length": 32}
    run = {"study": "curry_vs_bayes", "config_hash": "0" * 12, "profile": "full", "config": config}
    return Result(pd.concat(scaled), {"points K=4 (seed, context, number)": cloud}, run=run)


def drawn(measured: Result):
    return figure_for("curry_vs_bayes", {"curry_vs_bayes": measured})


@pytest.mark.parametrize(
    "measured",
    [result(), result(("K=4", "K=64", "fresh", "in deployment"), ("K=4",), seeds=1)],
    ids=["full", "quick"],
)
def test_every_text_can_be_read(legible, measured):
    legible(drawn(measured))


def test_means_stand_at_their_values_and_the_best_null_is_the_least():
    measured = result(seeds=1)
    axes = drawn(measured).axes
    heights = {round(float(line.get_ydata()[0]), 9) for line in axes[0].lines if len(line.get_ydata()) == 1}
    assert {0.4, 0.2, 0.15, 0.3, 2.0} <= heights
    assert 0.7 not in heights  # steer, and not the best
    bounds = {round(float(line.get_ydata()[0])) for line in axes[3].lines if len(line.get_ydata()) == 2}
    assert bounds == {1, 3, 15}


def test_what_is_below_the_panel_stands_on_its_edge():
    lines = drawn(result(seeds=1)).axes[4].lines
    assert min(float(np.min(line.get_ydata())) for line in lines) == -0.5


def test_the_title_follows_from_the_numbers():
    assert subject.title(result()) == "Evidence is in what W' does, not in where W' lies"
    assert subject.title(result(told=0.15)) == "Neither updates nor outputs tell"
    known = result(told=0.9)
    known.table.loc[known.table.quantity == "R2 posterior", "value"] = 0.8
    assert subject.title(known) == "Updates tell the evidence as well as outputs do"


def test_the_caption_says_what_was_measured():
    told = subject.caption({"curry_vs_bayes": result(seeds=1)})
    assert told.startswith("1 seed (small; large: means). (a) KL from the exact predictor, nats, on up to 64 own")
    assert "K=4 0.100, 0.200, 0.150, 0.400;" in told
    assert "K=16 4.0 and 5.0, R2 0.10 and 0.80" in told
    assert "with R2 0.40 at best" in told
    assert "Bayes's gap is 1e-16 at most; at 28 throws the model's is" in told
