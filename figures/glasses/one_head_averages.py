"""One head against several: learning, the lead that a mixture leaves, what heads look at, and the price in noise."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.core.results import Result
from analyses.core.statistics import bootstrap_interval
from figures import parts

NEEDS = ("one_head_averages",)
ONE, TWO, FOUR, DEEP = "1 head", "2 heads", "4 heads", "2 layers, 1 head"
ROLE = "1 head, who alone asked"
COLORS = {ONE: "C3", TWO: "C0", FOUR: "C2", DEEP: "C4", ROLE: "0.55"}
BEST = {"constructed, 1 head at 2/3 and 1/3": "C3", "constructed, 2 heads": "C0"}
DOTTED = (0, (1, 1.2))


def draw(tables: Mapping[str, Result]) -> Figure:
    """Four panels: accuracy against step, lead against share, weights of every head, accuracy against noise."""
    result = tables["one_head_averages"]
    figure, axes = parts.sheet(2, 2, height=5.4)
    _learning(axes[0, 0], result)
    _lead(axes[0, 1], result)
    _weights(axes[1, 0], result)
    _noise(axes[1, 1], result)
    for ax, letter in zip(axes.flat, "abcd", strict=True):
        parts.panel_letter(ax, letter)
    axes[1, 1].plot([], [], color="0.3", linestyle=DOTTED, label="constructed, 1 or 2 heads (d)")
    figure.legend(*axes[1, 1].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _wide(result: Result, condition: str, column: str, along: str) -> tuple[np.ndarray, np.ndarray]:
    """Values of `along` (point,) and of the column (seed, point): without noise, or at the last step."""
    rows = result.table[result.table.condition == condition]
    rows = rows[rows.noise == 0] if along == "step" else rows[rows.step == rows.step.max()]
    wide = rows.pivot(index="seed", columns=along, values=column)
    return wide.columns.to_numpy(), wide.to_numpy()


def _learning(ax: Axes, result: Result) -> None:
    for condition, color in COLORS.items():
        parts.spread(ax, *_wide(result, condition, "accuracy", "step"), condition, color)
    steps = result.table.step.max()
    parts.theory(ax, [0, steps], [0.5, 0.5], "equal average: 1/2 at most", at=0.6)
    chance = _chance(result)
    parts.theory(ax, [0, steps], [chance, chance], f"chance: 1/{1 / chance:.0f}", at=0.6)
    ax.set(xlabel="training step", ylabel="accuracy on new sentences", ylim=(0, 1.02))


def _lead(ax: Axes, result: Result) -> None:
    w = np.linspace(0.5, 1, 201)
    closed = np.minimum((2 * w - 1) ** 2, (1 - w) ** 2)
    ax.plot(w, closed, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, label=r"min[$(2w-1)^2$, $(1-w)^2$]")
    shares, lead = (result.arrays[f"constructed: {name} (model)"] for name in ("larger share", "lead"))
    ax.plot(shares, lead, "kx", markersize=4, markeredgewidth=0.9, label="constructed head", zorder=5)
    for i, share in enumerate(_wide(result, ONE, "larger_share", "noise")[1][:, 0]):
        label = "trained head, end" if i == 0 else None
        ax.axvline(share, color=COLORS[ONE], linewidth=0.9, alpha=0.7, label=label, zorder=1)
    for i, share in enumerate(_wide(result, ONE, "larger_share", "step")[1][:, 0]):
        label = "untrained" if i == 0 else None
        ax.axvline(share, color="0.75", linewidth=0.9, linestyle=DOTTED, label=label, zorder=1)
    ax.set(xlabel="larger weight over the sum of both, $w$", ylabel="lead of the right answer", ylim=(0, 0.16))
    ax.set_xlim(0.49, 1)
    ax.legend(loc="upper right")


def _weights(ax: Axes, result: Result) -> None:
    for condition, marker in ((FOUR, "s"), (TWO, "o"), (ONE, "D")):
        found = result.arrays[f"{condition}: weights (seed, head, role)"].reshape(-1, 2)
        ax.plot(*found.T, marker, color=COLORS[condition], markersize=3.6, alpha=0.75, linestyle="none", clip_on=False)
    one = np.array([0, 1])
    parts.theory(ax, one, one, "equal", at=0.27)
    for x, y in ((1 / 3, 2 / 3), (2 / 3, 1 / 3)):
        ax.plot(x, y, "k+", markersize=9, markeredgewidth=0.9, zorder=1)
    ax.set(xlabel="weight on who", ylabel="weight on whom", xlim=(0, 1), ylim=(0, 1))


def _noise(ax: Axes, result: Result) -> None:
    for condition, color in COLORS.items():
        parts.spread(ax, *_wide(result, condition, "accuracy", "noise"), condition, color)
    for condition, color in BEST.items():
        noise, values = _wide(result, condition, "accuracy", "noise")
        ax.plot(noise, values.mean(0), color=color, linestyle=DOTTED, zorder=4)
    ax.set(xlabel="noise over signal (standard deviations)", ylabel="accuracy at the end", ylim=(0, 1.02))


def _chance(result: Result) -> float:
    n = result.run["config"]["task"]["n_entities"]
    return 1 / (n * (n - 1))


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["one_head_averages"]
    n = result.table.seed.nunique()

    def at(condition: str, noise: float) -> np.ndarray:
        noises, values = _wide(result, condition, "accuracy", "noise")
        return values[:, noises == noise][:, 0]

    def mean(condition: str, noise: float) -> str:
        return f"{at(condition, noise).mean():.2f}"

    shares = _wide(result, ONE, "larger_share", "noise")[1][:, 0]
    noise = 1.0
    price = at(TWO, noise) - at(ONE, noise)
    ends = bootstrap_interval(price, np.mean, 0.95, np.random.default_rng(0))
    between = "" if ends is None else f" (95% bootstrap interval over seeds {ends[0]:.2f} to {ends[1]:.2f})"
    untrained = np.mean([_wide(result, name, "accuracy", "step")[1][:, 0].mean() for name in (ONE, TWO, FOUR, DEEP)])
    one, two = BEST
    return (
        f"Who did what to whom, answered at one position: {n} seeds, layers of equal size whose heads see the marker "
        f"before a filler in its key and the filler alone in its value. (a) One head answers {mean(ONE, 0)}, 2 heads "
        f"{mean(TWO, 0)}, 4 heads {mean(FOUR, 0)}, 2 layers of one head {mean(DEEP, 0)}; untrained {untrained:.2f}. "
        f"(b) At equal weights a sentence and its swap are the same to one head; at shares w and 1 - w the right "
        f"answer leads, by most at 2/3, and the trained head's larger share is {shares.min():.2f} to "
        f"{shares.max():.2f}. (c) Every head of one layer; crosses mark 2/3 and 1/3. (d) The price of the mixture: "
        f"with noise as large as the signal one head answers {mean(ONE, noise)}, two {mean(TWO, noise)}, a difference "
        f"of {price.mean():.2f}{between}; four {mean(FOUR, noise)}, a second layer {mean(DEEP, noise)}, and where who "
        f"alone is asked one head {mean(ROLE, noise)}. Heads set by hand (dotted): one at 2/3 and 1/3 "
        f"{mean(one, noise)}, two {mean(two, noise)}."
    )
