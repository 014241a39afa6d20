"""Counting as texts grow: accuracy against length, error against the count, every kind, and what ratios hide."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.core.results import Result
from analyses.counting.growing.claims import accuracy
from analyses.counting.growing.columns import BFLOAT16, LSTM, NETS, NONE, RATIOS, ROPE, TRAINED, UNTRAINED
from figures import parts

NEEDS = ("counting_vs_length",)
COLORS = {NONE: "C0", ROPE: "C1", LSTM: "C2"}
LABELS = {NONE: "transformer, no positions", ROPE: "transformer, rotary", LSTM: "LSTM"}
KINDS = {"ones": "ones\n1 1 1", "sum": "sum\n1 + 1", "bernoulli": "among\nzeros", "word": "a word\namong 8"}
ROUNDING = 1e-12


def draw(tables: Mapping[str, Result]) -> Figure:
    """Six panels."""
    result = tables["counting_vs_length"]
    figure, axes = parts.sheet(2, 3, height=5.0)
    _lengths(axes[0, 0], result, "bernoulli", "ones among zeros")
    _lengths(axes[0, 1], result, "word", "a word among others")
    _counts(axes[0, 2], result, "accuracy")
    _counts(axes[1, 0], result, "error")
    _kinds(axes[1, 1], result)
    _ratios(axes[1, 2], result)
    for ax, letter in zip(axes.flat, "abcdef", strict=True):
        parts.panel_letter(ax, letter)
    handles = [Line2D([], [], color=color, label=LABELS[net]) for net, color in COLORS.items()]
    handles += [
        Line2D([], [], color="0.55", label="untrained (a, b)"),
        Line2D([], [], color="k", marker="o", mfc="none", linestyle="none", markersize=4, label="in bfloat16 (e)"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=7)
    return figure


def rows(result: Result, net: str, kind: str, moment: str = TRAINED) -> pd.DataFrame:
    """All lengths, counts and seeds of one net."""
    table = result.table
    return table[(table.net == net) & (table.kind == kind) & (table.moment == moment)]


def _not_run(ax: Axes) -> None:
    ax.text(0.5, 0.5, "not run in this profile", transform=ax.transAxes, ha="center", color="0.4", fontsize=7)


def _lengths(ax: Axes, result: Result, kind: str, title: str) -> None:
    config = result.run["config"]
    longest, lengths = config["longest"], np.array(config["lengths"])
    ax.axvspan(0.8, longest, color="0.93", zorder=0)
    ax.set(xscale="log", xlabel="symbols in the text", ylabel="accuracy (0 to 1)", ylim=(0, 1.05), title=title)
    ax.set_xlim(0.8, 1.25 * lengths[-1])
    found = {net: rows(result, net, kind) for net in NETS}
    if all(one.empty for one in found.values()):
        _not_run(ax)
        return
    for net, one in found.items():
        if one.empty:
            continue
        wide = accuracy(one, ["length", "seed"]).unstack()
        ax.plot(wide.index, wide, color=COLORS[net], linewidth=0.5, alpha=0.45)
        ax.plot(wide.index, wide.mean(axis=1), color=COLORS[net])
        born = accuracy(rows(result, net, kind, UNTRAINED), ["length"])
        ax.plot(born.index, born, color="0.55", linewidth=0.8)
    parts.theory(ax, lengths, 1 / (1 + np.minimum(lengths, longest)), "length alone", at=0.3)
    ax.text(0.9, 0.9, "trained", fontsize=7, color="0.4")


def _counts(ax: Axes, result: Result, column: str) -> None:
    """Against the true count, at the longest trained length."""
    longest = result.run["config"]["longest"]
    for net, color in COLORS.items():
        one = rows(result, net, "bernoulli")
        one = one[one.length == longest]
        if one.empty:
            continue
        wide = one.assign(accuracy=one.right / one.texts).pivot(index="count", columns="seed", values=column)
        ax.plot(wide.index, wide, color=color, linewidth=0.5, alpha=0.45)
        ax.plot(wide.index, wide.mean(axis=1), color=color)
    label = "accuracy (0 to 1)" if column == "accuracy" else "mean error (counts)"
    ax.set(xlabel="true count", ylabel=label, title=f"among zeros, text of {longest}")
    ax.title.set_fontsize(8)
    if column == "accuracy":
        ax.set_ylim(0, 1.05)
        parts.theory(ax, [0, longest], [1 / (longest + 1)] * 2, "chance", at=0.2)


def _kinds(ax: Axes, result: Result) -> None:
    """Every kind at the trained lengths, and the same in bfloat16."""
    longest = result.run["config"]["longest"]
    for at, kind in enumerate(KINDS):
        there = [net for net in NETS if not rows(result, net, kind).empty]
        if not there:
            ax.text(at, 0.5, "not run", rotation=90, ha="center", va="center", color="0.4", fontsize=7)
        for net in there:
            x = at + 0.25 * (NETS.index(net) - 1)
            for moment, shift, face in ((TRAINED, -0.05, COLORS[net]), (BFLOAT16, 0.05, "white")):
                one = rows(result, net, kind, moment)
                values = accuracy(one[one.length <= longest], ["seed"])
                style = {"color": COLORS[net], "markerfacecolor": face, "markersize": 3.2}
                ax.plot(np.full(len(values), x + shift), values, "o", **style)
    ax.set_xticks(range(len(KINDS)), KINDS.values(), fontsize=7)
    ax.set(xlim=(-0.5, len(KINDS) - 0.5), ylim=(0, 1.05), ylabel="accuracy, trained lengths")


def _ratios(ax: Axes, result: Result) -> None:
    floor = 1e-17
    for at, name in enumerate(RATIOS):
        values = np.maximum(result.table[result.table.net == name].difference, floor)
        spread = np.linspace(-0.2, 0.2, len(values))
        ax.plot(values, at + spread, "o", color="C4", markersize=2.6)
    ax.set(xscale="log", xlim=(floor / 3, 10), xlabel="difference of a text and\nthe same text twice (relative)")
    ax.set_yticks(range(len(RATIOS)), [name.replace(" ", "\n") for name in RATIOS])
    ax.set_ylim(len(RATIOS) - 0.4, -0.6)
    ax.axvline(ROUNDING, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0)
    ax.text(ROUNDING * 3, 0, "rounding", color="0.3", fontsize=7, va="center")


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["counting_vs_length"]
    table, config = result.table, result.run["config"]
    longest, far = config["longest"], config["lengths"][-1]

    def at(kind: str, length: int, moment: str = TRAINED) -> str:
        """Accuracy of every net that was run, in the order of the legend."""
        found = [rows(result, net, kind, moment) for net in NETS]
        means = [accuracy(one[one.length == length], ["seed"]).mean() for one in found if not one.empty]
        return ", ".join(f"{mean:.2f}" for mean in means) if means else "not run"

    names = ", ".join(LABELS[net] for net in NETS if (table.net == net).any())
    halves = []
    for upper in (False, True):
        one = rows(result, NONE, "bernoulli")
        one = one[(one.length == longest) & ((one["count"] > longest / 2) == upper)]
        halves.append(f"{np.average(one.error, weights=one.texts):.1f}")
    both, others = table[table.net == RATIOS[0]].difference, table[table.net.isin(RATIOS[1:])].difference
    word = at("word", longest)
    words = "" if word == "not run" else f" (b) A word among others: {word} and {at('word', far)}."
    return (
        f"Nets that learned to count in texts of 1 to {longest} symbols (grey): {table.seed.nunique()} seeds (thin), "
        f"{config['test_texts']} texts a length; numbers for {names}. (a) Ones among zeros, counts up to {longest}: "
        f"right {at('bernoulli', longest)} at {longest} symbols and {at('bernoulli', far)} at {far}; chance "
        f"{1 / (longest + 1):.2f}.{words} (c, d) In texts of {longest} the one without positions is off by "
        f"{halves[0]} in the lower half of the counts, {halves[1]} in the upper. (e) Ones alone and sums are as long "
        f"as they count, so that no longer text has a trained answer: {at('ones', longest)}; "
        f"{at('sum', longest)} at {longest}. (f) Random nets: both ways, without BOS and positions, a "
        f"text and its double differ by {both.max():.0e}, else by {others.min():.0e} or more."
    )
