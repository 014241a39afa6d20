"""The k-th copy of a token beside the token alone: weight on what stood before, and distance layer by layer."""

from collections.abc import Mapping
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from analyses.core.results import Result
from figures import parts

NEEDS = ("repeated_token",)
UNTRAINED, TRAINED = "untrained", "trained"
BARE, START, PROMPT = "none", "start token", "prompt"
COLOURS = {BARE: "C2", START: "C0", PROMPT: "C1"}
NAMES_OF = {BARE: "nothing before", START: "behind a start token", PROMPT: "behind a prompt"}
FLOOR = 1e-4  # what lies below is rounding


def draw(tables: Mapping[str, Result]) -> Figure:
    """Weight on the prefix beside the closed form, first and last layer without positions; two codes and the sizes."""
    result = tables["repeated_token"]
    figure, axes = parts.sheet(2, 3, height=4.8)
    _weights(axes[0, 0], result)
    for ax, column, label in (
        (axes[0, 1], "first_layer", "first layer: distance\nto the lone token"),
        (axes[0, 2], "last_layer", "last layer: distance\nto the lone token"),
    ):
        _distances(ax, result, column, label, "none")
    _distances(axes[1, 0], result, "last_layer", "rope, last layer: distance\nto the lone token", "rope")
    _distances(
        axes[1, 1], result, "last_layer", "learned positions, last layer:\ndistance to the lone token", "learned"
    )
    _sizes(axes[1, 2], result)
    for ax, letter in zip(axes.flat, "abcdef", strict=True):
        parts.panel_letter(ax, letter)
        ax.set_xlabel("copy k")
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    handles = [Line2D([], [], color=color, label=NAMES_OF[kind]) for kind, color in COLOURS.items()]
    handles += [
        Line2D([], [], color="0.4", label=TRAINED),
        Line2D([], [], color="0.4", linestyle=(0, (1, 1.2)), label=UNTRAINED),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, columnspacing=1.1, handletextpad=0.4)


def _select(result: Result, position: str, prefix: str, moment: str) -> pd.DataFrame:
    table = result.table
    rows = table[(table.position == position) & (table.prefix == prefix) & (table.moment == moment)]
    return rows[rows.start]


def _curve(ax: Axes, rows: pd.DataFrame, column: str, color: str, moment: str) -> pd.Series:
    """A thin line per seed, a thick one for the mean."""
    wide = rows.pivot(index="k", columns="seed", values=column)
    style = {"color": color, "linestyle": "-" if moment == TRAINED else (0, (1, 1.2))}
    ax.plot(wide.index, wide, linewidth=0.5, alpha=0.35, zorder=2, **style)
    ax.plot(wide.index, wide.mean(axis=1), linewidth=1.7, zorder=3, **style)
    return wide.mean(axis=1)


def _copies(ax: Axes, result: Result) -> None:
    ax.set_xscale("log", base=2)
    copies = np.sort(result.table.k.unique())
    shown = copies[::3]
    ax.set_xticks(shown, [f"{k:g}" for k in shown])
    ax.xaxis.set_minor_formatter(NullFormatter())


def _weights(ax: Axes, result: Result) -> None:
    _copies(ax, result)
    ax.set(yscale="log", ylabel="first layer: weight on\nwhat stands before")
    for prefix, moment in product((START, PROMPT), (UNTRAINED, TRAINED)):
        rows = _select(result, "none", prefix, moment)
        _curve(ax, rows, "weight", COLOURS[prefix], moment)
        theory = rows.groupby("k").weight_theory.mean()
        ax.plot(theory.index, theory, "o", color="0.2", markersize=3, fillstyle="none", zorder=4)
    ax.plot([], [], "o", color="0.2", markersize=3, fillstyle="none", label=r"$1/(1 + k e^c)$, mean")
    ax.legend(loc="lower left", handletextpad=0.2)
    low, high = ax.get_ylim()
    ax.set_ylim(low / 3, high)


def _distances(ax: Axes, result: Result, column: str, label: str, position: str) -> None:
    _copies(ax, result)
    ax.set_ylabel(label)
    if position not in set(result.table.position):
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", color="0.5")
        return
    for (prefix, color), moment in product(COLOURS.items(), (UNTRAINED, TRAINED)):
        rows = _select(result, position, prefix, moment)
        rows = rows[rows[column] > FLOOR]  # the copies that are the lone token are told below
        if len(rows):
            _curve(ax, rows, column, color, moment)
    ax.set(yscale="log", ylim=(1e-3, 6))
    exact = _select(result, position, BARE, TRAINED)
    if position != "learned" and len(exact):
        ax.text(0.04, 0.93, f"nothing before: at most {exact[column].max():.0e}", transform=ax.transAxes,
                color=COLOURS[BARE], fontsize=7)  # fmt: skip
    if column == "last_layer" and position == "none":
        rows = _select(result, position, START, UNTRAINED)
        mean = rows.groupby("k")[column].mean()
        k = mean.index.to_numpy(float)
        k = k[k >= 8]
        law = np.log(k) / k
        parts.theory(ax, k, 0.4 * law * mean.loc[k[0]] / law[0], r"$\ln(k)/k$", at=0.4)
    if column == "first_layer":
        for prefix, moment in product((START, PROMPT), (UNTRAINED, TRAINED)):
            theory = _select(result, position, prefix, moment).groupby("k").first_theory.mean()
            ax.plot(theory.index, theory, "o", color="0.2", markersize=3, fillstyle="none", zorder=4)


def _sizes(ax: Axes, result: Result) -> None:
    _copies(ax, result)
    for prefix, color in COLOURS.items():
        rows = _select(result, "none", prefix, TRAINED)
        if len(rows):
            _curve(ax, rows, "size", color, TRAINED)
    ax.axhline(1, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, zorder=1)
    ax.text(0.97, 0.05, "dashed: ordinary text", transform=ax.transAxes, ha="right", fontsize=7, color="0.3")
    ax.set(ylim=(0, 2), ylabel="trained, no positions:\nsize of the copy in the stream")


def _half(rows: pd.DataFrame) -> int:
    """The first copy of one seed whose distance behind the last layer is half of the first's; else the last copy."""
    rows = rows.sort_values("k")
    reached = rows.k[rows.last_layer <= rows.last_layer.iloc[0] / 2]
    return int(reached.min() if len(reached) else rows.k.max())


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["repeated_token"]
    table, n = result.table, result.table.seed.nunique()
    last = int(table.k.max())

    def at(position: str, prefix: str, moment: str, k: int, column: str = "last_layer") -> str:
        rows = _select(result, position, prefix, moment)
        return f"{rows[rows.k == k][column].mean():.2g}" if len(rows) else "not run"

    def both(position: str, moment: str) -> str:
        return f"{at(position, START, moment, 1)} to {at(position, START, moment, last)}"

    halves = [_half(one) for _, one in _select(result, "none", START, TRAINED).groupby("seed")]
    half = f"{min(halves)} to {max(halves)}" if len(set(halves)) > 1 else halves[0]
    plain = table[table.position == "none"]
    alike = table[(table.position != "learned") & (table.prefix == BARE)]
    size = table[table.moment == TRAINED]["size"].max()
    keys = table[(table.moment == TRAINED) & ~table.start & (table.prefix == BARE)].dropna(subset=["text_first"])
    ratio = (keys.text_first / keys.text_each).mean()
    return (
        f"The k-th copy of a byte in transformers of two layers, {n} seed{'s' if n > 1 else ''} (thin), means (thick). "
        f"(a) Weight on what stands before the copies; circles: the closed form, off by at most "
        f"{plain.weight_off.max():.0e} in any head. (b, c) Distance of what the first layer's attention writes, and of "
        f"the stream behind the last, to the lone token, without positions: with nothing before at most "
        f"{alike.last_layer.max():.0e} in any layer, rope too; behind a start token from {both('none', UNTRAINED)} in "
        f"{last} copies untrained, from {both('none', TRAINED)} trained; half of the first copy's is left "
        f"at {half} copies, by seed. (d) rope: {both('rope', UNTRAINED)} and {both('rope', TRAINED)}. "
        f"(e) Learned positions, where every place has a vector of its own: {both('learned', UNTRAINED)} and "
        f"{both('learned', TRAINED)}. (f) No copy is large: at most {size:.1f} times ordinary text (any code); "
        f"position 0 gets {ratio:.1f} times the weight of a further token in ordinary text: these models have no "
        f"sink that repetition could fire."
    )
