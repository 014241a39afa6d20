"""The figure of copying can be read, draws what the table holds, also where arms were not run, and its caption."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.counting import copying_vs_length as subject
from figures.draw import figure_for

ARMS = dict.fromkeys(arm for _, arm, *_ in subject.ROWS)
LENGTHS = (8, 16, 32, 64, 128, 256, 512)
REACH = {"last, rope": 32, "last, rope, trained alternating": 32, "first, rope": 128}


def result(seeds=(10, 11, 12), arms=tuple(ARMS), recall: bool = True, lengths=LENGTHS) -> Result:
    rows = []
    for arm in arms:
        for seed in seeds:
            place = {"case": "copy", "arm": arm, "seed": seed, "accuracy_same": 1.0}
            for n in lengths:
                right = n <= REACH.get(arm, 512)
                row = place | {"length": n, "accuracy": float(right), "margin": 8.0 if right else -5.0 - 0.1 * seed}
                row |= {"moment": "trained", "apart": 1.5 if right else 0.4, "dtype": "float32"}
                rows += [row | {"test": test} for test in ("plain", "separated", "alternating")]
                rows.append(row | {"test": "plain", "dtype": "bfloat16"})
                rows.append(row | {"test": "plain", "moment": "untrained", "margin": -1.0, "apart": 1 / n})
            if arm in subject.COLOURS:
                for test in ("no mask", "causal mask"):
                    same = arm.endswith("none") and test == "no mask"
                    row = {"case": "doubled", "arm": arm, "seed": seed, "test": test, "length": 34}
                    rows.append(row | {"apart": 4e-16 if same else 0.9})
    for seed in seeds if recall else ():
        for arm, updates in (("after", 240.0), ("before", 900.0)):
            for n in (3, 6, 12):
                row = {"case": "recall", "arm": arm, "seed": seed, "length": n, "test": "plain", "dtype": "float32"}
                rows.append(row | {"moment": "untrained", "accuracy": 0.08})
                rows.append(row | {"moment": "trained", "accuracy": 1 - 0.04 * n, "updates": updates})
    config = {"task": {"longest": 32}, "recall": {"longest": 6}, "texts": 16}
    run = {"study": "copying_vs_length", "config_hash": "0" * 12, "profile": "full", "config": config}
    return Result(pd.DataFrame(rows).sample(frac=1, random_state=0), run=run)


def drawn(measured: Result):
    return figure_for("copying_vs_length", {"copying_vs_length": measured})


QUICK = {"seeds": (0,), "arms": ("last, none", "last, rope", "first, rope"), "recall": False, "lengths": (8, 32, 512)}


@pytest.mark.parametrize("options", [{}, {"seeds": (0,)}, QUICK], ids=["full", "one seed", "quick"])
def test_the_figure_can_be_read(options, legible):
    legible(drawn(result(**options)))


def test_margins_distances_and_recall_are_those_of_the_table():
    margin, critical, apart, recall = drawn(result()).axes
    for ax, value in ((margin, 8.0), (apart, 1.5)):
        lines = {line.get_label(): line.get_ydata() for line in ax.lines}
        np.testing.assert_allclose(lines["last, no positions"], np.full(7, value))
        assert set(subject.LABELS.values()) <= set(lines)
    lines = {line.get_label(): line.get_ydata() for line in recall.lines}
    np.testing.assert_allclose(lines["what came before (900 updates)"], [0.88, 0.76, 0.52])
    held = [line.get_xdata() for line in critical.lines if line.get_marker() == "o"]
    assert sorted({x for xs in held for x in xs}) == [32, 128]


def test_an_arm_that_never_copies_has_length_one_and_one_that_recovers_stops_where_it_failed():
    rows = pd.DataFrame({"seed": 0, "length": [8, 16, 32, 64], "accuracy_same": 1.0, "accuracy": [1, 1, 0.8, 1]})
    assert subject.critical_lengths(rows).tolist() == [16]
    assert subject.critical_lengths(rows.assign(accuracy_same=0.0)).tolist() == [1]


def test_what_was_not_run_is_drawn_as_not_run():
    figure = drawn(result(**QUICK))
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert texts.count("not run") == sum(arm not in QUICK["arms"] for _, arm, *_ in subject.ROWS)
    assert any("not run in this profile" in text for text in texts)


def test_the_caption_is_computed_from_the_table():
    told = subject.caption({"copying_vs_length": result()})
    assert "the first is copied up to 128 digits, the last up to 32: 2.0 octaves (2.0 to 2.0" in told
    assert "under a window 512" in told
    assert "at 0.76, what came before at 0.76, after a median of 240 and 900 updates" in told
    assert "differ by 4e-16 of the largest logit without mask and positions, by 0.9 or more" in told
    assert "(d) Not run" in subject.caption({"copying_vs_length": result(**QUICK)})
