"""The figure of the repeated token can be read, draws measurement beside theory, and its caption is computed."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.counting import repeated_token as subject
from figures.draw import figure_for

COPIES = tuple(2**power for power in range(10))


def result(seeds=(10, 11, 12), copies=COPIES, positions=("none", "rope", "learned")) -> Result:
    rows = []
    for position in positions:
        for start in (True, False) if position == "none" else (True,):
            for prefix in ("none", "start token", "prompt") if start else ("none", "prompt"):
                for moment in ("untrained", "trained"):
                    for seed in seeds:
                        odds = {"untrained": 1.0, "trained": 0.02}[moment] * (1 + 0.1 * seed)
                        for k in copies:
                            weight = 0.0 if prefix == "none" else 1 / (1 + k * odds)
                            apart = max(weight, 2e-16) if position != "learned" else 0.5 * (k > 1) + 1e-16
                            row = {"position": position, "start": start, "prefix": prefix, "moment": moment, "k": k}
                            row |= {"seed": seed, "weight": weight, "weight_theory": weight, "weight_off": 3e-16}
                            row |= {"first_layer": apart, "first_theory": apart, "last_layer": apart, "size": 1.1}
                            rows.append(row | {"text_first": 0.02, "text_each": 0.02} if k == 4 else row)
    run = {"study": "repeated_token", "config_hash": "0" * 12, "profile": "full", "config": {}}
    return Result(pd.DataFrame(rows).sample(frac=1, random_state=0), run=run)


def drawn(measured: Result):
    return figure_for("repeated_token", {"repeated_token": measured})


@pytest.mark.parametrize("options", [{}, {"seeds": (0,)}, {"copies": COPIES[:9]}, {"positions": ("none",)}], ids=str)
def test_the_figure_can_be_read(options, legible):
    legible(drawn(result(**options)))


def test_means_are_drawn_with_the_closed_form_on_top():
    measured = result()
    rows = measured.table[(measured.table.prefix == "start token") & (measured.table.position == "none")]
    mean = rows[rows.moment == "trained"].groupby("k").weight.mean()
    ax = drawn(measured).axes[0]
    thick = [line.get_ydata() for line in ax.lines if line.get_linewidth() == 1.7]
    rings = [line.get_ydata() for line in ax.lines if line.get_marker() == "o" and len(line.get_ydata())]
    assert any(np.allclose(line, mean) for line in thick)
    assert len(rings) == len(thick) == 4
    for line, ring in zip(thick, rings, strict=True):
        np.testing.assert_allclose(line, ring)


def test_exact_copies_are_told_and_a_code_that_was_not_run_is_said():
    axes = drawn(result(positions=("none",))).axes
    assert any("nothing before: at most 2e-16" in text.get_text() for text in axes[2].texts)
    assert [text.get_text() for text in axes[3].texts] == ["not run"]


def test_the_caption_is_computed_from_the_table():
    measured = result(seeds=(0,))
    told = subject.caption({"repeated_token": measured})
    assert "1 seed (thin)" in told
    assert "off by at most 3e-16 in any head" in told
    assert f"from 0.5 to {1 / 513:.2g} in 512 copies untrained, from {1 / 1.02:.2g} to {1 / 11.24:.2g} trained" in told
    assert "at most 1.1 times ordinary text" in told
    assert "1.0 times the weight" in told
