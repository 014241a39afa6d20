"""The figure sets every reading beside what is known, and shows one that is off."""

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from analyses.core.results import Result
from figures.draw import figure_for
from figures.induction import circuit_calibration as subject

READINGS = {  # quantities that the caption names, and one that is exact
    ("composition", "K, hidden pair"): (0.25, 0.0, 1e-12),
    ("composition", "K, the 15 other pairs"): (0.112, 1e-2, 2e-2),
    ("composition", "random pairs, r.m.s."): (0.113, 1e-4, 1e-3),
    ("ablation", "loss, nothing ablated"): (3e-8, 1e-14, 1e-12),
    ("ablation", "loss, no previous-token head"): (2.6, 1e-15, 1e-12),
    ("patching", "previous-token head, after a"): (1.0, 1e-9, 3e-6),
    ("path patching", "into the keys"): (1.0, 0.0, 3e-6),
    ("path patching", "into the queries"): (0.0, 0.0, 3e-6),
    ("path patching", "into the values"): (-20.0, 0.0, 3e-6),
}


def result(**errors: float) -> Result:
    rows = [
        {"instrument": name, "quantity": quantity, "unit": "nats" if name == "ablation" else "1", "seed": seed}
        | {"entries": 1, "measured": value, "known": value, "error": errors.get(name, off), "tolerance": tolerance}
        for seed in (0, 1, 2)
        for (name, quantity), (value, off, tolerance) in READINGS.items()
    ]
    return Result(pd.DataFrame(rows), run={"study": "circuit_calibration", "config_hash": "0" * 12, "profile": "full"})


def drawn(measured: Result):
    return figure_for("circuit_calibration", {"circuit_calibration": measured})


def colours(figure) -> set[str]:
    """Of the dots in the right panel."""
    return {to_hex(colour) for colour in figure.axes[1].collections[1].get_facecolors()}


def test_every_text_can_be_read(legible):
    legible(drawn(result()))


def test_every_reading_has_a_line_below_its_instrument_and_a_dot_per_seed():
    figure = drawn(result())
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:5] == ["composition", *(quantity for _, quantity in list(READINGS)[:3]), "ablation"]
    assert "loss, nothing ablated (nats)" in labels
    dots = figure.axes[1].collections[1].get_offsets()
    assert len(dots) == 3 * len(READINGS)
    assert dots[0].tolist() == [subject.EXACT, 1]  # exactly 0, drawn where the axis says 0
    assert dots[1].tolist() == [1e-2, 2]


@pytest.mark.parametrize("panel", range(2))
def test_no_value_lies_outside_its_panel(panel):
    ax = drawn(result()).axes[panel]
    low, high = ax.get_xlim()
    at = [x for points in ax.collections[:2] for x, _ in points.get_offsets()]
    assert low < min(at)
    assert max(at) < high


def test_a_reading_beyond_its_tolerance_has_another_colour():
    assert len(colours(drawn(result()))) == 1
    assert len(colours(drawn(result(patching=1e-3)))) == 2


def test_the_caption_counts_what_agrees_and_names_the_nearest_to_its_tolerance():
    told = subject.caption({"circuit_calibration": result()})
    assert "9 readings of 4 instruments on models with a known answer, 3 seeds." in told
    assert "9 of 9 readings lie within, 4 without any error" in told
    assert "composition: K, the 15 other pairs, at 0.5 of it" in told
    assert "from 0.00 to 2.60 nats" in told
    assert "8 of 9 readings lie within" in subject.caption({"circuit_calibration": result(patching=1e-3)})
