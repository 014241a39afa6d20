"""Pieces that most figures are made of: the sheet, a spread over seeds, a heat map, a theorem's line."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from scipy.special import stdtrit

STYLE = Path(__file__).with_name("house.mplstyle")
SINGLE, DOUBLE = 3.4, 7.0  # inches: one and two columns of text
CELL_FONT = 6  # points, of the numbers in a heat map


def house_style() -> AbstractContextManager:
    """Draw and save under the house style and nothing else: the person's own matplotlibrc does not leak in."""
    return style.context(STYLE, after_reset=True)


class Sheet(Figure):
    """A figure that pyplot does not own: it shows once in Jupyter, and a long run does not pile figures up."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        content = BytesIO()
        with house_style():
            self.savefig(content, format="png")
        width, height = (round(inches * 110) for inches in self.get_size_inches())
        return content.getvalue(), {"width": width, "height": height}


def sheet(rows: int = 1, columns: int = 1, *, width: float = DOUBLE, height: float = 2.4, **subplots) -> tuple:
    """Give a new figure and its (rows, columns) array of axes.

    Args:
        width, height: of the whole figure in inches; SINGLE or DOUBLE fit a paper.
        subplots: passed on to `Figure.subplots` (sharex, width_ratios, ...).
    """
    with house_style():
        figure = Sheet(figsize=(width, height))
        return figure, figure.subplots(rows, columns, squeeze=False, **subplots)


def spread(
    ax: Axes, x: Sequence, values_by_seed: np.ndarray, label: str, color: str | None = None, band: bool = False
) -> None:
    """Draw the mean over seeds as a bold line, with each seed as a thin one or their interval as a band.

    Args:
        x: (point,).
        values_by_seed: (seed, point), in the unit of the axis; NaN leaves a gap.
        label: for the legend; the number of seeds is added to it.
        band: shade the 95 % t-interval of the mean instead of drawing the seeds; needs 3 seeds or more.

    Raises:
        ValueError: the shapes do not fit, or there are too few seeds for a band.
    """
    values = np.asarray(values_by_seed, dtype=float)
    if values.ndim != 2 or values.shape[1] != len(x) or not len(values):
        raise ValueError(f"values_by_seed must be (seed, {len(x)}) as x has {len(x)} points; got {values.shape}")
    n, mean = len(values), values.mean(0)
    if band and n < 3:
        raise ValueError(f"a band over {n} seeds says nothing: draw the seeds (band=False) or run 3 or more")
    (line,) = ax.plot(x, mean, color=color, label=f"{label} ({n} seed{'s' if n > 1 else ''})", zorder=3)
    if band:
        half = stdtrit(n - 1, 0.975) * values.std(0, ddof=1) / np.sqrt(n)
        ax.fill_between(x, mean - half, mean + half, color=line.get_color(), alpha=0.2, linewidth=0)
    elif n > 1:
        ax.plot(x, values.T, color=line.get_color(), linewidth=0.6, alpha=0.45, zorder=2)


def panel_letter(ax: Axes, letter: str) -> None:
    """Write a panel's letter in bold above its left corner, where the layout keeps room for it."""
    ax.set_title(letter, loc="left", fontweight="bold")


def heat(ax: Axes, matrix: np.ndarray, label: str, vmin: float | None = None, vmax: float | None = None) -> AxesImage:
    """Draw a matrix as a heat map with a colour bar; the numbers stand in the cells when they fit.

    Args:
        matrix: (row, column); NaN is drawn grey.
        label: quantity and unit, for the colour bar.
        vmin, vmax: the ends of the colours; by default those of the data, symmetric about 0 where it goes below 0.
    """
    values = np.asarray(matrix, dtype=float)
    cmap, low, high = colours(values, vmin, vmax)
    image = ax.imshow(values, cmap=cmap, vmin=low, vmax=high, aspect="auto")
    for side, length in ((ax.yaxis, len(values)), (ax.xaxis, values.shape[1])):
        side.set_major_locator(MaxNLocator(min(length, 8), integer=True, min_n_ticks=1))
    ax.spines[:].set_visible(False)
    for (row, column), text in _cell_texts(ax, values).items():
        color = _readable_on(cmap(image.norm(values[row, column])))
        ax.text(column, row, text, ha="center", va="center", color=color, fontsize=CELL_FONT)
    ax.figure.colorbar(image, ax=ax, label=label)
    return image


def colours(values: np.ndarray, vmin: float | None = None, vmax: float | None = None) -> tuple[Colormap, float, float]:
    """Choose a colour map and its ends: one hue order for one sign, two hues meeting at 0 for both."""
    finite = values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1)
    largest = np.abs(finite).max()
    low = vmin if vmin is not None else (-largest if finite.min() < 0 else finite.min())
    high = vmax if vmax is not None else (largest if low < 0 else finite.max())
    return mpl.colormaps["RdBu_r" if low < 0 < high else "viridis"].with_extremes(bad="0.85"), low, high


def theory(ax: Axes, x: Sequence, y: Sequence, label: str, at: float = 0.7) -> None:
    """Draw what a theorem says as a dashed grey line that carries its own name, so that the legend is measurement only.

    Args:
        x, y: (point,); two points make a straight line. Set the scale of the axes (log) before.
        at: where along the line the label sits, from 0 at its left end to 1 at its right end.
    """
    points = np.column_stack([x, y]).astype(float)
    ax.plot(*points.T, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, zorder=4)
    straight = ax.transScale.transform(points)  # on a log axis the line is straight between the logarithms
    straight = straight[np.argsort(straight[:, 0])]
    place = straight[0, 0] + at * np.ptp(straight[:, 0])
    where = ax.transScale.inverted().transform((place, np.interp(place, *straight.T)))
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    ax.text(*where, label, ha="center", va="center", color="0.3", fontsize=7, bbox=behind, zorder=5)


def _cell_texts(ax: Axes, values: np.ndarray) -> dict[tuple[int, int], str]:
    """What to write into each cell, with as many decimals as fit side by side; nothing where none do."""
    largest = np.max(np.abs(values), initial=0, where=np.isfinite(values))
    forms = (".0e",) if 0 < largest < 0.095 else (".2f", ".1f") if largest < 10 else (".1f", ".0f")
    box = ax.get_window_extent()
    inches = 0.85 * np.array([box.height, box.width]) / ax.figure.dpi  # less what a colour bar takes
    height, width = inches * 72 / CELL_FONT / values.shape  # of one cell, in font sizes
    for form in forms:
        texts = {at: "–" if np.isnan(value) else f"{value:{form}}" for at, value in np.ndenumerate(values)}
        if height > 1 and width > 0.58 * max(len(text) for text in texts.values()):
            return texts
    return {}


def _readable_on(color: tuple[float, float, float, float]) -> str:
    """Black or white, whichever stands out more on this colour (relative luminance as in WCAG 2)."""
    channels = np.array(color[:3])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ [0.2126, 0.7152, 0.0722] > 0.179 else "white"
