"""Measured beside known: every reading of every instrument, and its error beside what it may be."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.core.results import Result
from figures import parts

NEEDS = ("circuit_calibration",)
ROW = 0.145  # inches: the height of a line
EXACT = 1e-17  # where an error of exactly 0 stands on the logarithmic axis; float64 near 1 has none as small
TICKS = {EXACT: "0", 1e-14: "$10^{-14}$", 1e-11: "$10^{-11}$", 1e-8: "$10^{-8}$", 1e-5: "$10^{-5}$", 1e-2: "$10^{-2}$"}
WITHIN, OUTSIDE, TOLERANCE = "C0", "C1", "0.3"


def draw(tables: Mapping[str, Result]) -> Figure:
    """Two panels that share their lines: the values beside the known ones, and the errors beside the tolerances."""
    table = tables["circuit_calibration"].table
    lines = _lines(table)
    figure, axes = parts.sheet(1, 2, height=0.75 + ROW * len(lines), sharey=True, width_ratios=(1, 1.3))
    values, errors = axes[0]
    places = [lines.index(key) for key in zip(table.instrument, table.quantity, strict=True)]
    colors = np.where(table.error <= table.tolerance, WITHIN, OUTSIDE)
    values.scatter(table.known, places, s=34, facecolors="none", edgecolors="0.3", linewidths=0.8, label="known")
    values.scatter(table.measured, places, s=8, c=colors, label="measured, a dot per seed", zorder=3)
    errors.scatter(table.tolerance, places, s=40, marker="|", c=TOLERANCE, linewidths=1.4, label="tolerance")
    errors.scatter(table.error.clip(lower=EXACT), places, s=10, c=colors, zorder=3)
    _scales(values, errors)
    _name(values, lines, dict(zip(zip(table.instrument, table.quantity, strict=True), table.unit, strict=True)))
    for ax, letter in ((values, "a"), (errors, "b")):
        ax.hlines(places, *ax.get_xlim(), color="0.93", linewidth=0.5, zorder=0)
        parts.panel_letter(ax, letter)
    handles = [one for ax in (values, errors) for one in ax.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def _lines(table: pd.DataFrame) -> list[tuple[str, str]]:
    """From top to bottom: an instrument's name, then its quantities."""
    lines = []
    for instrument, rows in table.groupby("instrument", sort=False):
        lines += [(instrument, ""), *((instrument, quantity) for quantity in rows.quantity.unique())]
    return lines


def _scales(values: Axes, errors: Axes) -> None:
    values.set_xscale("symlog", linthresh=1, linscale=0.8)
    values.set_xticks([-10, -1, 0, 1, 10], ["-10", "-1", "0", "1", "10"])
    values.set_xlim(-40, 40)
    values.set_xlabel("value (unit of the line)")
    errors.set_xscale("log")
    errors.set_xticks(list(TICKS), list(TICKS.values()))
    errors.minorticks_off()
    errors.set_xlim(EXACT / 5, 1)
    errors.set_xlabel("largest error (unit of the line)")


def _name(ax: Axes, lines: list[tuple[str, str]], units: Mapping[tuple[str, str], str]) -> None:
    labels = [
        f"{quantity} ({units[instrument, quantity]})" if units.get((instrument, quantity), "1") != "1" else quantity
        for instrument, quantity in lines
    ]
    labels = [quantity or instrument for (instrument, _), quantity in zip(lines, labels, strict=True)]
    ax.set_yticks(range(len(lines)), labels, fontsize=7)
    ax.set_ylim(len(lines) - 0.4, -0.6)
    for label, (_, quantity) in zip(ax.get_yticklabels(), lines, strict=True):
        label.set_fontweight("normal" if quantity else "bold")
    ax.tick_params(axis="y", length=0)


def caption(tables: Mapping[str, Result]) -> str:
    """How many readings agree, how near the nearest came to its tolerance, and what stands out; all from the table."""
    table = tables["circuit_calibration"].table
    n = table.seed.nunique()
    readings = table.groupby(["instrument", "quantity"], sort=False)
    worst = (table.error / table.tolerance).groupby([table.instrument, table.quantity], sort=False).max()
    nearest = worst.idxmax()
    exact = int((readings.error.max() == 0).sum())
    mean = readings.measured.mean()
    return (
        f"{len(worst)} readings of {table.instrument.nunique()} instruments on models with a known answer, {n} seeds. "
        f"(a) The measured value beside the known one, means where a reading has many values. (b) The largest "
        f"difference of any of them, beside the tolerance fixed before: {int((worst <= 1).sum())} of {len(worst)} "
        f"readings lie within, {exact} without any error; nearest to its tolerance comes {nearest[0]}: {nearest[1]}, "
        f"at {worst.max():.2g} of it. Hidden among random heads, the constructed pair K-composes by "
        f"{mean['composition', 'K, hidden pair']:.3f}, the other 15 pairs by "
        f"{mean['composition', 'K, the 15 other pairs']:.3f} (random heads: "
        f"{mean['composition', 'random pairs, r.m.s.']:.3f}). Without the previous-token head the loss goes from "
        f"{mean['ablation', 'loss, nothing ablated']:.2f} to {mean['ablation', 'loss, no previous-token head']:.2f} "
        f"nats, which counting tokens gives. Patching recovers "
        f"{mean['patching', 'previous-token head, after a']:.2f} where that head writes, and its path "
        f"{mean['path patching', 'into the keys']:.2f} into the keys, {mean['path patching', 'into the queries']:.2f} "
        f"into the queries, {mean['path patching', 'into the values']:.2f} into the values of the induction head."
    )
