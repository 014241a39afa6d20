"""The base of rope against the length of the text: both questions, which pairs answer, and the propositions."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from analyses.core.results import Result
from analyses.core.statistics import bootstrap_interval
from figures import parts

NEEDS = ("rope_base_vs_length",)
SMALL, LARGE, NONE, QUARTER = "base 1e2", "base 5e5", "none", "base 1e4, p = 0.25"
COLORS = {SMALL: "C3", "base 1e3": "C1", "base 1e4": "C2", LARGE: "C0"}
COLORS |= {"base 1e4, p = 0.75": "C5", QUARTER: "C4", NONE: "k"}
SEMANTIC, POSITIONAL = "semantic", "positional"


def draw(tables: Mapping[str, Result]) -> Figure:
    """Accuracy of both questions against length, a thin line per seed; use of the pairs; mean scores by distance."""
    result = tables["rope_base_vs_length"]
    figure, axes = parts.sheet(2, 2, height=5.4)
    for ax, question in zip(axes[0], (SEMANTIC, POSITIONAL), strict=True):
        _accuracy(ax, result.table, question)
    _usage(axes[1, 0], result)
    _propositions(axes[1, 1], result)
    for ax, letter in zip(axes.flat, "abcd", strict=True):
        parts.panel_letter(ax, letter)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, columnspacing=1.2)
    return figure


def _curve(table: pd.DataFrame, code: str, question: str, trained: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Lengths, and accuracy (seed, length)."""
    rows = table[(table.code == code) & (table.question == question) & ((table.step > 0) == trained)]
    wide = rows.pivot(index="seed", columns="length", values="accuracy")
    return wide.columns.to_numpy(), wide.to_numpy()


def _accuracy(ax: Axes, table: pd.DataFrame, question: str) -> None:
    for code, color in COLORS.items():
        lengths, values = _curve(table, code, question)
        dashes = (0, (4, 1)) if "p =" in code else "-"
        ax.plot(lengths, values.T, color=color, linestyle=dashes, linewidth=0.5, alpha=0.35, zorder=2)
        ax.plot(lengths, values.mean(0), color=color, linestyle=dashes, label=code, zorder=3)
    born = np.mean([_curve(table, code, question, trained=False)[1].mean(0) for code in COLORS], axis=0)
    ax.plot(lengths, born, color="0.6", label="untrained")
    ax.set_xscale("log", base=2)
    ax.set_xticks(lengths, [str(length) for length in lengths])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="length of the text (tokens)", ylabel=f"{question} questions:\naccuracy", ylim=(-0.03, 1.03))


def _usage(ax: Axes, result: Result) -> None:
    """Each pair's share of |q||k| at its quarter wavelength; pairs that never turn stand at the right edge."""
    lengths = np.sort(result.table.length.unique())
    never = 3e6
    for code, color in COLORS.items():
        usage = result.arrays[f"{code}: usage (seed, head, pair)"].mean(1)  # (seed, pair)
        name = f"{code}: quarter wavelengths (pair)"
        reach = result.arrays[name] if name in result.arrays else np.zeros(0)
        turned = usage[:, : len(reach)]
        ax.plot(reach, turned.mean(0), "o-", color=color, markersize=3, linewidth=0.8, zorder=3)
        still = usage[:, len(reach) :].sum(1)
        if still.size and usage.shape[1] > len(reach):
            ax.plot(np.full(len(still), never), still, "D", color=color, markersize=4, fillstyle="none", zorder=3)
    for length, label, height in ((lengths[0], "trained", 0.97), (lengths[-1], "longest", 0.87)):
        ax.axvline(length, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, zorder=1)
        ax.text(length * 1.15, height, label, color="0.3", fontsize=7, va="top")
    ax.set(xscale="log", ylim=(0, 1.05), xlabel="quarter wavelength of a pair (tokens)")
    ax.set_xticks([1, 1e2, 1e4, never], ["1", "100", "10$^4$", "never"])
    ax.minorticks_off()
    ax.set_ylabel("share of $|q|\\,|k|$ in the pair,\nsemantic questions")


def _propositions(ax: Axes, result: Result) -> None:
    mean, error, same = (
        result.arrays[f"{name} (seed, distance)"]
        for name in ("q, k independent: mean score", "q, k independent: its standard error", "q = k: mean score")
    )
    distance = np.arange(mean.shape[1])
    ax.plot(distance, same.mean(0), color="C1", label="q = k (control)", zorder=3)
    ax.plot(distance, mean.T, color="C0", linewidth=0.5, alpha=0.5, zorder=2)
    ax.plot([], [], color="C0", label=f"q, k independent ({len(mean)} seeds)")
    ax.fill_between(
        distance, -2 * error.mean(0), 2 * error.mean(0), color="0.8", linewidth=0, label="2 standard errors"
    )
    parts.theory(ax, distance[[0, -1]], [0, 0], "0 (Prop 3.2)", at=0.8)
    ax.set(xlabel="distance (tokens)", ylabel="mean score q . R k, base 1e4", ylim=(None, 1.6 * same.max()))
    ax.legend(loc="upper right")


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["rope_base_vs_length"]
    table, n = result.table, result.table.seed.nunique()
    lengths = np.sort(table.length.unique())

    def at(code: str, question: str, place: int) -> str:
        return f"{_curve(table, code, question)[1][:, place].mean():.2f}"

    def every(question: str, place: int) -> str:
        return ", ".join(at(code, question, place) for code in COLORS)

    gap = _curve(table, LARGE, SEMANTIC)[1][:, -1] - _curve(table, SMALL, SEMANTIC)[1][:, -1]
    found = bootstrap_interval(gap, np.mean, 0.95, np.random.default_rng(0))
    between = f" ({found[0]:.2f} to {found[1]:.2f}, bootstrap over seeds)" if found else ""
    far = {code: _beyond(result, code, lengths[-1]) for code in (SMALL, LARGE, QUARTER)}
    middle = len(lengths) // 2
    worst = result.arrays["Prop 3.2: largest mean in standard errors (seed, base)"].max()
    share = result.arrays["Prop 3.1: share at the distance asked for (seed, base)"].min()
    return (
        f"One layer trained on {lengths[0]} tokens, {n} seed{'s' if n > 1 else ''}; codes in the order of the legend. "
        f"(a) Needles asked for by key: {every(SEMANTIC, 0)} at {lengths[0]} tokens, {every(SEMANTIC, -1)} at "
        f"{lengths[-1]}; the largest base is {gap.mean():.2f}{between} above the smallest there. (b) The token a fixed "
        f"number back: {every(POSITIONAL, 0)}, and {every(POSITIONAL, middle)} at {lengths[middle]}. (c) What "
        f"answers by key: the share of |q||k| in pairs whose quarter wavelength is beyond the longest text, or that "
        f"never turn, is {far[SMALL]:.2f} with base 1e2, {far[LARGE]:.2f} with 5e5 and {far[QUARTER]:.2f} with "
        f"p = 0.25: a large "
        f"base offers slow pairs, and training does not keep to them. (d) Independent normal q and k score 0 at every "
        f"distance (largest mean {worst:.1f} standard errors over all bases); the decay belongs to q = k. With the "
        f"key of Prop 3.1 the asked-for distance wins in {share:.0%} of random cases."
    )


def _beyond(result: Result, code: str, length: int) -> float:
    """Mean share of use in pairs that make less than a quarter turn within the length."""
    usage = result.arrays[f"{code}: usage (seed, head, pair)"].mean((0, 1))
    reach = result.arrays[f"{code}: quarter wavelengths (pair)"]
    slow = np.append(reach > length, np.ones(len(usage) - len(reach), dtype=bool))
    return float(usage[slow].sum())
