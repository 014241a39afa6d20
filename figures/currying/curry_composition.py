"""Composition: two contexts absorbed at once or one behind the other, in outputs and in weights."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.core.results import Result
from figures import parts
from figures.currying.extent.styles import key, label, style

NEEDS = ("curry_composition",)
THEN = " then "
METHODS = {"sink": "sink", "lsq_o": "least squares"}
# column -> name, colour, marker, offset in the row
WAYS = {
    "baseline_kl": ("no context", "0.55", "|", 0.0),
    "added_kl": ("changes added", "0.55", "+", 0.3),
    "swapped_kl": ("composed, x2 first", "C4", "v", 0.15),
    "half_kl": ("half-curried", "C2", "^", -0.3),
    "composed_kl": ("composed", "C1", "D", 0.0),
    "direct_kl": ("at once", "C0", "o", -0.15),
}
APART = {
    "composed_apart": ("composed, weights", "C1", "D", True, -0.2),
    "composed_free_apart": ("composed, QK and OV", "C1", "D", False, 0.0),
    "again_apart": ("other queries, weights", "0.5", "o", True, 0.1),
    "again_free_apart": ("other queries, QK and OV", "0.5", "o", False, 0.3),
}


def draw(tables: Mapping[str, Result]) -> Figure:
    """Divergences of every way by pair, for two methods; distances in weights; outputs against weights."""
    result = tables["curry_composition"]
    table, pairs = result.table, list(result.run["pairs"])
    figure, axes = parts.sheet(2, 2, height=6.6)
    for ax, method in zip(axes[0], METHODS, strict=True):
        _ways(ax, table[table.method == method], pairs)
        ax.set_title(f"{METHODS[method]}, composed: {verdict(table[table.method == method])}")
    _apart(axes[1, 0], table[table.method == "sink"], pairs)
    _outputs_and_weights(axes[1, 1], table, pairs)
    for ax, letter in zip(axes.flat, "abcd", strict=True):
        ax.title.set_fontsize(8)
        parts.panel_letter(ax, letter)
    axes[0, 1].set_yticklabels([])
    handles = [key(name, color=color, marker=marker) for name, color, marker, _ in WAYS.values()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=7, columnspacing=1.0)
    return figure


def named(pair: str) -> str:
    """What a row is called."""
    if THEN not in pair:
        return f"{label(pair).replace(' amid text', '')}, halves"
    return THEN.strip().join(f" {_short(one)} " for one in pair.split(THEN)).strip().replace(" then ", ",\nthen ")


def _short(source: str) -> str:
    return label(source).replace(" amid text", "")


def verdict(rows: pd.DataFrame) -> str:
    """How much worse composed is than at once, in the median over pairs and seeds."""
    return f"KL times {(rows.composed_kl / rows.direct_kl).median():.1f}"


def _rows(ax: Axes, pairs: list[str]) -> None:
    ax.set_yticks(range(len(pairs)), [named(pair) for pair in pairs], fontsize=7)
    ax.set_ylim(len(pairs) - 0.5, -0.5)
    for at in range(1, len(pairs)):
        ax.axhline(at - 0.5, color="0.92", linewidth=0.6, zorder=0)


def _points(ax: Axes, values: pd.Series, at: float, color: str, marker: str, filled: bool = True) -> None:
    look = {"color": color, "markerfacecolor": color if filled else "white", "clip_on": False}
    ax.plot(values, np.full(len(values), at), marker, markersize=2.2, alpha=0.3, zorder=2, **look)
    big = 8 if marker == "|" else 5
    ax.plot([values.median()], [at], marker, markersize=big, markeredgewidth=1.1, zorder=4, **look)


def _ways(ax: Axes, rows: pd.DataFrame, pairs: list[str]) -> None:
    for column, (_, color, marker, shift) in WAYS.items():
        for at, pair in enumerate(pairs):
            _points(ax, rows[rows.pair == pair][column], at + shift, color, marker)
    ax.set(xscale="log", xlabel="KL left (nats)")
    _rows(ax, pairs)


def _apart(ax: Axes, rows: pd.DataFrame, pairs: list[str]) -> None:
    for column, (_, color, marker, filled, shift) in APART.items():
        for at, pair in enumerate(pairs):
            _points(ax, rows[rows.pair == pair][column], at + shift, color, marker, filled)
    ax.set(xlabel="distance from C(x1 x2), over its length; sink")
    ax.set_xlim(0, None)
    _rows(ax, pairs)
    handles = [
        key(name, color=color, marker=marker, markerfacecolor=color if filled else "white")
        for name, color, marker, filled, _ in APART.values()
    ]
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.08, 1.0),
        ncols=2,
        fontsize=6.5,
        columnspacing=0.5,
        handlelength=1.0,
    )


def _outputs_and_weights(ax: Axes, table: pd.DataFrame, pairs: list[str]) -> None:
    for method, size in (("sink", 5), ("lsq_o", 3.2)):
        for pair in pairs:
            rows = table[(table.method == method) & (table.pair == pair)]
            worse, apart = rows.composed_kl / rows.direct_kl, rows.composed_apart
            look = {"linestyle": "none", "clip_on": False, **style(pair.split(THEN)[-1])}
            look["marker"] = look["marker"] if method == "sink" else "."
            ax.plot(apart, worse, markersize=size / 2, alpha=0.3, **look)
            ax.plot([apart.median()], [worse.median()], markersize=size, zorder=4, **look)
    ax.axhline(1, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, zorder=1)
    ax.set(yscale="log", xlabel="distance in weights", ylabel="KL: composed over at once")
    ax.set_xlim(0, None)
    ax.set_title("large: sink; dots: least squares")


# The caption --------------------------------------------------------------------------------------


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["curry_composition"]
    table, config = result.table, result.run["config"]
    n = table.seed.nunique()
    held = sorted({table.queries.min(), table.queries.max()})
    told = "; ".join(_told(table[table.pair == pair], pair) for pair in result.run["pairs"])
    worst = float(np.max(result.arrays["cache error (seed, pair)"]))
    return (
        f"Two contexts x1 and x2 of {config['length']} tokens together, {n} seed{'s' if n > 1 else ''} (faint; large: "
        f"medians), on {' to '.join(map(str, held))} held-out queries of {config['queries']['length']} tokens. (a, b) "
        f"KL from the model with x1 x2: absorbed at once, C(x1 x2); composed, C of x2 in the weights C(x1); "
        f"half-curried, C(x1) with x2 before the query; x2 first; both changes added; no context. (c) Distance of the "
        f"composed weights from C(x1 x2), beside that of a second fit on other queries. (d) Outputs against weights, "
        f"coloured by x2. Cached keys and values compose to {worst:.0e}. KL by sink, at once, composed, half-curried, "
        f"the model with x2 x1; distance and cosine in weights: {told}."
    )


def _told(rows: pd.DataFrame, pair: str) -> str:
    sink = rows[rows.method == "sink"].median(numeric_only=True)
    numbers = [sink.direct_kl, sink.composed_kl, sink.half_kl, sink.oracle_swapped_kl]
    return (
        f"{named(pair).replace(chr(10), ' ')} {', '.join(f'{x:.2g}' for x in numbers)}; "
        f"{sink.composed_apart:.2f}, {sink.composed_cosine:.2f}"
    )
