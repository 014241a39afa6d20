"""Whether the entropy of a head's last row says how far apart two texts stay in it, or the weight that moves."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from analyses.core.results import Result
from analyses.core.statistics import bootstrap_interval
from figures import parts

NEEDS = ("entropy_vs_distinguishability",)
RANDOM, ROTARY, TRAINED, BORN = "random, no positions", "random, RoPE", "induction, trained", "induction, at birth"
MODELS = (RANDOM, ROTARY, TRAINED, BORN)
REPEATED, MIDDLE = "repeated", "middle"
FLOOR = 1e-12  # distances below it are rounding
PREDICTORS = {
    "entropy": ("entropy", "distance", "C0", "o"),
    "entropy, norms shuffled": ("entropy", "shuffled", "C5", "s"),
    "moved weight": ("moved", "distance", "C1", "D"),
}


def draw(tables: Mapping[str, Result]) -> Figure:
    """Three models' heads by entropy; all heads beside their bound; rank correlations of both pairs."""
    result = tables["entropy_vs_distinguishability"]
    figure, axes = parts.sheet(2, 3, height=5.0)
    for ax, model in zip(axes[0], (RANDOM, ROTARY, TRAINED), strict=True):
        _heads(ax, result, model)
    _bound(axes[1, 0], result)
    for ax, pair in zip(axes[1, 1:], (REPEATED, MIDDLE), strict=True):
        _correlations(ax, result, pair)
    for ax, letter in zip(axes.flat, "abcdef", strict=True):
        parts.panel_letter(ax, letter)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    more = axes[1, 1].get_legend_handles_labels()
    names = labels + [f"by {name}" for name in more[1]]
    look = {"ncols": 3, "columnspacing": 1.0, "handletextpad": 0.3, "fontsize": 7}  # the corner is the profile's
    figure.legend(handles + more[0], names, loc="outside upper center", **look)
    return figure


def _heads(ax: Axes, result: Result, model: str) -> None:
    rows = result.table[result.table.model == model]
    looks = ((REPEATED, 0, "C0"), (REPEATED, 1, "C1"), (MIDDLE, None, "0.75"))
    for pair, layer, color in reversed(looks):
        some = rows[(rows.pair == pair) & (True if layer is None else rows.layer == layer)]
        label = "another middle token" if layer is None else f"last token once more, layer {layer}"
        ax.plot(some.relative_entropy, some.distance.clip(lower=FLOOR), ".", color=color, markersize=3, label=label)
    ax.set(yscale="log", xlabel="entropy of the last row / ln n", ylabel="$\\|z - z^*\\|$", xlim=(-0.03, 1.03))
    ax.set_title(model, fontsize=8)


def _bound(ax: Axes, result: Result) -> None:
    low = 1e-8
    for pair, color in ((MIDDLE, "0.75"), (REPEATED, "C0")):
        rows = result.table[result.table.pair == pair]
        ax.plot(rows.bound.clip(lower=low), rows.distance.clip(lower=low), ".", color=color, markersize=2)
    ax.set(xscale="log", yscale="log", xlabel="bound: weight and values that move", ylabel="$\\|z - z^*\\|$")
    ends = [low, 2 * result.table.bound.max()]
    parts.theory(ax, ends, ends, "bound", at=0.45)


def correlations(result: Result, model: str, pair: str, x: str, y: str) -> pd.Series:
    """Spearman's rank correlation over the first layer's heads, temperatures and texts, by seed."""
    rows = result.table[(result.table.model == model) & (result.table.pair == pair) & (result.table.layer == 0)]
    return rows.groupby("seed")[[x, y]].apply(lambda one: float(spearmanr(one[x], one[y]).statistic))


def _correlations(ax: Axes, result: Result, pair: str) -> None:
    """Means over seeds with their bootstrap interval, and the seeds themselves."""
    for at, (name, (x, y, color, marker)) in enumerate(PREDICTORS.items()):
        for row, model in enumerate(MODELS):
            found, where = correlations(result, model, pair, x, y), row + 0.22 * (at - 1)
            ends = bootstrap_interval(found.tolist(), np.mean, 0.95, np.random.default_rng(0))
            if ends is not None:
                ax.plot(ends, [where, where], color=color, linewidth=1.2)
            ax.plot(found, np.full(len(found), where), ".", color=color, markersize=2.5, alpha=0.5)
            label = name if row == 0 else None
            ax.plot(found.mean(), where, marker, color=color, markersize=4, linestyle="none", label=label)
    ax.axvline(0, color="0.75", linewidth=0.8, zorder=1)
    ax.set_yticks(range(len(MODELS)), [model.replace(", ", ",\n") for model in MODELS], fontsize=7)
    ax.set(xlim=(-1.05, 1.05), ylim=(len(MODELS) - 0.5, -0.5))
    what = "last token once more" if pair == REPEATED else "middle token (control)"
    ax.set_xlabel(f"rank correlation with distance,\n{what}, layer 0")


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["entropy_vs_distinguishability"]
    table, config = result.table, result.run["config"]
    n, temperatures = table.seed.nunique(), config["temperatures"]
    excess = ((table.distance - table.bound) / table.largest).max()

    def mean(model: str, pair: str = REPEATED, x: str = "entropy", y: str = "distance") -> str:
        return f"{correlations(result, model, pair, x, y).mean():.2f}"

    moved = f"{mean(RANDOM, x='moved')} and {mean(ROTARY, x='moved')}"
    return (
        f"Every head's last row, {n} seeds, scores divided by {len(temperatures)} temperatures from "
        f"{min(temperatures):g} to {max(temperatures):g}; texts of {config['length']} tokens for the random models, "
        f"repeated blocks for the induction model. (a to c) Entropy against the distance of the two outputs. (d) No "
        f"head lies above the bound (largest excess {excess:.0e} of the largest value). (e, f) Rank correlations in "
        f"the first layer, means over seeds with 95 % bootstrap intervals. Entropy has no sign of its own: with the "
        f"last token once more, more even attention tells the texts apart better without positions "
        f"({mean(RANDOM)}) and worse with RoPE ({mean(ROTARY)}), where a middle token gives {mean(ROTARY, MIDDLE)}; "
        f"the weight that moves gives {moved}. The induction model: {mean(TRAINED)} trained, {mean(BORN)} at birth. "
        f"With the values' norms shuffled {mean(RANDOM, y='shuffled')} and {mean(ROTARY, y='shuffled')}."
    )
