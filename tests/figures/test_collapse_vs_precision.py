"""The figure of collapse against precision can be read, marks what was not reached, and its caption is computed."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.draw import figure_for
from figures.glasses import collapse_vs_precision as subject

ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11, "float8_e4m3fn": 2.0**-4, "int8": np.nan}


def result(seeds: tuple[int, ...] = (3, 5), checkpoint: bool = False) -> Result:
    rows = []
    for seed, (format, u), text in product(seeds, ROUNDOFF.items(), ("ones", "digits")):
        length = (3 * u**-0.5 if text == "ones" else 2 / u) * (1 + 0.1 * seed)
        where = {"seed": seed, "format": format, "roundoff": u, "text": text, "held_share": np.nan}
        for criterion, factor in (("half", 1.0), ("all", 8.0)):
            row = {"subject": "one head", "arm": "stored", "criterion": criterion, "longest": 2**24}
            predicted = length / 1.25 if criterion == "half" else np.nan
            rows.append(where | row | {"critical": factor * length, "predicted": predicted})
        subjects = ("random model", *(("checkpoint",) if checkpoint else ()))
        for name, arm, criterion in product(subjects, subject.ARMS, ("half", "all", "answer")):
            if arm == "accumulation" and format == "int8":
                continue
            critical = {"half": length, "all": 4 * length, "answer": 13.0}[criterion]
            row = {"subject": name, "arm": arm, "criterion": criterion, "longest": 1024, "predicted": np.nan}
            reached = critical <= 1024
            share = 0.03 if criterion == "half" and reached else np.nan
            rows.append(where | row | {"critical": critical if reached else np.nan, "held_share": share})
    config = {"shape": {"n_layers": 2}, "neighbours": 3}
    run = {"study": "collapse_vs_precision", "config_hash": "0" * 12, "profile": "full", "config": config}
    return Result(pd.DataFrame(rows), run=run)


def drawn(measured: Result):
    return figure_for("collapse_vs_precision", {"collapse_vs_precision": measured})


@pytest.mark.parametrize("options", [{}, {"seeds": (0,)}, {"seeds": (0, 1, 2, 3, 4)}, {"checkpoint": True}], ids=str)
def test_the_figure_can_be_read(options, legible):
    legible(drawn(result(**options)))


def test_lengths_that_were_not_reached_are_arrows_at_the_longest():
    measured = result()
    lines = drawn(measured).axes[1].lines
    arrows = [line for line in lines if line.get_marker() == "^" and len(line.get_xdata())]
    assert arrows
    assert {y for line in arrows for y in line.get_ydata()} == {1024}
    rows = measured.table[(measured.table.subject == "random model") & (measured.table.text == "ones")]
    rows = rows[rows.criterion == "half"]
    points = sum(len(line.get_xdata()) for line in lines if line.get_marker() == "o")
    assert points == rows.critical.notna().sum()
    assert sum(len(line.get_xdata()) for line in arrows) == rows.critical.isna().sum()


def test_the_prediction_is_drawn_as_theory_beside_one_head():
    measured = result()
    dashed = [line for line in drawn(measured).axes[0].lines if line.get_linestyle() == "--"]
    rows = measured.table[(measured.table.subject == "one head") & (measured.table.criterion == "half")]
    rows = rows[rows.text == "ones"].dropna(subset=["roundoff"])
    mean = np.exp(np.log(rows.predicted).groupby(1 / rows.roundoff).mean())
    assert any(len(line.get_ydata()) == 4 and np.allclose(line.get_ydata(), mean) for line in dashed)


def test_the_caption_is_computed_from_the_table():
    told = subject.caption({"collapse_vs_precision": result()})
    assert "2 seeds (points)" in told
    assert "1.25 for ones, 1.25 for random digits" in told
    assert f"in bfloat16 {48 * 1.4:.0f} and {512 * 1.4:.0f} tokens" in told
    assert "at most 3% are in float32" in told
    assert "the same from 13 tokens on." in told
    assert told.endswith("tokens on.")
    assert subject.caption({"collapse_vs_precision": result(checkpoint=True)}).endswith("Diamonds: the checkpoint.")
