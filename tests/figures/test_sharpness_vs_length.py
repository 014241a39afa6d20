"""The figure of retrieval against length can be read, draws means with their intervals, and its caption is computed."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.draw import figure_for
from figures.glasses import sharpness_vs_length as subject

LENGTHS = (16, 128, 1024, 4096, 16384)
FADES = {"softmax": 0.55, "adaptive": 0.5, "log_n": 0.48, "hard_max": 0.45}


def result(seeds: tuple[int, ...] = (3, 5, 6), lengths: tuple[int, ...] = LENGTHS, profile: str = "full") -> Result:
    rows = []
    for seed, n, normaliser in product(seeds, lengths, FADES):
        row = {"seed": seed, "length": n, "normaliser": normaliser, "sets": 2**16 // n, "peak_excess": -3.0}
        row |= {"spread": 100 + n / 100, "peak_bound": 1.0, "dead_below": 2.0, "dead_above": 0.0, "dead_changed": 0.0}
        right = 0.1 + 0.89 * (16 / n) ** FADES[normaliser] + 0.001 * seed
        ranking = 0.9 - 0.89 * (16 / n) ** FADES["hard_max"]
        net = row | {"accuracy": right, "ranking": ranking, "entropy": 0.6 * np.log(n), "peak": n**-0.4}
        rows.append(net | {"model": "trained", "task": "max_retrieval", "target_weight": n**-0.4})
        needle = net | {"accuracy": 1.0, "target_weight": 0.999, "entropy": 0.02, "peak": 0.999}
        rows.append(needle | {"model": "trained", "task": "needle"})
        born = net | {"accuracy": 0.1 + 0.01 * seed / 3, "entropy": np.log(n), "peak": 1 / n, "peak_bound": 1.1 / n}
        rows += [born | {"model": "untrained", "task": task} for task in ("max_retrieval", "needle")]
        drawn = row | {"entropy": np.log(n) - 1.08, "peak": 8 / n, "peak_bound": min(1, np.exp(8) / n)}
        rows.append(drawn | {"model": "bounded scores", "task": "none"})
    for seed, n, task in product(seeds, (64, 4096, 262144), ("equal distractors", "uniform distractors")):
        for margin, at in product((0.5, 2.0), (0.25, 0.9, 1.0, 1.5, 2.0)):
            weight = 1 / (1 + (n - 1) * n**-at)
            row = {"model": "constructed head", "task": task, "normaliser": "log_n", "seed": seed, "length": n}
            row["sets"] = 4
            rows.append(row | {"margin": margin, "s_times_margin": at, "target_weight": weight, "theory": weight})
    config = {"needle_margin": 0.1, "task": {"shortest": 5, "longest": 16}}
    run = {"study": "sharpness_vs_length", "config_hash": "0" * 12, "profile": profile, "config": config}
    return Result(pd.DataFrame(rows).sample(frac=1, random_state=0), run=run)


def drawn(measured: Result):
    return figure_for("sharpness_vs_length", {"sharpness_vs_length": measured})


@pytest.mark.parametrize(
    "options",
    [{}, {"seeds": (0,), "profile": "custom"}, {"lengths": (16, 128, 1024, 4096), "profile": "quick"}],
    ids=str,
)
def test_the_figure_can_be_read(options, legible):
    legible(drawn(result(**options)))


def test_lines_are_means_over_the_seeds_and_shades_lie_between_the_seeds():
    measured = result()
    ax = drawn(measured).axes[0]
    lines = {line.get_label(): line for line in ax.lines}
    table = measured.table[(measured.table.model == "trained") & (measured.table.task == "max_retrieval")]
    for normaliser, name in subject.LABELS.items():
        found = table[table.normaliser == normaliser].groupby("length").accuracy
        np.testing.assert_allclose(lines[name].get_ydata(), found.mean())
    corners = ax.collections[0].get_paths()[0].vertices
    at_first = corners[corners[:, 0] == 16, 1]
    seeds = table[(table.normaliser == "softmax") & (table.length == 16)].accuracy
    assert seeds.min() <= at_first.min() < seeds.mean() < at_first.max() <= seeds.max()


def test_the_losses_are_the_hard_maxs_and_softmaxs():
    measured = result()
    ranking, total = (line.get_ydata() for line in drawn(measured).axes[2].lines)
    rows = subject.rows(measured, "trained", "max_retrieval").groupby("length")
    np.testing.assert_allclose(ranking, rows.ranking.mean())
    np.testing.assert_allclose(total, 1 - rows.accuracy.mean())


def test_published_accuracies_stand_at_their_lengths():
    lines = {line.get_label(): line for line in drawn(result()).axes[0].lines}
    published = lines["published, softmax"]
    assert dict(zip(published.get_xdata(), published.get_ydata(), strict=True)) == {
        n: value for n, value in subject.PUBLISHED.items() if n in LENGTHS
    }


def test_the_gap_of_bounded_scores_is_that_of_the_integral():
    scores = np.linspace(-4, 4, 200_001)
    weights = np.exp(scores) / np.exp(scores).mean()
    assert pytest.approx((weights * np.log(weights)).mean(), rel=1e-4) == subject.ENTROPY_GAP
    assert f"{subject.ENTROPY_GAP:.2f}" == "1.08"  # as the panel's label says
    assert f"{subject.WIDTH / (1 - np.exp(-subject.WIDTH)):.3f}" == "8.003"


def test_the_log_odds_of_every_length_lie_on_one_line_in_the_inset():
    inset = drawn(result()).axes[5].child_axes[0]
    points = [line for line in inset.lines if line.get_marker() == "o"]
    assert len(points) == 3
    for line in points:
        np.testing.assert_allclose(line.get_ydata(), line.get_xdata() - 1, atol=4e-3)


def test_the_caption_is_computed_from_the_table():
    measured = result()
    told = subject.caption({"sharpness_vs_length": measured})
    assert "among 5 to 16 items; 3 seeds" in told
    assert "4096 sets of 16 items to 4 of 16384 a seed" in told
    right = subject.rows(measured, "trained", "max_retrieval").groupby("length").accuracy.mean()
    assert f"From 16 to 4096 items accuracy falls from {right[16]:.3f} to {right[4096]:.2f}" in told
    lost, ranking = 1 - right[4096], 0.9 - 0.89 * (16 / 4096) ** 0.45
    assert f"Softmax loses {lost:.2f} at 4096 items, the hard-max {ranking:.2f} ({ranking / lost:.0%} of it)" in told
    assert f"at s x margin = 1 it has a weight of 0.500 to {64 / 127:.3f}, whatever n" in told
    assert "so that the bound is 1 and" in told
    assert "0 of them have weights" in told
    assert "at most -3e+00 nats" in told
    assert "largest error 0.000." in told
    assert "at least 1.0000 and weight on it at least 0.999" in told
