"""Copying the last or the first digit of a run against its length: margins, where each fails, and the rival."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from analyses.core.results import Result
from analyses.core.statistics import bootstrap_interval
from figures import parts

NEEDS = ("copying_vs_length",)
COPY, RECALL, DOUBLED = "copy", "recall", "doubled"
UNTRAINED, TRAINED = "untrained", "trained"
PLAIN, SEPARATED, ALTERNATING = "plain", "separated", "alternating"
RIGHT = 0.9
COLOURS = {"first, rope": "C1", "last, rope": "C0", "first, none": "C4", "last, none": "C2"}
LABELS = {"first, rope": "first, rope", "last, rope": "last, rope",
          "first, none": "first, no positions", "last, none": "last, no positions"}  # fmt: skip
# What a row of panel b shows: label, arm, kind of test text, dtype.
ROWS = (
    ("first, rope", "first, rope", PLAIN, "float32"),
    ("alternating, trained", "first, rope, trained alternating", ALTERNATING, "float32"),
    ("last, rope", "last, rope", PLAIN, "float32"),
    ("in bfloat16", "last, rope", PLAIN, "bfloat16"),
    ("separators at test", "last, rope", SEPARATED, "float32"),
    ("separators, trained", "last, rope, trained separated", SEPARATED, "float32"),
    ("alternating at test", "last, rope", ALTERNATING, "float32"),
    ("alternating, trained", "last, rope, trained alternating", ALTERNATING, "float32"),
    ("window of 8, trained", "last, rope, window 8", PLAIN, "float32"),
    ("first, no positions", "first, none", PLAIN, "float32"),
    ("last, no positions", "last, none", PLAIN, "float32"),
    ("in bfloat16", "last, none", PLAIN, "bfloat16"),
    ("alternating at test", "last, none", ALTERNATING, "float32"),
    ("alternating, trained", "last, none, trained alternating", ALTERNATING, "float32"),
)


def draw(tables: Mapping[str, Result]) -> Figure:
    """Margins and distances against length, the critical length of every arm, and recall of both neighbours."""
    result = tables["copying_vs_length"]
    figure, axes = parts.sheet(2, 2, height=5.8, width_ratios=(1, 1.05))
    _curves(axes[0, 0], result, "margin")
    _critical(axes[0, 1], result)
    _curves(axes[1, 0], result, "apart")
    _recall(axes[1, 1], result)
    for ax, letter in zip(axes.flat, "abcd", strict=True):
        parts.panel_letter(ax, letter)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, columnspacing=1.1, handletextpad=0.4)
    return figure


def _copied(result: Result, arm: str, test: str = PLAIN, dtype: str = "float32", moment: str = TRAINED) -> pd.DataFrame:
    table = result.table
    rows = table[(table.case == COPY) & (table.arm == arm) & (table.test == test) & (table.dtype == dtype)]
    return rows[rows.moment == moment]


def critical_lengths(rows: pd.DataFrame) -> np.ndarray:
    """By seed: the longest length up to which texts with an odd end and without are answered rightly; 1 where none."""
    found = []
    for _, one in rows.groupby("seed"):
        one = one.sort_values("length")
        held = (one[["accuracy", "accuracy_same"]].min(axis=1, skipna=False) >= RIGHT).cummin()
        found.append(float(one.length[held].max()) if held.any() else 1.0)
    return np.array(found)


def _lengths(ax: Axes, lengths: np.ndarray) -> None:
    ax.set_xscale("log", base=2)
    shown = lengths[:: 1 + len(lengths) // 5]
    ax.set_xticks(shown, [f"{length:g}" for length in shown])
    ax.xaxis.set_minor_formatter(NullFormatter())


def _curves(ax: Axes, result: Result, column: str) -> None:
    for arm, color in COLOURS.items():
        rows = _copied(result, arm)
        if len(rows):
            wide = rows.pivot(index="length", columns="seed", values=column)
            ax.plot(wide.index, wide, color=color, linewidth=0.5, alpha=0.4, zorder=2)
            ax.plot(wide.index, wide.mean(axis=1), color=color, linewidth=1.8, label=LABELS[arm], zorder=3)
    table = result.table
    born = table[(table.case == COPY) & (table.moment == UNTRAINED) & table.arm.isin(COLOURS)]
    mean = born.groupby("length")[column].mean()
    ax.plot(mean.index, mean, color="0.55", linestyle=(0, (1, 1.2)), linewidth=1.6, label=UNTRAINED, zorder=3)
    _lengths(ax, np.sort(table[table.case == COPY].length.unique()))
    ax.set_xlabel("digits of the run")
    _trained_up_to(ax, result)
    if column == "margin":
        ax.axhline(0, color="0.3", linewidth=0.8, zorder=1)
        ax.set_ylabel("margin of the odd end (nats)")
        ax.text(0.02, 0.2, "right above 0", transform=ax.get_yaxis_transform(), va="bottom", fontsize=7, color="0.3")
        return
    ax.set(yscale="log", ylabel="distance of texts with and\nwithout the odd end (0 to 2)", ylim=(8e-4, 4))
    x = mean.index.to_numpy(float)
    parts.theory(ax, x, 0.35 * mean.iloc[0] * x[0] / x, "$n^{-1}$", at=0.4)


def _trained_up_to(ax: Axes, result: Result) -> None:
    longest = result.run["config"]["task"]["longest"]
    ax.axvspan(ax.get_xlim()[0], longest, color="0.93", zorder=0)
    ax.text(longest, 0.02, "trained ", transform=ax.get_xaxis_transform(), ha="right", fontsize=7, color="0.45")


def _critical(ax: Axes, result: Result) -> None:
    """A point per seed; arrows at the longest test: it did not fail."""
    longest = result.table[result.table.case == COPY].length.max()
    for at, (_, arm, test, dtype) in enumerate(ROWS):
        found = critical_lengths(_copied(result, arm, test, dtype))
        color = COLOURS[", ".join(arm.split(", ")[:2])]
        if not len(found):
            ax.text(1.1, at, "not run", va="center", fontsize=7, color="0.6")
            continue
        shift = np.linspace(-0.2, 0.2, len(found)) if len(found) > 1 else np.zeros(1)
        beyond = found == longest
        style = {"color": color, "linestyle": "none", "markersize": 3.6, "clip_on": False}
        if (~beyond).any():
            ax.plot(found[~beyond], at + shift[~beyond], "o", **style)
        if beyond.any():
            ax.plot(found[beyond], at + shift[beyond], ">", **style)
    ax.set_xscale("log", base=2)
    ticks = [1, 8, 32, 128, 512]
    ax.set_xticks(ticks, [f"{tick}" for tick in ticks])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlim=(0.8, 1.15 * longest), xlabel="copied rightly up to (digits)")
    indented = {"first, rope", "last, rope", "first, no positions", "last, no positions"}
    ax.set_yticks(range(len(ROWS)), [label if label in indented else f"· {label}" for label, *_ in ROWS], fontsize=7)
    ax.set_ylim(len(ROWS) - 0.5, -0.5)
    ax.axhline(8.5, color="0.8", linewidth=0.6)
    _trained_up_to(ax, result)


def _recall(ax: Axes, result: Result) -> None:
    table = result.table[result.table.case == RECALL]
    if not len(table):
        ax.set(xticks=[], yticks=[])
        ax.text(0.5, 0.5, "recall of neighbours:\nnot run in this profile", transform=ax.transAxes, ha="center",
                va="center", color="0.5")  # fmt: skip
        return
    for arm, color, label in (("after", "C5", "after"), ("before", "C3", "before")):
        rows = table[(table.arm == arm) & (table.moment == TRAINED)]
        wide = rows.pivot(index="length", columns="seed", values="accuracy")
        updates = rows.groupby("seed").updates.first().median()
        ax.plot(wide.index, wide, color=color, linewidth=0.5, alpha=0.5)
        ax.plot(wide.index, wide.mean(axis=1), "o-", color=color, label=f"what came {label} ({updates:.0f} updates)")
    born = table[table.moment == UNTRAINED].groupby("length").accuracy.mean()
    ax.plot(born.index, born, color="0.55", linestyle=(0, (1, 1.2)), linewidth=1.6)
    lengths = np.sort(table.length.unique()).astype(float)
    parts.theory(ax, lengths, 1 / (lengths - 1), "a guess", at=0.3)
    longest = result.run["config"]["recall"]["longest"]
    ax.axvspan(ax.get_xlim()[0], longest, color="0.93", zorder=0)
    ax.set(ylim=(-0.02, 1.25), xlabel="tokens of the text", ylabel="accuracy of recall", xticks=lengths)
    ax.legend(loc="upper right")


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["copying_vs_length"]
    table, config = result.table, result.run["config"]
    copy = table[table.case == COPY]
    n, longest = copy.seed.nunique(), copy.length.max()

    def reach(arm: str, test: str = PLAIN, dtype: str = "float32") -> str:
        found = critical_lengths(_copied(result, arm, test, dtype))
        return f"{2 ** np.mean(np.log2(found)):.0f}" if len(found) else "not run"

    first, last = (critical_lengths(_copied(result, f"{end}, rope")) for end in ("first", "last"))
    octaves = np.log2(first / last)
    found = bootstrap_interval(octaves, np.mean, 0.95, np.random.default_rng(0))
    between = f" ({found[0]:.1f} to {found[1]:.1f}, bootstrap over seeds)" if found else ""
    doubled = table[table.case == DOUBLED]
    alike = doubled[(doubled.arm.str.endswith("none")) & (doubled.test == "no mask")]
    apart = doubled.drop(alike.index)
    return (
        f"Two layers trained on runs of up to {config['task']['longest']} digits (grey), {n} "
        f"seed{'s' if n > 1 else ''} (thin lines, points), {config['texts']} texts of each kind at each length. (a) "
        f"The right digit's logit less the best other's, where the end differs from the run. (b) The length up to "
        f"which ends that differ and ends that do not are both told in {RIGHT:.0%} of the texts or more; arrows: "
        f"not failed at {longest:.0f}. With rope the first is copied up to {reach('first, rope')} digits, the last "
        f"up to {reach('last, rope')}: {octaves.mean():.1f} octaves{between}; in bfloat16 "
        f"{reach('last, rope', dtype='bfloat16')}, with separators "
        f"at test {reach('last, rope', SEPARATED)} and in training "
        f"{reach('last, rope, trained separated', SEPARATED)}, alternating "
        f"{reach('last, rope', ALTERNATING)} and {reach('last, rope, trained alternating', ALTERNATING)} (the first: "
        f"{reach('first, rope, trained alternating', ALTERNATING)}), "
        f"under a window {reach('last, rope, window 8')}. Without positions the first reaches "
        f"{reach('first, none')}, the last {reach('last, none')}, and on an alternating run "
        f"{reach('last, none', ALTERNATING)}: it looks for the odd one out. (c) Distance between a text with an odd "
        f"end and the same without, as the unembedding reads them: untrained it falls as 1/n, trained it stays until "
        f"the code fails.{_told_recall(table, config)} A text and its doubling differ by {alike.apart.max():.0e} of "
        f"the largest logit without mask and positions, by {apart.apart.min():.2g} or more with either."
    )


def _told_recall(table: pd.DataFrame, config: Mapping) -> str:
    rows = table[(table.case == RECALL) & (table.moment == TRAINED)]
    if not len(rows):
        return " (d) Not run in this profile."
    at = rows[rows.length == config["recall"]["longest"]].groupby("arm").accuracy.mean()
    updates = rows.groupby("arm").updates.median()
    return (
        f" (d) The rival: trained from scratch on up to {config['recall']['longest']} tokens (grey), what came after a "
        f"token is recalled at {at['after']:.2f}, what came before at {at['before']:.2f}, after a median of "
        f"{updates['after']:.0f} and {updates['before']:.0f} updates."
    )
