"""Retrieval against the number of items: what is lost, to ranking or to dispersion, and what a margin decides."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter

from analyses.core.results import Result
from analyses.core.statistics import bootstrap_interval
from figures import parts

NEEDS = ("sharpness_vs_length",)
COLORS = {"softmax": "C0", "adaptive": "C1", "log_n": "C2", "hard_max": "C3"}
LABELS = {"softmax": "softmax", "adaptive": "adaptive temperature", "log_n": "log-n", "hard_max": "hard-max"}
MAX_RETRIEVAL, NEEDLE, TRAINED, UNTRAINED, BOUNDED = "max_retrieval", "needle", "trained", "untrained", "bounded scores"
BORN, PLANTED, DRAWN = "0.55", "C4", "C5"  # colours: untrained, the needle, bounded scores
DOTTED = (0, (1, 1.2))
# Accuracy of the softmax baseline in the table of max retrieval, arXiv:2410.01104, at lengths of ours.
PUBLISHED = {16: 0.986, 128: 0.897, 512: 0.701, 1024: 0.538, 2048: 0.357, 4096: 0.226, 16384: 0.124}
# Where the published fit of the adaptive temperature is 1 (nats): below the first and above the second it is not used.
DEAD_ZONES = (0.8486, 5.9445)
WIDTH = 8.0  # of the bounded scores (nats)
ENTROPY_GAP = WIDTH / 2 / np.tanh(WIDTH / 2) - 1 - np.log(np.sinh(WIDTH / 2) / (WIDTH / 2))  # ln n - H of theirs
LEVEL = 0.95
JUDGED = 4096  # items: the longest sets that the caption gives accuracies of; beyond, all is near chance


def draw(tables: Mapping[str, Result]) -> Figure:
    """Six panels; lines are means over the seeds, shades their bootstrap intervals."""
    result = tables["sharpness_vs_length"]
    figure, axes = parts.sheet(2, 3, height=5.0)
    _accuracies(axes[0, 0], result, MAX_RETRIEVAL)
    _accuracies(axes[0, 1], result, NEEDLE)
    _losses(axes[0, 2], result)
    _entropies(axes[1, 0], result)
    _peaks(axes[1, 1], result)
    _margins(axes[1, 2], result)
    for ax in axes.flat[:5]:
        _lengths(ax, result)
    for ax, letter in zip(axes.flat, "abcdef", strict=True):
        parts.panel_letter(ax, letter)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    more, names = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles + more, labels + names, loc="outside upper center", ncols=4, columnspacing=1.2, fontsize=7)
    return figure


def rows(result: Result, model: str, task: str, normaliser: str = "softmax") -> pd.DataFrame:
    """One line of a panel, all seeds."""
    table = result.table
    return table[(table.model == model) & (table.task == task) & (table.normaliser == normaliser)]


def _band(ax: Axes, found: pd.DataFrame, column: str, color: str, label: str | None = None, **style) -> pd.Series:
    """The mean over seeds at every length, and a bootstrap interval of it."""
    wide = found.pivot(index="length", columns="seed", values=column)
    mean = wide.mean(axis=1)
    ax.plot(mean.index, mean, color=color, label=label, **style)
    if wide.shape[1] > 1:
        ends = [bootstrap_interval(row, np.mean, LEVEL, np.random.default_rng(0), 500) for row in wide.to_numpy()]
        ax.fill_between(mean.index, *np.transpose(ends), color=color, alpha=0.2, linewidth=0)
    return mean


def _accuracies(ax: Axes, result: Result, task: str) -> None:
    ax.set(xscale="log", xlabel="items in the set", ylabel="accuracy (0 to 1)", ylim=(0, 1.06))
    widths = {"softmax": 3.0, "adaptive": 2.2, "log_n": 1.4, "hard_max": 0.8} if task == NEEDLE else {}
    for normaliser, color in COLORS.items():  # where all are at 1 the thinner lie on the wider
        found = rows(result, TRAINED, task, normaliser)
        _band(ax, found, "accuracy", color, LABELS[normaliser], linewidth=widths.get(normaliser, 1.4))
    _band(ax, rows(result, UNTRAINED, task), "accuracy", BORN, "untrained")
    lengths = sorted(result.table.length[result.table.task == task].unique())
    if task == MAX_RETRIEVAL:
        published = {n: value for n, value in PUBLISHED.items() if n in lengths}
        ax.plot(
            published.keys(), published.values(), "o", color="k", mfc="none", markersize=4, label="published, softmax"
        )
        ax.set_title("max retrieval")
    else:
        _band(ax, rows(result, TRAINED, task), "target_weight", "k", linestyle=DOTTED)
        ax.text(0.5, 0.6, "dotted: weight on the needle", transform=ax.transAxes, ha="center", fontsize=7)
        ax.set_title(f"needle, margin {result.run['config']['needle_margin']:g}")
    parts.theory(ax, [lengths[0], lengths[-1]], [0.1, 0.1], "chance", at=0.3)


def _losses(ax: Axes, result: Result) -> None:
    ax.set(xscale="log", xlabel="items in the set", ylabel="error (0 to 1)", ylim=(0, 1))
    found = rows(result, TRAINED, MAX_RETRIEVAL)
    found = found.assign(error=1 - found.accuracy)
    ranking = _band(ax, found, "ranking", COLORS["hard_max"])
    total = _band(ax, found, "error", COLORS["softmax"])
    ax.fill_between(ranking.index, 0, ranking, color=COLORS["hard_max"], alpha=0.25, linewidth=0)
    ax.fill_between(total.index, ranking, total, color=COLORS["softmax"], alpha=0.25, linewidth=0)
    ax.text(0.98, 0.04, "ranking: the\nhard-max errs too", transform=ax.transAxes, ha="right", fontsize=7)
    ax.text(0.05, 0.86, "dispersion:\nsoftmax errs as well", transform=ax.transAxes, fontsize=7)
    ax.set_title("what it loses")


def _sharpness(ax: Axes, result: Result, column: str) -> None:
    """The four kinds of rows whose sharpness is shown, under softmax."""
    _band(ax, rows(result, TRAINED, MAX_RETRIEVAL), column, COLORS["softmax"])
    _band(ax, rows(result, UNTRAINED, MAX_RETRIEVAL), column, BORN)
    _band(ax, rows(result, TRAINED, NEEDLE), column, PLANTED, "needle, softmax")
    _band(ax, rows(result, BOUNDED, "none"), column, DRAWN, "scores from U(-4, 4)", marker="o", linestyle="none")


def _entropies(ax: Axes, result: Result) -> None:
    n = np.sort(rows(result, TRAINED, MAX_RETRIEVAL).length.unique())
    top = np.log(n[-1]) + 0.7
    ax.set(xscale="log", xlabel="items in the set", ylabel="entropy (nats)", xlim=(n[0] / 1.2, n[-1] * 1.2))
    ax.set(ylim=(-0.3, top))
    _sharpness(ax, result, "entropy")
    parts.theory(ax, n, np.log(n), "ln n", at=0.3)
    parts.theory(ax, n, np.log(n) - ENTROPY_GAP, "ln n - 1.08", at=0.88)
    ax.axhspan(-0.3, DEAD_ZONES[0], color="0.9", zorder=0)
    ax.axhspan(DEAD_ZONES[1], top, color="0.9", zorder=0)
    ax.text(0.03, 0.97, "grey: adaptive is softmax", transform=ax.transAxes, va="top", fontsize=7)


def _peaks(ax: Axes, result: Result) -> None:
    n = np.sort(rows(result, TRAINED, MAX_RETRIEVAL).length.unique())
    ax.set(
        xscale="log", yscale="log", xlabel="items in the set", ylabel="largest weight (0 to 1)", ylim=(0.5 / n[-1], 3)
    )
    _sharpness(ax, result, "peak")
    for model, task, color in (
        (TRAINED, MAX_RETRIEVAL, COLORS["softmax"]),
        (UNTRAINED, MAX_RETRIEVAL, BORN),
        (BOUNDED, "none", DRAWN),
    ):
        bound = rows(result, model, task).groupby("length").peak_bound.mean()
        ax.plot(bound.index, bound, color=color, linestyle=DOTTED, linewidth=1.2)
    parts.theory(ax, n, np.minimum(1, WIDTH / (1 - np.exp(-WIDTH)) / n), "8.003/n", at=0.9)
    ax.text(0.03, 0.04, "dotted: Lemma 2.1", transform=ax.transAxes, fontsize=7)


def _margins(ax: Axes, result: Result) -> None:
    """The weight of the constructed needle: one line for each n, and in the inset one line for all."""
    found = rows(result, "constructed head", "equal distractors", "log_n")
    lengths = np.sort(found.length.unique())
    low, high = found.s_times_margin.min(), found.s_times_margin.max()
    grid = np.linspace(low, high, 200)
    ax.set(
        xlabel="s x margin", ylabel="weight on the needle (0 to 1)", ylim=(-0.03, 1.03), xlim=(low - 0.05, high + 0.05)
    )
    inset = ax.inset_axes((0.62, 0.16, 0.37, 0.34))
    inset.plot(grid, grid - 1, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0)
    for n, color in zip(lengths, mpl.colormaps["viridis"](np.linspace(0, 0.85, len(lengths))), strict=True):
        one = found[found.length == n]
        ax.plot(grid, 1 / (1 + (n - 1) * n**-grid), color=color, linestyle=(0, (4, 2)), linewidth=0.9)
        ax.plot(one.s_times_margin, one.target_weight, "o", color=color, markersize=2.5, label=f"{n:.0f}")
        odds = np.log(one.target_weight / (1 - one.target_weight)) / np.log(n)
        inset.plot(one.s_times_margin, odds, "o", color=color, markersize=1.8)
    spread = rows(result, "constructed head", "uniform distractors", "log_n")
    spread = spread[(spread.length == lengths[-1]) & (spread.margin == spread.margin.max())]
    theory, weight = (spread.groupby("s_times_margin")[column].mean() for column in ("theory", "target_weight"))
    ax.plot(theory.index, theory, color=color, linestyle=DOTTED, linewidth=0.9)
    ax.plot(weight.index, weight, "o", color=color, mfc="white", markersize=3, label="uniform")
    ax.axvline(1, color="0.75", linewidth=0.8, zorder=0)
    inset.axhline(0, color="0.75", linewidth=0.6, zorder=0)
    inset.set(xlim=(low - 0.05, high + 0.05))
    inset.tick_params(labelsize=6)
    inset.set_title("log odds / ln n", fontsize=6, pad=2)
    ax.legend(title="n", fontsize=6, title_fontsize=7, loc="upper left", handletextpad=0.1)
    ax.set_title("scores x s ln n")


def _lengths(ax: Axes, result: Result) -> None:
    """Name some of the lengths: on a logarithmic axis they do not all fit."""
    lengths = sorted(rows(result, TRAINED, MAX_RETRIEVAL).length.unique())
    shown = sorted({lengths[0], lengths[len(lengths) // 2], lengths[-1]})
    ax.set_xticks(shown, [str(length) for length in shown])
    ax.xaxis.set_minor_locator(FixedLocator(lengths))
    ax.xaxis.set_minor_formatter(NullFormatter())


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["sharpness_vs_length"]
    return " ".join((_told_of_accuracy(result), _told_of_sharpness(result), _told_of_margins(result)))


def _ends(result: Result) -> tuple[int, int]:
    """The shortest sets, and the longest that accuracies are judged on."""
    lengths = rows(result, TRAINED, MAX_RETRIEVAL).length
    return lengths.min(), lengths[lengths <= JUDGED].max()


def _mean(result: Result, column: str, length: int, normaliser: str = "softmax") -> float:
    found = rows(result, TRAINED, MAX_RETRIEVAL, normaliser)
    return found[found.length == length][column].mean()


def _told_of_accuracy(result: Result) -> str:
    trained, needle, config = rows(result, TRAINED, MAX_RETRIEVAL), rows(result, TRAINED, NEEDLE), result.run["config"]
    (first, last), longest = _ends(result), trained.length.max()
    n, sets = trained.seed.nunique(), trained.groupby("length").sets.first()
    right = {name: _mean(result, "accuracy", last, name) for name in LABELS}
    others = ", ".join(f"{LABELS[name]} {value:.2f}" for name, value in right.items() if name != "softmax")
    lost, ranking = 1 - right["softmax"], _mean(result, "ranking", last)
    return (
        f"One attention head trained to name the class of the item with the largest priority among "
        f"{config['task']['shortest']} to {config['task']['longest']} items; {n} seed{'s' if n > 1 else ''}, shades "
        f"are 95% bootstrap intervals over them; {sets[first]} sets of {first} items to {sets[longest]} of {longest} a "
        f"seed. (a) From {first} to {last} items accuracy falls from {_mean(result, 'accuracy', first):.3f} to "
        f"{right['softmax']:.2f}; there the same scores have under {others}. (b) The same nets find an item that keeps "
        f"a margin of {config['needle_margin']:g} over the rest: accuracy at least {needle.accuracy.min():.4f} and "
        f"weight on it at least {needle.target_weight.min():.3f} at every length and seed. (c) Softmax loses "
        f"{lost:.2f} at {last} items, the hard-max {ranking:.2f} ({ranking / lost:.0%} of it): there the order of the "
        f"scores is wrong, not their spread."
    )


def _told_of_sharpness(result: Result) -> str:
    (first, last), needle = _ends(result), rows(result, TRAINED, NEEDLE)
    (low, high), (near, far) = ([_mean(result, name, n) for n in (first, last)] for name in ("entropy", "spread"))
    bounded = rows(result, BOUNDED, "none")
    ends = bounded[bounded.length == bounded.length.max()]
    adaptive = result.table[result.table.normaliser == "adaptive"]
    dead = adaptive.dead_below.sum() + adaptive.dead_above.sum()
    return (
        f"(d) Entropy rises from {low:.2f} to {high:.2f} nats, on the needle to at most "
        f"{needle.groupby('length').entropy.mean().max():.2f}. In {dead:.0f} sets the entropy is outside the range of "
        f"the adaptive temperature's fit; {adaptive.dead_changed.sum():.0f} of them have weights that differ from "
        f"softmax's in any bit. (e) No set is above the bound of Lemma 2.1 by more than rounding (ln peak less that of "
        f"the bound is at most {result.table.peak_excess.max():.0e} nats), but the trained scores spread over "
        f"{near:.0f} to {far:.0f} nats, so that the bound is {_mean(result, 'peak_bound', last):.2g} and says nothing; "
        f"bounded scores disperse, n times the peak is {(ends.length * ends.peak).mean():.2f} (theory 8.00)."
    )


def _told_of_margins(result: Result) -> str:
    equal, uniform = (rows(result, "constructed head", f"{kind} distractors", "log_n") for kind in ("equal", "uniform"))
    away = (equal.s_times_margin - 1).abs()
    middle, uniform = equal[away == away.min()], uniform[uniform.length == uniform.length.max()]
    error, scattered = ((found.target_weight - found.theory).abs().max() for found in (equal, uniform))
    return (
        f"(f) A needle a margin above equal distractors, scores times s ln n: at s x margin = "
        f"{middle.s_times_margin.iloc[0]:g} it has a weight of {middle.target_weight.min():.3f} to "
        f"{middle.target_weight.max():.3f}, whatever n, and its log odds over ln n are one line (inset); dashes: "
        f"theory, largest error {error:.0e}. Open circles: distractors uniform on (0, 1) at the largest n; dotted: "
        f"theory, largest error {scattered:.3f}."
    )
