"""The figure shows identities beside what must fail, and models beside the step and no answer at all."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.currying import curry_vs_gradient_exact as subject
from figures.draw import figure_for

SCALES = [0.5, 1.0, 2.0]
EXACT = {("slow weights", "Q1"): 4e-16, ("slow weights", "Q2"): 0.0, ("gradient-step layers", "3 layers"): 2e-15}
COSINES = dict(zip(subject.COLORS, (1.0, 0.9997, 0.93, 0.6, 0.02, -0.04), strict=True))
RATIOS = dict(zip(subject.COLORS, (1.0, 1.002, 1.08, 1.9, 2.02, 2.05), strict=True))


def rows(seed: int):
    for (instrument, quantity), error in EXACT.items():
        yield instrument, quantity, error, error, 1e-12
    yield "slow weights", subject.UNPROJECTED, 0.3 + seed, 0.0, 1e-12
    yield "no constant coordinate", subject.LONE, 0.0889, 1e-4, 4e-3
    for n, gamma in ((10, 0.98), (100, 1.02)):
        yield "GD++, 2 tied steps", f"best gamma over the learned, n = {n}", gamma, 0.02, 0.05
    for name in subject.COLORS:
        for quantity, value in (
            (subject.RATIO, RATIOS[name]),
            (subject.COSINE, COSINES[name]),
            (subject.ANSWERS, 0.02),
        ):
            yield name, quantity, value, abs(value - 1), np.nan


def result(seeds: int = 5) -> Result:
    columns = ["instrument", "quantity", "measured", "error", "tolerance"]
    table = pd.concat(pd.DataFrame(rows(seed), columns=columns).assign(seed=seed) for seed in range(seeds))
    fall = np.linspace(0.417, 0.21, 4)
    arrays = {
        "loss (condition, seed, mark)": np.broadcast_to(fall, (6, seeds, 4)),
        "loss (condition, seed, scale)": np.broadcast_to([0.08, 0.21, 5.0], (6, seeds, 3)),
        "marks (updates)": np.array([0, 100, 200, 300]),
        "loss (seed, kind, depth)": np.broadcast_to([[0.206, 0.155, 0.13], [0.206, 0.11, 0.08]], (seeds, 2, 3)),
    }
    config = {"tasks": 1000, "scales": SCALES, "task": {"n_examples": 10, "d_in": 10}}
    theory = {"rate": 6.06, "step": [0.081, 0.206, 5.2], "zero": [0.104, 0.417, 1.67]}
    run = {"study": "curry_vs_gradient_exact", "config_hash": "0" * 12, "profile": "full"}
    return Result(table.reset_index(drop=True), arrays, run={**run, "config": config, "theory": theory})


def drawn(measured: Result):
    return figure_for("curry_vs_gradient_exact", {"curry_vs_gradient_exact": measured})


@pytest.mark.parametrize("seeds", [1, 5])
def test_every_text_can_be_read(legible, seeds):
    legible(drawn(result(seeds)))


def test_identities_stand_left_of_their_tolerance_and_what_must_fail_right():
    ax = drawn(result()).axes[0]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["Q1", "Q2", "3 layers", subject.UNPROJECTED, "not projected on W", "no constant coordinate"]
    points = np.concatenate([one.get_offsets() for one in ax.collections[:3]])
    assert len(points) == 5 * 6
    assert points[points[:, 1] <= 3][:, 0].max() < 1e-12
    assert points[points[:, 1] > 3][:, 0].min() > 0.05
    low, high = ax.get_xlim()
    assert low < points[:, 0].min() <= points[:, 0].max() < high


def test_every_model_has_a_mark_per_seed_beside_chance():
    ax = drawn(result(3)).axes[2]
    marks = {line.get_label(): line for line in ax.lines if line.get_label() in subject.COLORS}
    assert list(marks) == list(subject.COLORS)
    for name, line in marks.items():
        assert line.get_ydata().tolist() == [COSINES[name]] * 3
        assert line.get_xdata().tolist() == [RATIOS[name]] * 3
    assert any("chance" in text.get_text() for text in ax.texts)


def test_no_value_lies_outside_its_panel():
    for ax in drawn(result()).axes[1:]:
        low, high = ax.get_ylim()
        for line in ax.lines:
            assert low <= np.min(line.get_ydata()) <= np.max(line.get_ydata()) <= high or len(line.get_xdata()) == 2


def test_the_caption_says_what_was_measured():
    told = subject.caption({"curry_vs_gradient_exact": result()})
    assert "5 seeds. (a) 4 identities" in told
    assert "off by at least 0.30 (a step in all of W_V) and leaves at least 0.089" in told
    assert "(6.06) 1.002 with linear attention, 1.08 with two softmax heads, 1.90 with one, 2.02 on shuffled" in told
    assert "is 0.9997 for linear attention, whose answers differ by 2.0%" in told
    assert "-0.04 untrained" in told
    assert "3 tuned steps leave 0.130, of GD++ 0.080; its best gamma for two is 0.98 to 1.02 times" in told
