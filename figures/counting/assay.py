"""Where counting stops: accuracy against length, the answers' margin, the lengths that are reached, the last tokens."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.core.results import Result
from figures import parts

NEEDS = ("assay",)
TRAINED, UNTRAINED = "trained", "untrained"
COMMAS = ", commas"
# kind -> colour and marker
STYLES = {
    "ones": ("C0", "o"),
    "bits": ("C1", "s"),
    "sum": ("C2", "^"),
    "word": ("C3", "D"),
    "last": ("C4", "v"),
    "first": ("C5", ">"),
}
FAMILIES = {"counting": ("ones", "bits", "sum", "word"), "copying": ("last", "first")}
BORN = "0.6"
NONE_AT = 0.5  # of the shortest length: where an ability stands that is at no length


def draw(tables: Mapping[str, Result]) -> Figure:
    """Accuracy of counting and of copying against length; where each stops; the last tokens of n and n + 1 ones."""
    result = tables["assay"]
    figure, axes = parts.sheet(2, 2, height=5.2)
    for ax, family in zip(axes[0], FAMILIES, strict=True):
        _accuracy(ax, result, family)
    _stops(axes[1, 0], result)
    _last_tokens(axes[1, 1], result)
    for ax, letter in zip(axes.flat, "abcd", strict=True):
        parts.panel_letter(ax, letter)
    figure.legend(handles=_legend(result), loc="outside upper center", ncols=5, columnspacing=1.2)
    return figure


def _kinds(result: Result, family: str | None = None) -> list[str]:
    """Kinds of question that were asked, without commas."""
    asked = [name for name in result.run["questions"] if not name.endswith(COMMAS)]
    return [name for name in asked if family is None or name in FAMILIES[family]]


def _shares(result: Result, question: str, arm: str, column: str = "right") -> pd.DataFrame:
    """Mean over the texts: rows are lengths, columns seeds."""
    table = result.table[(result.table.question == question) & (result.table.arm == arm)]
    return table.groupby(["length", "seed"])[column].mean().unstack()


def _ticks(result: Result) -> list[int]:
    """Powers of two and the last length."""
    *lengths, last = result.run["config"]["lengths"]
    return [n for n in lengths if n & (n - 1) == 0 and 1.6 * n < last] + [last]


def _lengths(ax: Axes, result: Result, label: str = "digits or words asked about") -> None:
    shown = _ticks(result)
    ax.set_xscale("log")
    ax.set_xticks(shown, [str(n) for n in shown])
    ax.set_xticks([], minor=True)
    ax.set_xlabel(label)


def _trained_here(result: Result) -> bool:
    """Whether the longest length in training is known, as it is not of a checkpoint."""
    return not isinstance(result.run["config"]["model"], str)


def _trained_lines(ax: Axes, result: Result, sums: bool) -> None:
    if _trained_here(result):
        task = result.run["config"]["task"]
        for longest, color in ((task["longest"], "0.3"), (task["longest_sum"], STYLES["sum"][0]))[: 1 + sums]:
            ax.axvline(longest, color=color, linestyle=(0, (4, 2)), linewidth=0.9, zorder=1)


def _accuracy(ax: Axes, result: Result, family: str) -> None:
    for kind in _kinds(result, family):
        color, marker = STYLES[kind]
        share = _shares(result, kind, TRAINED)
        ax.plot(share.index, share.to_numpy(), color=color, linewidth=0.5, alpha=0.4)
        size = 6.5 if kind == "last" else 3.5  # to be seen behind "first"
        ax.plot(share.index, share.mean(axis=1), color=color, marker=marker, markersize=size, zorder=3)
        born = _shares(result, kind, UNTRAINED).mean(axis=1)
        ax.plot(born.index, born, color=BORN, marker=marker, markersize=2.5, linewidth=0.7, zorder=2)
    table = result.table[result.table.family == family]
    chance = (1 / table.candidates).groupby(table.length).mean()
    if len(chance):
        ax.plot(chance.index, chance, color="k", linestyle=(0, (1, 1.2)), linewidth=1.0, zorder=4)
    _trained_lines(ax, result, sums=family == "counting")
    _lengths(ax, result)
    ax.set(ylabel=f"{family}: share answered right", ylim=(-0.04, 1.04))


def _stops(ax: Axes, result: Result) -> None:
    """A point per seed; at the left edge those that are at no length, with an open marker those that reach the end."""
    names, lengths = list(result.run["questions"]), result.run["config"]["lengths"]
    found = result.arrays["stops (seed, arm, question)"]
    for row, name in enumerate(names):
        color, marker = STYLES[name.removesuffix(COMMAS)]
        for arm, shade, shift in ((0, color, -0.15), (1, BORN, 0.2)):
            values = found[:, arm, row]
            at = np.where(np.isnan(values), lengths[0] * NONE_AT, values)
            jitter = row + shift + np.linspace(-0.12, 0.12, len(at)) * (len(at) > 1)
            for x, y in zip(at, jitter, strict=True):
                face = "white" if x == lengths[-1] or arm else shade
                ax.plot(x, y, marker=marker, color=shade, markerfacecolor=face, markersize=3.4, clip_on=False)
    _trained_lines(ax, result, sums="sum" in names)
    _lengths(ax, result, "longest length with 90% right")
    ticks = _ticks(result)
    ax.set_xticks([lengths[0] * NONE_AT, *ticks], ["none", *map(str, ticks)])
    ax.set_yticks(range(len(names)), names)
    ax.set(ylim=(len(names) - 0.5, -0.5), xlim=(lengths[0] * NONE_AT * 0.85, lengths[-1] * 1.15))


def _last_tokens(ax: Axes, result: Result) -> None:
    lengths = result.run["config"]["lengths"]
    distance = result.arrays["distance (seed, arm, length)"]
    same = result.arrays["identical (seed, arm, length)"]
    distance = np.maximum(distance, distance[distance > 0].min() / 2)  # equal ones stand at the lower edge
    for arm, color in ((0, "C0"), (1, BORN)):
        ax.plot(lengths, distance[:, arm].T, color=color, linewidth=0.5, alpha=0.5)
        ax.plot(lengths, np.median(distance[:, arm], axis=0), color=color, marker="o", markersize=3.5, zorder=3)
        lost = same[:, arm] == 1
        for seed, column in zip(*np.nonzero(lost), strict=True):
            ax.plot(lengths[column], distance[seed, arm, column], "x", color="C3", markersize=6, zorder=4)
    _lengths(ax, result, "ones, n")
    ax.set_yscale("log")
    ax.set_ylabel("last tokens of n, n + 1 ones:\nlargest difference")


def _legend(result: Result) -> list[Line2D]:
    def line(label: str, **style) -> Line2D:
        return Line2D([], [], label=label, **{"markersize": 4, **style})

    handles = [line(kind, color=STYLES[kind][0], marker=STYLES[kind][1]) for kind in _kinds(result)]
    handles.append(line("untrained", color=BORN, marker="o"))
    handles.append(line("guess among all answers", color="k", linestyle=(0, (1, 1.2))))
    if _trained_here(result):
        handles.append(line("longest in training", color="0.3", linestyle=(0, (4, 2))))
        handles.append(line("the same, sums", color=STYLES["sum"][0], linestyle=(0, (4, 2))))
    return handles


# The caption --------------------------------------------------------------------------------------


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["assay"]
    config, n = result.run["config"], result.table.seed.nunique()
    lengths = config["lengths"]
    stops = "; ".join(f"{name} {_stop_told(result, at)}" for at, name in enumerate(result.run["questions"]))
    same = result.arrays["identical (seed, arm, length)"][:, 0]
    distance = result.arrays["distance (seed, arm, length)"][:, 0]
    counted = [_shares(result, kind, UNTRAINED).to_numpy().mean() for kind in _kinds(result, "counting")]
    copied = [_shares(result, kind, UNTRAINED).to_numpy().mean() for kind in _kinds(result, "copying")]
    born = [f"{np.mean(found):.2f} of {what}" for what, found in (("counts", counted), ("copies", copied)) if found]
    return (
        f"{_subject(config)}; {n} seed{'s' if n > 1 else ''} (thin lines), {config['texts']} prompts of each length; "
        f"the answer is the likeliest of all candidates. (a, b) Share answered right; untrained {' and '.join(born)} "
        f"at all lengths together. (c) The longest of {len(lengths)} lengths, {lengths[0]} to {lengths[-1]}, with 90% "
        f"right, one point a seed (open: the longest there is): {stops}. (d) Behind the final norm the last tokens of "
        f"n and n + 1 ones differ by {_low_high(distance[:, 0])} at n = {lengths[0]} and {_low_high(distance[:, -1])} "
        f"at n = {lengths[-1]}; bfloat16 leaves them one and the same (crosses) in {int((same == 1).sum())} of "
        f"{same.size} pairs."
    )


def _subject(config: Mapping) -> str:
    if isinstance(config["model"], str):
        shots = config["examples"]
        return (
            f"{Path(config['model']).name} and a twin with random weights, {shots} solved examples before each prompt"
        )
    task = config["task"]
    return (
        f"A transformer of {config['model']['n_layers']} layers trained on prompts of {task['shortest']} to "
        f"{task['longest']} digits or words, and on sums of up to {task['longest_sum']} ones, as bytes"
    )


def _stop_told(result: Result, question: int) -> str:
    found = result.arrays["stops (seed, arm, question)"][:, 0, question]
    known = found[~np.isnan(found)]
    if not len(known):
        return "none"
    low, high = (f"{end:.0f}" for end in (known.min(), known.max()))
    told = low if low == high else f"{low} to {high}"
    lacking = len(found) - len(known)
    return f"{told} and none in {lacking} of {len(found)} seeds" if lacking else told


def _low_high(values: np.ndarray) -> str:
    low, high = (f"{end:.2g}" for end in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"
