"""The figure of counting and length can be read, draws what the table holds, and computes its caption."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.counting import counting_vs_length as subject
from figures.draw import figure_for

LENGTHS = (1, 8, 24, 48, 240)


def result(
    seeds: tuple[int, ...] = (10, 11, 12),
    nets: tuple[str, ...] = subject.NETS,
    kinds: tuple[str, ...] = tuple(subject.KINDS),
) -> Result:
    draw, rows = np.random.default_rng(0), []
    for seed in seeds:
        for net in nets:
            for kind in kinds:
                for moment in ("trained", "untrained", "bfloat16"):
                    for length in LENGTHS[:3] if kind in ("ones", "sum") else LENGTHS:
                        for count in range(min(length, 24) + 1):
                            row = {"net": net, "kind": kind, "seed": seed, "moment": moment, "length": length}
                            row |= {"count": count, "texts": 20, "right": draw.integers(21)}
                            rows.append(row | {"error": 5 * draw.random(), "bias": 0.0})
        for name, far in zip(subject.RATIOS, (1e-16, 0.1, 0.01, 0.2), strict=True):
            rows.append({"net": name, "kind": "", "seed": seed, "moment": "", "length": 5, "difference": far})
    config = {"longest": 24, "lengths": list(LENGTHS), "test_texts": 256}
    run = {"study": "counting_vs_length", "config_hash": "0" * 12, "profile": "full", "config": config}
    return Result(pd.DataFrame(rows).sample(frac=1, random_state=0), run=run)


@pytest.mark.parametrize("options", [{}, {"seeds": (0,)}, {"nets": ("none", "lstm"), "kinds": ("ones", "bernoulli")}],
                         ids=str)  # fmt: skip
def test_the_figure_can_be_read(options, legible):
    legible(figure_for("counting_vs_length", {"counting_vs_length": result(**options)}))


def test_every_net_and_seed_is_drawn_at_its_accuracy():
    measured = result()
    bits, words, by_count, _, kinds, ratios = figure_for("counting_vs_length", {"counting_vs_length": measured}).axes
    table = measured.table[measured.table.moment == "trained"]
    for ax, kind in ((bits, "bernoulli"), (words, "word")):
        for _, one in table[table.kind == kind].groupby(["net", "seed"]):
            sums = one.groupby("length")[["right", "texts"]].sum()
            expected = (sums.right / sums.texts).to_numpy()
            assert any(np.array_equal(line.get_ydata(), expected) for line in ax.lines)
        assert any(line.get_ydata() == pytest.approx([1 / 2, 1 / 9, 1 / 25, 1 / 25, 1 / 25]) for line in ax.lines)
    assert any(list(line.get_ydata()) == [1 / 25, 1 / 25] for line in by_count.lines)
    assert sum(len(line.get_xdata()) for line in kinds.lines if line.get_marker() == "o") == 3 * 4 * 3 * 2
    assert sum(len(line.get_xdata()) for line in ratios.lines if line.get_marker() == "o") == 12


def test_what_was_not_run_says_so():
    options = {"nets": ("none", "lstm"), "kinds": ("ones", "bernoulli")}
    figure = figure_for("counting_vs_length", {"counting_vs_length": result(**options)})
    assert [text.get_text() for text in figure.axes[1].texts] == ["not run in this profile"]
    assert [text.get_text() for text in figure.axes[4].texts] == ["not run", "not run"]


def test_the_caption_is_computed_from_the_table():
    measured = result()
    rows = subject.rows(measured, "none", "bernoulli")
    rows = rows[rows.length == 240]
    told = subject.caption({"counting_vs_length": measured})
    assert "3 seeds (thin), 256 texts a length" in told
    assert f"symbols and {rows.right.sum() / rows.texts.sum():.2f}, " in told
    assert "a text and its double differ by 1e-16, else by 1e-02 or more" in told
    few = result(nets=("none",), kinds=("bernoulli",))
    assert "numbers for transformer, no positions." in subject.caption({"counting_vs_length": few})
