"""The figure of bases and lengths can be read, draws every code and the control, and its caption is computed."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.draw import figure_for
from figures.glasses import rope_base_vs_length as subject

BASES = {subject.SMALL: 1e2, "base 1e3": 1e3, "base 1e4": 1e4, subject.LARGE: 5e5}


def result(seeds: tuple[int, ...] = (3, 5), lengths: tuple[int, ...] = (48, 96, 768)) -> Result:
    rows, arrays = [], {}
    for at, code in enumerate(subject.COLORS):
        for seed in seeds:
            for length in lengths:
                for question in (subject.SEMANTIC, subject.POSITIONAL):
                    row = {"code": code, "seed": seed, "length": length, "question": question}
                    value = 1.0 if length == 48 else 0.1 * (1 + at)
                    rows += [row | {"step": 0, "accuracy": 0.0}, row | {"step": 400, "accuracy": value}]
        arrays[f"{code}: usage (seed, head, pair)"] = np.full((len(seeds), 4, 8), 1 / 8)
        if code != subject.NONE:
            turned = {"base 1e4, p = 0.75": 6, subject.QUARTER: 2}.get(code, 8)
            pairs = np.pi / 2 * BASES.get(code, 1e4) ** (np.arange(turned) / 8)
            arrays[f"{code}: quarter wavelengths (pair)"] = pairs
    noise = np.random.default_rng(0).normal(size=(len(seeds), 50)) * 0.1
    arrays["q, k independent: mean score (seed, distance)"] = noise
    arrays["q, k independent: its standard error (seed, distance)"] = np.full_like(noise, 0.1)
    arrays["q = k: mean score (seed, distance)"] = noise + np.linspace(16, 4, 50)
    arrays["Prop 3.2: largest mean in standard errors (seed, base)"] = np.array([[2.0, 3.25]])
    arrays["Prop 3.1: share at the distance asked for (seed, base)"] = np.array([[1.0, 1.0]])
    run = {"study": "rope_base_vs_length", "config_hash": "0" * 12, "profile": "full", "config": {}}
    return Result(pd.DataFrame(rows).sample(frac=1, random_state=0), arrays, run=run)


def drawn(measured: Result):
    return figure_for("rope_base_vs_length", {"rope_base_vs_length": measured})


@pytest.mark.parametrize("options", [{}, {"seeds": (0,)}, {"lengths": (48, 96, 192, 384, 768)}, {"lengths": (48, 96)}])
def test_the_figure_can_be_read(options, legible):
    legible(drawn(result(**options)))


def test_every_code_and_the_untrained_control_are_drawn():
    axes = drawn(result()).axes
    for ax in axes[:2]:
        lines = {line.get_label(): line.get_ydata() for line in ax.lines}
        for at, code in enumerate(subject.COLORS):
            np.testing.assert_allclose(lines[code], [1, 0.1 * (1 + at), 0.1 * (1 + at)])
        assert (lines["untrained"] == 0).all()
    still = [line.get_ydata()[0] for line in axes[2].lines if line.get_marker() == "D"]
    assert still == pytest.approx([2 / 8, 6 / 8, 1])  # pairs that never turn: p = 0.75, p = 0.25, none


def test_the_caption_is_computed_from_the_tables():
    told = subject.caption({"rope_base_vs_length": result()})
    assert "0.10, 0.20, 0.30, 0.40, 0.50, 0.60, 0.70 at 768" in told
    assert "the largest base is 0.30 (0.30 to 0.30, bootstrap over seeds) above the smallest" in told
    assert "0.00 with base 1e2, 0.50 with 5e5 and 0.75 with p = 0.25" in told
    assert "largest mean 3.2 standard errors" in told
    assert "wins in 100% of random cases" in told
