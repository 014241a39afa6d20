"""What must be equal beside the tolerance of rounding, and what must differ on the far side of it."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.core.results import Result
from figures import parts

NEEDS = ("curry_exact",)
ROW = 0.142  # inches: the height of a line
EXACT = 1e-21  # where an error of exactly 0 stands on the logarithmic axis
SMALLEST = 1e-18  # where smaller ones stand
TICKS = {
    EXACT: "0",
    SMALLEST: r"$\leq 10^{-18}$",
    1e-15: "$10^{-15}$",
    1e-12: "$10^{-12}$",
    1e-9: "$10^{-9}$",
    1e-6: "$10^{-6}$",
    1e-3: "$10^{-3}$",
}
TICKS |= {1.0: "1"}
AGREE, DIFFER, WRONG, TOLERANCE = "C0", "C1", "C3", "0.3"
MUST_DIFFER = "must differ"


def draw(tables: Mapping[str, Result]) -> Figure:
    """A line per quantity below its instrument: a dot per seed, a tick at the tolerance; below, what must differ."""
    table = tables["curry_exact"].table
    lines = _lines(table)
    figure, axes = parts.sheet(height=0.75 + ROW * len(lines))
    ax = axes[0, 0]
    for must, color in (("agree", AGREE), ("differ", DIFFER)):
        rows = table[table.must == must]
        places = [lines.index(_line(row)) for row in rows.itertuples()]
        colors = np.where(_right(rows), color, WRONG)
        ax.scatter(_shown(rows.error), places, s=10, c=colors, zorder=3)
        ax.scatter(_shown(rows.tolerance), places, s=44, marker="|", c=TOLERANCE, linewidths=1.3, zorder=2)
    for color, label in ((AGREE, "must agree, a dot per seed"), (DIFFER, "must differ"), (WRONG, "does not")):
        if color != WRONG or not _right(table).all():
            ax.scatter([], [], s=10, c=color, label=label)
    ax.scatter([], [], s=44, marker="|", c=TOLERANCE, linewidths=1.3, label="tolerance, or least difference")
    _scale(ax)
    _name(ax, lines, {_line(row): row.unit for row in table.itertuples()})
    figure.legend(loc="outside upper center", ncols=4)
    return figure


def _line(row) -> tuple[str, str]:
    return (
        (MUST_DIFFER, f"{row.instrument}: {row.quantity}") if row.must == "differ" else (row.instrument, row.quantity)
    )


def _lines(table: pd.DataFrame) -> list[tuple[str, str]]:
    """From top to bottom: an instrument's name, then its quantities; what must differ comes last."""
    named = list(dict.fromkeys(_line(row) for row in table.itertuples()))
    groups = sorted(dict.fromkeys(group for group, _ in named), key=lambda group: group == MUST_DIFFER)
    return [line for group in groups for line in ((group, ""), *(one for one in named if one[0] == group))]


def _right(rows: pd.DataFrame) -> pd.Series:
    return (rows.error <= rows.tolerance) == (rows.must == "agree")


def _shown(values: pd.Series) -> np.ndarray:
    return np.where(values == 0, EXACT, values.clip(lower=SMALLEST))


def _scale(ax: Axes) -> None:
    ax.set_xscale("log")
    ax.set_xticks(list(TICKS), list(TICKS.values()))
    ax.minorticks_off()
    ax.set_xlim(EXACT / 5, 50)
    ax.set_xlabel("largest difference (without unit where the line names none)")


def _name(ax: Axes, lines: list[tuple[str, str]], units: Mapping[tuple[str, str], str]) -> None:
    labels = [
        f"{quantity} ({units[group, quantity]})" if units.get((group, quantity), "1") != "1" else quantity or group
        for group, quantity in lines
    ]
    ax.set_yticks(range(len(lines)), labels, fontsize=7)
    ax.set_ylim(len(lines) - 0.4, -0.6)
    for label, (_, quantity) in zip(ax.get_yticklabels(), lines, strict=True):
        label.set_fontweight("normal" if quantity else "bold")
    ax.tick_params(axis="y", length=0)
    rows = [place for place, (_, quantity) in enumerate(lines) if quantity]
    ax.hlines(rows, *ax.get_xlim(), color="0.93", linewidth=0.5, zorder=0)


def caption(tables: Mapping[str, Result]) -> str:
    """How many equalities hold, how near the nearest comes to its tolerance, and by how much the rest differs."""
    table = tables["curry_exact"].table
    n = table.seed.nunique()
    agree, differ = table[table.must == "agree"], table[table.must == "differ"]
    worst = agree.groupby(["instrument", "quantity"], sort=False)[["error", "tolerance"]].max()
    ratio = (worst.error / worst.tolerance)[worst.tolerance > 0]
    nearest = ratio.idxmax()
    held = int((worst.error <= worst.tolerance).sum())
    exact = int((worst.error == 0).sum())
    sink = agree[agree.instrument == "sink, constant queries"]
    sink = sink[sink.quantity.isin(["logits", "entities"])].error.max()
    least = differ.groupby(["instrument", "quantity"], sort=False).error.min()
    weakest = least.idxmin()
    return (
        f"A context and its effective weights, float64, {n} seed{'s' if n > 1 else ''} of weights, contexts and "
        f"queries. {held} of {len(worst)} equalities hold within the tolerance that rounding leaves them, {exact} "
        f"without any error; nearest comes {nearest[0]}: {nearest[1]}, at {ratio.max():.2g} of it. Where all queries "
        f"are the same a rank-one edit of BOS's key and value replaces the context to {sink:.0e}; a patch per token "
        f"does so behind every block of any model to {agree[agree.quantity == 'behind every block'].error.max():.0e}. "
        f"{int((least > 1e-3).sum())} of {len(least)} comparisons that must differ do so, the least by "
        f"{least.min():.1e} ({weakest[0]}: {weakest[1]})."
    )
