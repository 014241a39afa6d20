"""The figure of sensitivity by position can be read, draws laws beside measurements, and its caption is computed."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.draw import figure_for
from figures.glasses import squashing_vs_position as subject

TOKENS, LENGTH = 40, 100


def result(seeds: tuple[int, ...] = (3, 5), model: object = None, bound: bool = True) -> Result:
    falling, n_seeds = 1 / np.arange(1.0, TOKENS + 1), len(seeds)
    known = np.exp(-np.linspace(0, 3, LENGTH))
    arrays, rows = {}, []
    for arm in (subject.UNIFORM, subject.SINK, subject.WINDOW):
        law = np.where(np.arange(LENGTH) < 60, 0, known) if arm == subject.WINDOW else known
        for name in ("measured", "law"):
            arrays[f"{arm}, {LENGTH} tokens: {name} (run, position)"] = law[None]
        rows.append({"arm": arm, "seed": seeds[0], "n": LENGTH, "depth": 4, "law_error": 3e-15, "limit_error": 2e-3})
    for depth, share in ((8, 0.565), (64, 1.0)):
        deep = {"arm": subject.DEEP, "seed": seeds[0], "n": 16, "depth": depth, "first": share, "last": 0.0}
        rows.append(deep | {"law_first": share, "law_error": 1e-15})
    for name, factor in (("measured", 1.0), (subject.RANDOM_LAW, 1.0), (subject.IDENTITY_LAW, 3.0)):
        arrays[f"{subject.RANDOM}: {name} (run, position)"] = np.stack([factor * falling] * n_seeds)
    for arm, level in ((subject.UNTRAINED, 1.0), (subject.TRAINED, 2.0)):
        curves = {subject.FIXED: level * falling, subject.THROUGH: level * falling**0.5}
        curves |= {"bound": 100 + 0 * falling} if bound else {}
        curves |= {subject.RANDOM_LAW: falling} if arm == subject.UNTRAINED else {}
        for name, curve in curves.items():
            arrays[f"{arm}: {name} (run, text, position)"] = np.stack([[curve, curve]] * n_seeds)
        of = {"first": 0.2 / level, "late": 0.1 * level, "softmax_path": 1 + level / 10}
        of |= {"held": 1.0, "above": 0.0, "furthest_above": 0.02} if bound else {}
        rows += [{"arm": arm, "seed": s, "text": t, "n": TOKENS, "depth": 4} | of for s in seeds for t in (0, 1)]
    rows += [
        {
            "arm": subject.RANDOM,
            "seed": s,
            "n": TOKENS,
            "depth": 4,
            "random_ratio": 1.01,
            "identity_ratio": 0.27,
            "held": 1.0,
        }
        for s in seeds
    ]
    rows.append(
        {
            "arm": subject.STEEP,
            "seed": seeds[0],
            "n": LENGTH,
            "depth": 4,
            "held": 1.0,
            "above": 1.0,
            "furthest_above": 130.0,
        }
    )
    config = {"model": model, "sink": 64, "window": 64}
    told = {"bound": "theorem 5.1" if bound else "none: gated_mlp=True", "text": {"tokens": "held-out text"}}
    run = {"study": "squashing_vs_position", "config_hash": "0" * 12, "profile": "full", "config": config, **told}
    return Result(pd.DataFrame(rows), arrays, run=run)


def drawn(measured: Result):
    return figure_for("squashing_vs_position", {"squashing_vs_position": measured})


@pytest.mark.parametrize("options", [{}, {"seeds": (0,)}, {"model": "/there/llama", "bound": False}], ids=str)
def test_the_figure_can_be_read(options, legible):
    legible(drawn(result(**options)))


def labelled(ax) -> dict:
    return {line.get_label(): line.get_ydata() for line in ax.lines}


def test_measurement_and_law_stand_in_one_panel():
    axes = drawn(result()).axes
    laws = [line for line in axes[0].lines if line.get_linestyle() == "--"]
    assert len(laws) == 3
    assert min(laws[2].get_xdata()) == 61  # the window's law is not drawn where it is 0
    assert labelled(axes[1])["first token"] == pytest.approx([0.565, 1.0])
    assert labelled(axes[2])["untrained, no norm"] == pytest.approx(1 / np.arange(1, TOKENS + 1))


def test_the_ratio_is_of_shares_so_that_the_size_drops_out():
    ratio = labelled(drawn(result()).axes[4])
    for quantity in (subject.FIXED, subject.THROUGH):
        assert ratio[quantity] == pytest.approx(np.ones(TOKENS))


def test_every_curve_stands_beside_the_bound_and_where_there_is_none_it_says_so():
    beside = labelled(drawn(result()).axes[5])
    assert beside["trained"] == pytest.approx(0.02 / np.arange(1, TOKENS + 1) ** 0.5)
    assert beside["step 0"] == pytest.approx(0.01 / np.arange(1, TOKENS + 1) ** 0.5)
    without = drawn(result(bound=False)).axes[5]
    assert [text.get_text() for text in without.texts] == ["no bound known"]


def test_the_captions_numbers_are_those_of_the_table():
    words = subject.caption({"squashing_vs_position": result()})
    for part in (
        "hold to 3e-15",
        "holds 0.565, 1.000 at 8, 64 layers",
        "1.010 to 1.010 of the law for random values, down to 0.27",
        "2 seeds, 4 texts of 40 tokens",
        "first position 0.50-fold, of the last eighth 2.00-fold",
        "100% of all positions",
        "50 times too large",
        "up to 130 times",
    ):
        assert part in words
    told = subject.caption({"squashing_vs_position": result(model="/there/llama", bound=False)})
    assert "The checkpoint llama and untrained twins, held-out text" in told
    assert "no bound for this model (gated_mlp=True)" in told
