"""The induction phase change: loss, heads, the circuit at the end, and the control."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.core.results import Result
from figures import parts

NEEDS = ("induction_vs_step",)
TWO, ONE, SMEARED = "2 layers", "1 layer", "1 layer, smeared keys"
FIXED, NORMED = "1 layer, fixed period", "2 layers, LayerNorm"
NEW, TRAINED = "new periods", "trained periods"
COLORS = {TWO: "C0", ONE: "C1", SMEARED: "C2", FIXED: "C3", NORMED: "C4"}


def draw(tables: Mapping[str, Result]) -> Figure:
    """Four panels: loss and prefix matching against step, one circuit's heads, accuracy on trained and new periods."""
    result = tables["induction_vs_step"]
    figure, axes = parts.sheet(2, 2, height=5.0)
    _loss(axes[0, 0], result)
    _prefix(axes[0, 1], result)
    _heads(axes[1, 0], result)
    _accuracy(axes[1, 1], result)
    for ax, letter in zip(axes.flat, "abcd", strict=True):
        parts.panel_letter(ax, letter)
    return figure


def _curve(result: Result, condition: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps (point,) and values (seed, point) on new periods."""
    table = result.table
    rows = table[(table.condition == condition) & (table.periods == NEW)]
    wide = rows.pivot(index="seed", columns="step", values=column)
    return wide.columns.to_numpy(), wide.to_numpy()


def _final(result: Result, condition: str, periods: str, column: str) -> np.ndarray:
    table = result.table
    rows = table[(table.condition == condition) & (table.periods == periods) & (table.step == table.step.max())]
    return rows.sort_values("seed")[column].to_numpy()


def _loss(ax: Axes, result: Result) -> None:
    for condition in (TWO, ONE, SMEARED, NORMED):
        parts.spread(ax, *_curve(result, condition, "loss"), condition, COLORS[condition])
    periods = np.array(result.run["config"]["task"]["held_out"])
    steps = result.table.step.max()
    guess = np.log(periods).mean()
    parts.theory(ax, [0, steps], [guess, guess], "guessing: ln(period)", at=0.76)
    ax.set(xlabel="training step", ylabel="second-copy loss,\nnew periods (nats)", ylim=(0, None))


def _prefix(ax: Axes, result: Result) -> None:
    for condition in (TWO, ONE, SMEARED, NORMED):
        parts.spread(ax, *_curve(result, condition, "prefix_matching"), condition, COLORS[condition])
    steps, displaced = _curve(result, NORMED, "displaced")
    label = f"{NORMED}, at its best shift ({len(displaced)} seeds)"
    ax.plot(steps, displaced.mean(0), color=COLORS[NORMED], linestyle=(0, (1.5, 1)), label=label)
    ax.plot(steps, displaced.T, color=COLORS[NORMED], linestyle=(0, (1.5, 1)), linewidth=0.6, alpha=0.45)
    ax.set(xlabel="training step", ylabel="prefix matching,\nbest head of last layer", ylim=(0, 1.02))
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)


def _heads(ax: Axes, result: Result) -> None:
    """The heads of the first seed: one row per layer and score."""
    seed = int(result.table.seed.min())
    previous, prefix = (
        result.arrays[f"{TWO}: {score} (seed, layer, head)"][0] for score in ("previous token", "prefix matching")
    )
    rows = np.concatenate([previous, prefix])
    parts.heat(ax, rows, "share of attention", vmin=0, vmax=1)
    names = [f"{score}\nlayer {layer}" for score in ("previous token", "prefix match") for layer in range(len(prefix))]
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel=f"head ({TWO}, seed {seed}, end of training)")


def _accuracy(ax: Axes, result: Result) -> None:
    order = (TWO, NORMED, ONE, SMEARED, FIXED)
    for at, condition in enumerate(order):
        for periods, offset, filled in ((TRAINED, -0.2, True), (NEW, 0.2, False)):
            values = _final(result, condition, periods, "accuracy")
            color = COLORS[condition]
            jitter = np.linspace(-0.13, 0.13, len(values))
            ax.plot(
                values,
                at + offset + jitter,
                linestyle="none",
                marker="o",
                markersize=3.2,
                markeredgewidth=0.9,
                color=color,
                markerfacecolor=color if filled else "white",
                clip_on=False,
                zorder=3,
            )
    for label, filled in ((TRAINED, True), (NEW, False)):
        ax.plot([], [], "o", color="0.3", markersize=4, markerfacecolor="0.3" if filled else "white", label=label)
    guess = float(np.mean(1 / np.array(result.run["config"]["task"]["held_out"])))
    ax.axvline(guess, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, zorder=1)
    ax.text(guess + 0.02, len(order) - 1.5, "guessing: 1/period", color="0.3", fontsize=7, va="center")
    ax.set(xlabel="accuracy at the end (one point per seed)", xlim=(0, 1), ylim=(len(order) - 0.5, -0.5))
    ax.set_yticks(range(len(order)), [name.replace(", ", ",\n") for name in order])
    ax.legend(loc="center", bbox_to_anchor=(0.62, 0.5))


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["induction_vs_step"]
    n = result.table.seed.nunique()
    shifts = _final(result, NORMED, NEW, "shift")
    displaced = int((shifts > 1).sum())
    guess = float(np.mean(1 / np.array(result.run["config"]["task"]["held_out"])))

    def accuracy(condition: str, periods: str) -> str:
        return f"{_final(result, condition, periods, 'accuracy').mean():.2f}"

    return (
        f"Repeated random blocks, {n} seeds, tested on block lengths that training never showed. "
        f"(a, b) Two layers go through a phase change as a prefix-matching head forms; one layer does not "
        f"(accuracy {accuracy(ONE, NEW)}, where guessing within the block gives {guess:.2f}: it has learned the "
        f"distances of its training periods, worth {accuracy(ONE, TRAINED)} on those); smeared keys let one layer "
        f"through ({accuracy(SMEARED, NEW)}). (c) The circuit of one seed. (d) The control trained on one fixed "
        f"period is right there ({accuracy(FIXED, TRAINED)}) and wrong on any other ({accuracy(FIXED, NEW)}). With "
        f"LayerNorm two layers also learn the task (accuracy {accuracy(NORMED, NEW)}), but in {displaced} "
        f"of {n} seeds the last layer looks {shifts.min()} to {shifts.max()} positions past the earlier occurrence, "
        f"where prefix matching (b, solid) does not see it."
    )
