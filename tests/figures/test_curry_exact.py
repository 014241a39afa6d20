"""The figure sets every difference beside its tolerance, and shows one that is on the wrong side."""

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from analyses.core.results import Result
from figures.currying import curry_exact as subject
from figures.draw import figure_for

LINES = {  # (error, tolerance, unit, must)
    ("context as a prefix", "cached, logits"): (2e-14, 1e-12, "1", "agree"),
    ("empty context", "any method: weights changed"): (0.0, 0.0, "1", "agree"),
    ("sink, constant queries", "logits"): (1e-14, 1e-12, "1", "agree"),
    ("sink, constant queries", "entities"): (3e-14, 1e-12, "1", "agree"),
    ("sink, constant queries", "BOS's score"): (5e-13, 1e-12, "nats", "agree"),
    ("token_patch", "behind every block"): (1e-30, 1e-12, "1", "agree"),
    ("token_patch", "behind attention"): (1.2, 1e-3, "1", "differ"),
    ("sink_r", "one slot fewer: logits"): (4e-3, 1e-3, "1", "differ"),
}


def result(seeds: int = 5, **errors: float) -> Result:
    rows = [
        {"instrument": name, "quantity": quantity, "unit": unit, "seed": seed, "tolerance": tolerance, "must": must}
        | {"error": errors.get(quantity, error)}
        for seed in range(seeds)
        for (name, quantity), (error, tolerance, unit, must) in LINES.items()
    ]
    return Result(pd.DataFrame(rows), run={"study": "curry_exact", "config_hash": "0" * 12, "profile": "full"})


def drawn(measured: Result):
    return figure_for("curry_exact", {"curry_exact": measured})


@pytest.mark.parametrize("seeds", [1, 5])
def test_every_text_can_be_read(legible, seeds):
    legible(drawn(result(seeds)))


def test_every_line_stands_below_its_instrument_and_what_must_differ_last():
    ax = drawn(result()).axes[0]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[:4] == ["context as a prefix", "cached, logits", "empty context", "any method: weights changed"]
    assert "BOS's score (nats)" in labels
    assert labels[-3:] == ["must differ", "token_patch: behind attention", "sink_r: one slot fewer: logits"]


def test_every_seed_has_a_dot_left_or_right_of_its_tolerance_and_inside_the_panel():
    ax = drawn(result()).axes[0]
    agree, agreed, differ, differed = (points.get_offsets() for points in ax.collections[:4])
    assert len(agree) == 6 * 5
    assert len(differ) == 2 * 5
    assert (agree[:, 0] <= agreed[:, 0]).all()
    assert (differ[:, 0] > differed[:, 0]).all()
    low, high = ax.get_xlim()
    assert low < agree[:, 0].min() == subject.EXACT
    assert differ[:, 0].max() < high
    assert subject.SMALLEST in agree[:, 0]


@pytest.mark.parametrize(("quantity", "error"), [("cached, logits", 1e-9), ("behind attention", 1e-6)])
def test_a_difference_on_the_wrong_side_has_another_colour(quantity, error):
    def colours(figure):
        return {to_hex(colour) for points in figure.axes[0].collections[:3:2] for colour in points.get_facecolors()}

    assert len(colours(drawn(result()))) == 2
    assert len(colours(drawn(result(**{quantity: error})))) == 3


def test_the_caption_counts_what_holds_and_what_differs():
    told = subject.caption({"curry_exact": result()})
    assert "5 seeds of weights" in told
    assert "6 of 6 equalities hold within the tolerance that rounding leaves them, 1 without any error" in told
    assert "nearest comes sink, constant queries: BOS's score, at 0.5 of it" in told
    assert "replaces the context to 3e-14" in told
    assert "2 of 2 comparisons that must differ do so, the least by 4.0e-03 (sink_r: one slot fewer: logits)" in told
    assert "5 of 6 equalities" in subject.caption({"curry_exact": result(**{"cached, logits": 1.0})})
    assert "1 of 2 comparisons" in subject.caption({"curry_exact": result(**{"behind attention": 1e-9})})
