"""One colour and marker for every source of contexts, and the marks that several panels have."""

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

# source -> colour, marker, filled; kinds share a colour
STYLES = {
    "chain 0": ("C0", "o", True),
    "fair die": ("C1", "s", False),
    "biased die": ("C1", "s", True),
    "copy 2": ("C2", "^", False),
    "copy 4": ("C2", "v", True),
    "copy 8": ("C2", "D", True),
    "in deployment": ("C3", "P", True),
    "the word alone": ("C3", "X", False),
    "K=4": ("C5", "h", True),
    "fresh": ("k", "d", False),
}
OTHER = ("0.5", "p", True)
LABELS = {"K=4": "1 of 4 chains", "fresh": "fresh chain", "in deployment": "the word amid text"}


def style(source: str) -> dict:
    """Colour, marker and face, as `Axes.plot` takes them."""
    color, marker, filled = STYLES.get(source, OTHER)
    return {"color": color, "marker": marker, "markerfacecolor": color if filled else "white"}


def label(source: str) -> str:
    """What a legend calls it."""
    return LABELS.get(source, f"1 of {source[2:]} chains" if source.startswith("K=") else source)


def in_order(sources: Iterable[str]) -> list[str]:
    """Sources in the order of STYLES, others behind."""
    there = list(dict.fromkeys(sources))
    known = [one for one in STYLES if one in there]
    return known + [one for one in there if one not in known]


def key(name: str, **look) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=name, markersize=4.5, **{"linestyle": "none", "markeredgewidth": 0.9, **look})


def cloud(ax: Axes, x, y, source: str) -> None:
    """Every context as a small faint point, their medians as a large one."""
    look = {"linestyle": "none", "clip_on": False, **style(source)}
    ax.plot(x, y, markersize=2.6, alpha=0.4, markeredgewidth=0.6, zorder=3, **look)
    ax.plot([np.median(x)], [np.median(y)], markersize=6, markeredgewidth=1.1, zorder=5, **look)
