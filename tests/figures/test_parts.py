"""The pieces draw what they say: means, intervals, labels on their lines, numbers that can be read."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from scipy import stats

from figures import parts

SEEDS = np.random.default_rng(0).normal(size=(5, 6))


@pytest.fixture
def ax():
    return parts.sheet(width=parts.SINGLE)[1][0, 0]


def test_spread_draws_the_mean_the_seeds_and_their_number(ax):
    parts.spread(ax, range(6), SEEDS, "rope")
    bold, *thin = ax.lines
    np.testing.assert_allclose(bold.get_ydata(), SEEDS.mean(0))
    assert bold.get_label() == "rope (5 seeds)"
    np.testing.assert_array_equal([line.get_ydata() for line in thin], SEEDS)
    assert {line.get_color() for line in thin} == {bold.get_color()}


def test_the_band_is_the_t_interval_of_the_mean(ax):
    parts.spread(ax, range(6), SEEDS, "rope", band=True)
    low, high = stats.t.interval(0.95, 4, loc=SEEDS.mean(0), scale=stats.sem(SEEDS, axis=0))
    corners = ax.collections[0].get_paths()[0].vertices
    for point in range(6):
        heights = corners[corners[:, 0] == point, 1]
        assert heights.min() == pytest.approx(low[point])
        assert heights.max() == pytest.approx(high[point])


@pytest.mark.parametrize(
    ("values", "band"), [(SEEDS[:2], True), (SEEDS[:, :5], False), (SEEDS[0], False), (SEEDS[:0], False)]
)
def test_spread_refuses_what_it_cannot_show(ax, values, band):
    with pytest.raises(ValueError, match=r"a band over 2 seeds|values_by_seed must be \(seed, 6\)"):
        parts.spread(ax, range(6), values, "rope", band=band)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_a_theorems_label_sits_on_its_line(ax, scale):
    ax.set(xscale=scale, yscale=scale)
    line = (lambda x: 2 / x) if scale == "log" else (lambda x: 3 - x / 500)
    parts.theory(ax, [1000.0, 10.0], [line(1000.0), line(10.0)], "bound", at=0.3)
    x, y = ax.texts[0].get_position()
    assert y == pytest.approx(line(x))
    assert x == pytest.approx(10 * 100**0.3 if scale == "log" else 10 + 0.3 * 990)
    assert not ax.get_legend_handles_labels()[0]


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_numbers_stand_out_from_their_cells(ax, low):
    matrix = np.linspace(low, 1, 24).reshape(4, 6)
    image = parts.heat(ax, matrix, "score (fraction)")
    assert [text.get_text() for text in ax.texts] == [f"{value:.2f}" for value in matrix.flat]
    for text, value in zip(ax.texts, matrix.flat, strict=True):
        light, dark = sorted([luminance(image.to_rgba(value)), luminance(text.get_color())], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2 AA


def luminance(color) -> float:
    """Relative luminance as in WCAG 2, from 0 (black) to 1 (white)."""
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return float(np.dot([0.2126, 0.7152, 0.0722], channels))


@pytest.mark.parametrize(
    ("shape", "panels"), [((2, 8), 3), ((12, 12), 1), ((12, 12), 3), ((4, 40), 1), ((1, 1), 2), ((40, 2), 2)]
)
def test_heat_maps_of_any_size_are_legible(shape, panels, legible):
    figure, grid = parts.sheet(1, panels, height=2.2)
    with parts.house_style():
        for ax, letter in zip(grid.flat, "abc", strict=False):
            parts.heat(ax, np.random.default_rng(0).normal(size=shape) * 30, "logit")
            ax.set(xlabel="head", ylabel="layer")
            parts.panel_letter(ax, letter)
    legible(figure)


def test_colours_meet_at_zero_when_values_go_both_ways(ax):
    image = parts.heat(ax, np.array([[-3.0, 1.0], [np.nan, 0.0]]), "logit")
    assert (image.norm.vmin, image.norm.vmax) == (-3, 3)
    assert ax.texts[2].get_text() == "–"
    np.testing.assert_allclose(image.to_rgba(np.ma.masked_invalid([np.nan])), [[0.85, 0.85, 0.85, 1]])


@pytest.mark.parametrize("constant", [0.0, 1.0, np.nan])
def test_a_constant_matrix_is_drawn(ax, constant, legible):
    parts.heat(ax, np.full((2, 2), constant), "score")
    legible(ax.figure)


def test_jupyter_shows_a_sheet_at_its_size(ax):
    content, size = ax.figure._repr_png_()
    assert content.startswith(b"\x89PNG")
    assert size == {"width": round(3.4 * 110), "height": round(2.4 * 110)}
