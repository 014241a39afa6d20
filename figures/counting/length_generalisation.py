"""Length generalisation: six tasks against the length of the text, and cells that count beside one set by hand."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from analyses.core.results import Result
from figures import parts

NEEDS = ("length_generalisation",)
TASKS = ("a^n b^n", "majority", "Dyck-1", "even pairs", "parity", "sum mod 3")
TITLES = {"a^n b^n": "$a^n b^n$"}
LSTM, CONSTRUCTED = "lstm", "constructed"
LEARNED = 0.9  # accuracy at the training length below which the caption calls a task not learned
ARMS = {  # colour, marker, shift on the axis
    "none": ("k", "o", 0.94),
    "learned": ("C4", "^", 0.97),
    "rope": ("C0", "s", 1.0),
    "alibi": ("C2", "v", 1.03),
    LSTM: ("C1", "D", 1.06),
}
LABELS = {"none": "no positions", "alibi": "ALiBi", LSTM: "LSTM"}


def draw(tables: Mapping[str, Result]) -> Figure:
    """Six panels of accuracy against length; the cell over a long a^n b^n, and how far it strays from the count."""
    result = tables["length_generalisation"]
    figure, axes = parts.sheet(3, 3, height=6.2, height_ratios=(1, 1, 1.1))
    for ax, task in zip(axes[:2].flat, TASKS, strict=True):
        _accuracy(ax, result, task)
    grid = axes[2, 0].get_gridspec()
    for ax in axes[2]:
        ax.remove()
    wide, right = figure.add_subplot(grid[2, :2]), figure.add_subplot(grid[2, 2])
    _cells(wide, result)
    _strays(right, result)
    for ax, letter in zip((*axes[:2].flat, wide, right), "abcdefgh", strict=True):
        parts.panel_letter(ax, letter)
    for row in axes[:2]:
        row[0].set_ylabel("texts right (median)")
    for ax in axes[1]:
        ax.set_xlabel("length of the text (symbols)")
    _legend(figure)
    return figure


def _values(result: Result, task: str, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """Lengths, and accuracy (seed, length); empty where it was not run."""
    rows = result.table[(result.table.task == task) & (result.table.arm == arm)]
    wide = rows.pivot(index="seed", columns="length", values="accuracy").sort_index()
    return wide.columns.to_numpy(), wide.to_numpy()


def _accuracy(ax: Axes, result: Result, task: str) -> None:
    """Every seed a faint line, their median a bold one with its marks."""
    trained = result.table[result.table.arm != CONSTRUCTED]
    lengths = np.sort(trained.length.unique())
    for arm, (color, marker, shift) in ARMS.items():
        at, values = _values(result, task, arm)
        if len(at):
            ax.plot(at * shift, values.T, color=color, linewidth=0.5, alpha=0.4, zorder=2)
            style = {"color": color, "marker": marker, "markersize": 3.2, "linewidth": 1.2, "clip_on": False}
            ax.plot(at * shift, np.median(values, 0), **style, zorder=3)
    rows = trained[trained.task == task]
    if rows.empty:
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", va="center", color="0.4")
    else:
        ax.axhline(rows.chance.iloc[0], color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, zorder=1)
    ax.set(xscale="log", ylim=(-0.03, 1.03), yticks=(0, 0.5, 1), xlim=(lengths[0] / 1.15, lengths[-1] * 1.15))
    ax.set_xticks(lengths, [str(length) for length in lengths])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis="x", which="minor", length=0)
    ax.set_title(TITLES.get(task, task))


def _legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], color=color, marker=marker, markersize=3.5, label=LABELS.get(arm, arm))
        for arm, (color, marker, _) in ARMS.items()
    ]
    handles += [
        Line2D([], [], color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, label="guessing"),
        Line2D([], [], color="0.5", linewidth=0.5, label="one seed"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=7, columnspacing=1.0, handlelength=1.4)


def _scaled(result: Result) -> np.ndarray:
    """Trained cells (seed, pos) less their start, in units of their slope in the a's: the unit of a cell is free."""
    cells = result.arrays.get("trained cell (seed, pos)", np.zeros((0, len(result.arrays["count (pos)"]))))
    rows = result.table[
        (result.table.arm == LSTM) & result.table.cell_up.notna()
    ]  # in the order of the seeds, as cells
    return (cells - cells[:, :1]) / rows.cell_up.to_numpy()[:, None]


def _cells(ax: Axes, result: Result) -> None:
    count, cells = result.arrays["count (pos)"], _scaled(result)
    n = int(count.max())
    place = np.arange(len(count))
    if len(cells):
        ax.plot(place, cells.T, color=ARMS[LSTM][0], linewidth=1.0, alpha=0.8, zorder=4)
    ax.plot(place, result.arrays["constructed cell (pos)"], color="C5", linewidth=5, alpha=0.6, zorder=2)
    ax.plot(place[:: n // 20], count[:: n // 20], "k.", markersize=2.5, zorder=3)
    trained = result.run["config"]["longest"]
    ax.axvspan(0, 2 * trained, color="0.92", zorder=0)
    ax.text(2 * trained + n / 60, 0.97 * n, f"training:\n$n \\leq$ {trained}", color="0.3", fontsize=7, va="top")
    handles = [
        Line2D([], [], color=ARMS[LSTM][0], label=f"best cell, {len(cells)} seed{'s' if len(cells) != 1 else ''}"),
        Line2D([], [], color="C5", linewidth=5, alpha=0.6, label="cell set by hand"),
        Line2D([], [], color="k", marker=".", markersize=2.5, linestyle="none", label="a's less b's so far"),
    ]
    ax.legend(handles=handles, loc="upper right")
    ax.set(xlabel=f"position in $a^n b^n$, n = {n}", ylabel="cell (steps per a)")


def _strays(ax: Axes, result: Result) -> None:
    """How far every cell is from the count; half a step is where the next count begins."""
    count, cells = result.arrays["count (pos)"], _scaled(result)
    place = np.arange(len(count))
    for off in cells - count:
        ax.plot(place, off, color=ARMS[LSTM][0], linewidth=0.9, alpha=0.8, zorder=3)
    ax.plot(place, result.arrays["constructed cell (pos)"] - count, color="C5", linewidth=5, alpha=0.6, zorder=2)
    for level in (-0.5, 0.5):
        ax.axhline(level, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, zorder=1)
    ax.text(0.02, 0.5, "half a step", color="0.3", fontsize=7, va="bottom", transform=ax.get_yaxis_transform())
    if not len(cells):
        ax.text(0.5, 0.25, "trained: not run", transform=ax.transAxes, ha="center", color="0.4")
    reach = max(0.75, 1.1 * np.abs(cells - count).max(initial=0))
    ax.set(xlabel="position in $a^n b^n$", ylabel="cell less count (steps)", ylim=(-reach, reach))


def _median_and_best(values: np.ndarray) -> str:
    """ "0.48 (0.61)", or the median alone where the best is no better."""
    median, best = f"{np.median(values):.2f}", f"{values.max():.2f}"
    return median if median == best else f"{median} ({best})"


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["length_generalisation"]
    table, config = result.table, result.run["config"]
    seeds = table[table.arm != CONSTRUCTED].seed.nunique()
    longest, far = config["longest"], config["longest"] * config["stretch"][-1]

    def told(task: str) -> str:
        """Median (best) at the training length and at the longest, net by net."""
        words = []
        for arm in ARMS:
            at, values = _values(result, task, arm)
            if len(at):
                words.append(
                    f"{LABELS.get(arm, arm)} {_median_and_best(values[:, 0])}, {_median_and_best(values[:, -1])}"
                )
        return "; ".join(words) or "not run"

    codes = table[table.arm.isin([arm for arm in ARMS if arm != LSTM]) & (table.length == longest)]
    learned = codes.groupby("task").accuracy.max()
    never = [task for task in TASKS if task in learned and learned[task] < LEARNED]
    unlearned = f" No transformer learned {' or '.join(never)} at {longest} (best below {LEARNED})." if never else ""

    panels = ". ".join(f"({letter}) {task}: {told(task)}" for letter, task in zip("abcdef", TASKS, strict=True))
    hand = table[table.arm == CONSTRUCTED].iloc[0]
    rows = table[(table.arm == LSTM) & table.cell_r2.notna()]
    cells = (
        f"(g, h) The best cell of {len(rows)} trained LSTM{'s' if len(rows) != 1 else ''} follows the count over "
        f"n = {far} with a squared correlation of at least {rows.cell_r2.min():.4f}, its steps down "
        f"{(rows.cell_down / rows.cell_up).min():.3f} to {(rows.cell_down / rows.cell_up).max():.3f} of those up"
        if len(rows)
        else "(g, h) No LSTM was trained on it"
    )
    return (
        f"Trained on texts of up to {longest} symbols (grey in g), {seeds} seed{'s' if seeds > 1 else ''}, "
        f"{config['texts']} test texts each; medians (best seed in brackets, where it is better) at {longest} "
        f"and {far}. {panels}. {cells}; "
        f"the cell set by hand is off by {hand.cell_drift:.0e} at most up to n = {hand.length:.0f}.{unlearned}"
    )
