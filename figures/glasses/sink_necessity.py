"""Sinks where they are needed, and where they are not: mass, error, the stream's direction, and three patterns."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.core.results import Result
from figures import parts

NEEDS = ("sink_necessity",)
WAYS = ("softmax", "off by one", "sink logit", "ReLU", "sigmoid", "gated")
ALONE = ", no first token"
OTHERS = ("softmax, always averaging", "softmax, 2 layers", "ReLU, 2 layers")
SHOWN = ("softmax", "off by one", "ReLU")  # patterns
TRAINED, UNTRAINED = "trained", "untrained"
WITH, VIRTUAL, WITHOUT, HIDDEN = "C0", "C1", "C2", "C3"


def draw(tables: Mapping[str, Result]) -> Figure:
    """Six panels: mass at ordinary tokens, errors, the bound on the stream's direction; three mean patterns."""
    result = tables["sink_necessity"]
    figure, axes = parts.sheet(2, 3, height=5.6, height_ratios=(1.7, 1))
    _legend(figure)
    _mass(axes[0, 0], result)
    _errors(axes[0, 1], result)
    _direction(axes[0, 2], result)
    for ax, name in zip(axes[1], SHOWN, strict=True):
        _pattern(ax, result, name)
    for ax, letter in zip(axes.flat, "abcdef", strict=True):
        parts.panel_letter(ax, letter)
    return figure


def _arms(result: Result) -> list[str]:
    """Those with a first token or a control of it, in the order of the rows."""
    there = set(result.table.arm)
    return [name for name in (*WAYS, *OTHERS) if name in there]


def _values(result: Result, arm: str, column: str, moment: str = TRAINED) -> np.ndarray:
    """One value per seed; none where the arm was not run."""
    table = result.table
    return table[(table.arm == arm) & (table.moment == moment)].sort_values("seed")[column].to_numpy()


def _points(ax: Axes, values: np.ndarray, at: float, color: str, filled: bool, marker: str = "o") -> None:
    if not len(values):  # an empty line that is not clipped would claim the sheet's corner
        return
    shift = np.linspace(-0.09, 0.09, len(values)) if len(values) > 1 else np.zeros(1)
    face = color if filled else "white"
    style = {"linestyle": "none", "markersize": 3.4, "markeredgewidth": 0.9, "clip_on": False, "zorder": 3}
    ax.plot(values, at + shift, marker=marker, color=color, markerfacecolor=face, **style)


def _rows(ax: Axes, names: list[str]) -> None:
    ax.set_yticks(range(len(names)), [name.replace(", ", ",\n") for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    for at in range(1, len(names)):
        ax.axhline(at - 0.5, color="0.9", linewidth=0.6, zorder=0)


def _legend(figure: Figure) -> None:
    entries = (
        ("with a first token", WITH, True, "o"),
        ("untrained", "0.5", False, "o"),
        ("virtual key (a)", VIRTUAL, True, "D"),
        ("virtual key, no first token (a)", VIRTUAL, False, "D"),
        ("no first token (b, c)", WITHOUT, True, "s"),
        ("first token hidden after training (b)", HIDDEN, False, "o"),
    )
    handles = [
        Line2D([], [], linestyle="none", markersize=4, marker=marker, color=color, label=label,
               markerfacecolor=color if filled else "white")
        for label, color, filled, marker in entries
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=3)


def _mass(ax: Axes, result: Result) -> None:
    names = _arms(result)
    for at, name in enumerate(names):
        _points(ax, _values(result, name, "first_other", UNTRAINED), at - 0.28, "0.5", False)
        _points(ax, _values(result, name, "first_other"), at - 0.05, WITH, True)
        alone = _values(result, name + ALONE, "virtual_other")
        for values, filled, place in ((_values(result, name, "virtual_other"), True, 0.13), (alone, False, 0.31)):
            if len(values) and not np.isnan(values).any():
                _points(ax, values, at + place, VIRTUAL, filled, "D")
    even = _even(result)
    ax.axvline(even, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, zorder=1)
    ax.text(even + 0.03, names.index("ReLU") + 0.15, "even\nweights", color="0.3", fontsize=7, va="center")
    ax.set(xlabel="weight at ordinary tokens", xlim=(0, 1))
    _rows(ax, names)


def _even(result: Result) -> float:
    """Weight on the first token of even weights, mean over positions after it."""
    n = result.run["config"]["task"]["n_ctx"]
    return float(np.mean([1 / (position + 1) for position in range(1, n)]))


def _errors(ax: Axes, result: Result) -> None:
    names = _arms(result)
    for at, name in enumerate(names):
        _points(ax, _values(result, name, "worst"), at - 0.22, WITH, True)
        _points(ax, _values(result, name + ALONE, "worst"), at, WITHOUT, True, "s")
        _points(ax, _values(result, name, "hidden_worst"), at + 0.22, HIDDEN, False)
    ax.set(xlabel="largest error of any number", xscale="log")
    ax.axvline(0.005, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, zorder=1)
    ax.text(0.0058, len(names) - 0.85, "solved", color="0.3", fontsize=7, va="center")
    _rows(ax, names)
    ax.set_yticklabels([])


def _direction(ax: Axes, result: Result) -> None:
    table = result.table
    alone = table.arm.str.endswith(ALONE)
    for moment, colors in ((UNTRAINED, ("0.5", "0.5")), (TRAINED, (WITH, WITHOUT))):
        for rows, color, marker in zip((~alone, alone), colors, "os", strict=True):
            shown = table[rows & (table.moment == moment)]
            style = {"linestyle": "none", "markersize": 3.4, "markeredgewidth": 0.9, "color": color}
            face = color if moment == TRAINED else "white"
            ax.plot(shown.bound, shown.top, marker=marker, markerfacecolor=face, **style)
    high = 1.15 * float(table.top.max())
    ax.set(xlim=(0, high), ylim=(0, high))
    parts.theory(ax, [0, high], [0, high], r"bound", at=0.78)
    ax.set(xlabel=r"bound $(c + \alpha) / (c + 1)$", ylabel=r"largest direction, $\sigma_1^2 / \|X\|_F^2$")


def _pattern(ax: Axes, result: Result, name: str) -> None:
    pattern = result.arrays[f"{name}: pattern (seed, query, key)"].mean(0)
    hidden = np.triu(np.ones_like(pattern, dtype=bool), 1)
    parts.heat(ax, np.where(hidden, np.nan, pattern), "weight", vmin=0, vmax=1)
    ax.set(xlabel="key position", ylabel="query position", xticks=range(0, len(pattern), 5))
    ax.text(0.97, 0.95, f"{name},\ntrained", transform=ax.transAxes, ha="right", va="top", fontsize=8)


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["sink_necessity"]
    table, n = result.table, result.table.seed.nunique()
    texts, middle = result.run["config"]["test_texts"], result.run["config"]["task"]["n_ctx"] // 2

    def mean(arm: str, column: str, moment: str = TRAINED, form: str = ".2f") -> str:
        return f"{np.mean(_values(result, arm, column, moment)):{form}}"

    return (
        f"The trigger task, {n} seed{'s' if n > 1 else ''} (points), {texts} test texts each: the mean of the tokens "
        f"so far at one token, nothing at the others. (a) Weight on the first token at ordinary tokens: softmax "
        f"{mean('softmax', 'first_other')} (untrained {mean('softmax', 'first_other', UNTRAINED)}), ReLU "
        f"{mean('ReLU', 'first_other')}, and {mean('softmax, always averaging', 'first_other')} where every "
        f"position averages. A virtual key gets {mean('off by one', 'virtual_other')} (off by one) and "
        f"{mean('sink logit', 'virtual_other')} (sink logit) beside a first token, "
        f"{mean('off by one' + ALONE, 'virtual_other')} and {mean('sink logit' + ALONE, 'virtual_other')} without one; "
        f"the gate opens {mean('gated', 'gate_other')} at ordinary tokens and {mean('gated', 'gate_trigger')} at the "
        f"trigger, and the first token has {mean('gated', 'first_other')}. (b) Without a first token the largest "
        f"error is {mean('softmax' + ALONE, 'worst')} for softmax and "
        f"{mean('off by one' + ALONE, 'worst', form='.3f')} off by one; with it "
        f"{mean('softmax', 'worst', form='.3f')} for softmax, and "
        f"{mean('softmax', 'hidden_worst')} where it is hidden after training. (c) Each point is a model's mean; the "
        f"smallest distance of any text from the bound is {table.slack.min():.3f}. The softmax sink writes "
        f"{mean('softmax', 'value_ratio', form='.0e')} of what other tokens write, and the first token holds "
        f"{mean('softmax', 'massive', form='.3f')} of the others' energy: no massive activation. (d to f) Mean pattern "
        f"of texts with the trigger at position {middle}."
    )
