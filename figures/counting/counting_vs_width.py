"""Counting against the width of the stream: accuracy of every cell, its curves, and the critical width."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter

from analyses.core.results import Result
from analyses.core.statistics import bootstrap_interval
from analyses.counting.widths.columns import CONSTRUCTED, LEVEL, TRAINED, UNTRAINED, critical_widths
from figures import parts

NEEDS = ("counting_vs_width",)
COLORS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6")


def draw(tables: Mapping[str, Result]) -> Figure:
    """Three panels: heat map with the line d = m, accuracy against d / m, critical width against m."""
    result = tables["counting_vs_width"]
    figure, axes = parts.sheet(1, 3, height=3.3, width_ratios=(1.25, 1, 1))
    _cells(axes[0, 0], result)
    _curves(axes[0, 1], result)
    _critical(axes[0, 2], result)
    for ax, letter in zip(axes.flat, "abc", strict=True):
        parts.panel_letter(ax, letter)
    vocabularies = sorted(result.table.vocabulary.unique())
    handles = [Line2D([], [], color=color, label=f"m = {m}") for m, color in zip(vocabularies, COLORS, strict=False)]
    handles += [
        Line2D([], [], color="0.55", label="untrained (b)"),
        Line2D([], [], color="k", marker="x", linestyle="none", markersize=4, label="by hand, random tokens (b)"),
        Line2D([], [], color="k", marker="s", linestyle="none", markersize=4, mfc="none", label="by hand, exact (b)"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=7)
    return figure


def _cell_means(result: Result) -> pd.DataFrame:
    """(d_model, vocabulary) of the trained nets, mean over seeds."""
    rows = result.table[result.table.model == TRAINED]
    return rows.pivot_table(index="d_model", columns="vocabulary", values="accuracy", aggfunc="mean")


def _cells(ax: Axes, result: Result) -> None:
    means = _cell_means(result).sort_index(ascending=False)
    parts.heat(ax, means.to_numpy(), "accuracy (0 to 1)", vmin=0, vmax=1)
    ax.set_xticks(range(means.shape[1]), means.columns)
    ax.set_yticks(range(means.shape[0]), means.index)
    widths = means.index.to_numpy()
    # in every column the edge runs below the narrowest width that is at least m
    edges = [float((widths >= m).sum()) - 0.5 for m in means.columns]
    x, y = np.repeat(np.arange(len(edges) + 1) - 0.5, 2)[1:-1], np.repeat(edges, 2)
    ax.plot(x, y, color="white", linewidth=3.5)
    ax.plot(x, y, color="black", linewidth=1.5)
    ax.set(xlabel="vocabulary m (tokens)", ylabel="width d", title="line: d = m")


def _curves(ax: Axes, result: Result) -> None:
    table = result.table
    for m, color in zip(sorted(table.vocabulary.unique()), COLORS, strict=False):
        of = table[table.vocabulary == m]
        wide = of[of.model == TRAINED].pivot(index="d_model", columns="seed", values="accuracy")
        ax.plot(wide.index / m, wide, color=color, linewidth=0.5, alpha=0.45)
        ax.plot(wide.index / m, wide.mean(axis=1), color=color)
        born = of[of.model == UNTRAINED].groupby("d_model").accuracy.mean()
        ax.plot(born.index / m, born, color="0.55", linewidth=0.8)
        hand = of[of.model == CONSTRUCTED].groupby(["frame", "d_model"]).accuracy.mean().reset_index()
        random = hand.frame == "random"
        ax.plot(hand[random].d_model / m, hand[random].accuracy, "kx", markersize=3.5, markeredgewidth=0.8)
        ax.plot(hand[~random].d_model / m, hand[~random].accuracy, "ks", markersize=3, mfc="none", markeredgewidth=0.6)
    low, high = 0.7 * table.d_model.min() / table.vocabulary.max(), 1.4 * table.d_model.max() / table.vocabulary.min()
    ax.set(xscale="log", xlabel="width over vocabulary, d / m", ylabel="accuracy (0 to 1)", ylim=(0, 1.05))
    ax.set_xlim(low, high)
    parts.theory(ax, [low, high], [table.guess.mean()] * 2, "best guess", at=0.8)
    ax.axvline(1, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, zorder=1)


def _critical(ax: Axes, result: Result) -> None:
    found = critical_widths(result.table)
    vocabularies = np.sort(found.vocabulary.unique())
    for m, color in zip(vocabularies, COLORS, strict=False):
        for crossed, face in ((True, color), (False, "white")):
            rows = found[(found.vocabulary == m) & (found.crossed == crossed)]
            if rows.empty:  # an empty line that is not clipped would claim the sheet's corner
                continue
            jitter = m * np.exp(np.linspace(-0.08, 0.08, len(rows)))
            ax.plot(jitter, rows.critical, "o", color=color, markerfacecolor=face, markersize=3.6, clip_on=False)
    for m in vocabularies:
        rows = found[(found.vocabulary == m) & found.crossed]
        if len(rows) > 2:
            ends = bootstrap_interval(rows.critical.tolist(), np.median, 0.95, np.random.default_rng(0))
            ax.plot([m * 1.2] * 2, ends, color="0.3", linewidth=1.5)
    ax.set(xscale="log", yscale="log", xlabel="vocabulary m (tokens)", ylabel=f"width at accuracy {LEVEL}")
    ticks = sorted({*result.table[result.table.model == TRAINED].d_model, *vocabularies})
    for axis, at in ((ax.xaxis, vocabularies), (ax.yaxis, ticks)):
        axis.set_major_locator(FixedLocator(at))
        axis.set_major_formatter("{x:.0f}")
        axis.set_minor_formatter(NullFormatter())
    ax.set(xlim=(vocabularies[0] / 1.5, vocabularies[-1] * 1.5), ylim=(ticks[0] / 1.3, ticks[-1] * 1.3))
    ax.minorticks_off()
    parts.theory(ax, vocabularies, vocabularies, "d = m", at=0.2)


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["counting_vs_width"]
    table = result.table
    trained, hand = table[table.model == TRAINED], table[table.model == CONSTRUCTED]
    n, texts = trained.seed.nunique(), result.run["config"]["test_texts"]
    wide, narrow = (trained[rows].accuracy for rows in (trained.d_model >= trained.vocabulary,
                                                        trained.d_model * 4 <= trained.vocabulary))  # fmt: skip
    found, born = critical_widths(table), table[table.model == UNTRAINED].accuracy
    medians = found.groupby("vocabulary").critical.median()
    listed = ", ".join(f"{value:.1f}" for value in medians)
    exact, random = hand[hand.frame != "random"], hand[hand.frame == "random"]
    beyond = int((~found.crossed).sum())
    below = f", {narrow.mean():.2f} at d <= m / 4" if len(narrow) else ""
    return (
        f"How often did the last token stand in the text? {n} seeds (thin lines, points), {texts} test texts each, of "
        f"{result.run['config']['per_token']} m tokens. (a, b) One layer trained at every width d and vocabulary m "
        f"answers {wide.mean():.2f} on average where d >= m{below}; the best guess {table.guess.mean():.2f}, an answer "
        f"at random {table.chance.mean():.2f}, untrained {born.mean():.2f}. By hand, "
        f"orthogonal tokens (d >= m) and a simplex (d = m - 1) hold the count to {exact.reading_error.max():.0e}; the "
        f"same weights on random directions answer {random.accuracy.mean():.2f}. (c) Accuracy {LEVEL} is reached at "
        f"width {listed} for m = {', '.join(map(str, medians.index))} (medians; bars: 95% bootstrap intervals; open: "
        f"{beyond} of {len(found)} outside the widths, drawn at their end); dashed: d = m."
    )
