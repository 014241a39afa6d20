"""The figure of gradient steps: shares, cones and maps stand where the table says."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from analyses.core.results import Result
from figures import parts
from figures.currying import curry_vs_gradient as subject
from figures.draw import figure_for

SHARES = {
    ("null", "none"): 0.0,
    ("null", "bias"): 0.1,
    ("null", "steer"): 0.5,
    ("null", "bigram_shift"): 0.4,
    ("null", "sibling"): 0.6,
    ("null", "wrong task"): -4.0,
    ("method", "sink"): 0.95,
    ("method", "lsq_o"): 0.96,
    ("step", "plain"): 0.15,
    ("step", "sign"): 0.12,
    ("step", "rms"): 0.13,
    ("step", "fisher"): -0.05,
    ("distilled", "plain"): 0.5,
    ("distilled", "rms"): 0.55,
}
WHOLE = {("step", "by matrix"): 0.25, ("step", "3 steps"): 0.2, ("step", "10 steps"): 0.22}
WHOLE |= {("distilled", "by matrix"): 0.65}
FOUR = ("chain 0", "biased die", "copy 4", "in deployment")


def rows(context: str, seed: int, length: int, whole: bool, up: float):
    key = {
        "context": context,
        "seed": seed,
        "length": length,
        "baseline_kl": 0.3,
        "rho": 0.2 + up,
        "queries": 90 + seed,
    }
    for (kind, method), share in (SHARES | (WHOLE if whole else {})).items():
        yield {**key, "kind": kind, "method": method, "share": share + (up if method == "bias" else 0)}
    for method in ("gradient", "distill_gradient", *(("random",) if whole else ())):
        yield {**key, "kind": "direction", "method": method, "curried_cosine": 0.4, "context_cosine": 0.3}
        for angle, share in ((0.0, 0.15), (30.0, 0.7), (90.0, 0.9)) if whole else ():
            yield {**key, "kind": "cone", "method": method, "angle": angle, "share": share}


def result(names=("chain 0", "copy 4"), seeds: int = 3, lengths=(5, 10, 20)) -> Result:
    table = pd.DataFrame([
        row
        for place, name in enumerate(names)
        for seed in range(seeds)
        for length in lengths
        for row in rows(name, seed, length, length == lengths[-1], up=0.1 * place)
    ])  # fmt: skip
    run = {"study": "curry_vs_gradient", "config_hash": "0" * 12, "profile": "full", "contexts": list(names)}
    return Result(table, {}, run=run | {"config": {"query_length": 12}})


def drawn(measured: Result):
    return figure_for("curry_vs_gradient", {"curry_vs_gradient": measured})


@pytest.mark.parametrize(("names", "seeds", "lengths"), [(FOUR, 8, (5, 10, 20)), (("copy 4",), 1, (20,))])
def test_every_text_can_be_read(legible, names, seeds, lengths):
    legible(drawn(result(names, seeds, lengths)))


def test_every_arm_has_its_line_and_what_is_too_bad_stands_on_the_edge():
    ax = drawn(result()).axes[0]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[labels.index("step, by matrix") + 1 :][:2] == ["3 steps", "10 steps"]
    assert len(labels) == len(SHARES) - 1 + len(WHOLE)  # none has no line: it removes nothing
    means = {labels[int(line.get_ydata()[0])]: line.get_xdata()[0] for line in ax.lines if line.get_marker() == "|"}
    assert means["KL step, by matrix"] == pytest.approx(0.65)
    assert means["wrong task"] == subject.FLOOR


def test_cones_have_a_line_per_direction_and_seed():
    ax = drawn(result()).axes[4]
    assert len([line for line in ax.lines if len(line.get_xdata()) == 3]) == 3 * (3 + 1)


def test_the_map_has_a_point_for_every_context_length_and_seed_at_its_best_step():
    ax = drawn(result()).axes[9]
    points = [line for line in ax.lines if line.get_marker() in subject.MARKERS]
    assert sum(len(line.get_xdata()) for line in points) == 2 * 3 * 3
    assert {round(float(y), 6) for line in points for y in line.get_ydata()} == {0.15, 0.25}


def test_a_context_that_says_nothing_leaves_a_gap():
    quiet = result()
    quiet.table.loc[(quiet.table.context == "copy 4") & (quiet.table.length == 5), "share"] = np.nan
    ax = drawn(quiet).axes[9]
    points = [line for line in ax.lines if line.get_marker() in subject.MARKERS]
    assert sum(len(line.get_xdata()) for line in points) == 2 * 3 * 3 - 3


def test_no_context_has_the_colour_of_a_method_or_of_another():
    named = drawn(result(FOUR)).legends[0].legend_handles
    assert len({(to_hex(key.get_color()), key.get_marker(), key.get_linestyle()) for key in named}) == len(named)
    with parts.house_style():
        taken = [to_hex(one) for one in (*subject.KINDS.values(), *subject.CONTEXTS)]
    assert len(set(taken)) == len(taken)


def test_the_verdict_is_the_best_step_beside_sink():
    table = result().table
    assert subject.verdict(table[table.length == 20]) == "best step 0.25,\nsink 0.95"


def test_the_caption_says_what_was_measured():
    told = subject.caption({"curry_vs_gradient": result()})
    assert told.startswith("Contexts of 20 tokens, 3 seeds (points and thin lines), on 90 to 92 held-out queries of 12")
    assert "at 5, 10, 20 tokens" in told
    assert "Chain 0, 0.30 nats: best step 0.25, step down the KL 0.65, sink 0.95, bias 0.10; within 30 degrees" in told
    assert "of the gradient 0.70, of a random direction 0.70; logit changes 0.40." in told
