"""Where answers pile up under two priors, and what a Bayesian observer would have answered."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.core.results import Result
from analyses.core.statistics import bootstrap_interval
from analyses.counting.piling.claims import even_share, round_share
from analyses.counting.piling.columns import EVERY, FLAT, PEAKED, PREDICTIONS, TRAINED, UNTRAINED
from figures import parts

NEEDS = ("count_saturation",)
COLORS = {FLAT: "C0", PEAKED: "C1"}
FORETOLD = "C2"
BRIGHT = 0.5  # share of answers from which on a cell has the brightest colour


def draw(tables: Mapping[str, Result]) -> Figure:
    """Six panels: told against true for both priors and the observer; how often told; bias; distance of predictions."""
    result = tables["count_saturation"]
    figure, axes = parts.sheet(2, 3, height=5.0)
    names = {"uniform": "all alike", "peaked": "Zipf, round", "foretold": "foretold"}
    for ax, (name, title) in zip(axes[0], names.items(), strict=True):
        _answers(ax, result, name, title)
    _piles(axes[1, 0], result)
    _bias(axes[1, 1], result)
    _distances(axes[1, 2], result)
    for ax, letter in zip(axes.flat, "abcdef", strict=True):
        parts.panel_letter(ax, letter)
    handles, labels = axes[1, 0].get_legend_handles_labels()
    more, names = axes[1, 1].get_legend_handles_labels()
    figure.legend(handles + more[-1:], labels + names[-1:], loc="outside upper center", ncols=2, fontsize=7)
    return figure


def _answers(ax: Axes, result: Result, name: str, title: str) -> None:
    answers = result.arrays[f"{name}: answers (seed, true, told)"].mean(0)
    image = ax.imshow(answers.T, origin="lower", cmap="viridis", vmin=0, vmax=BRIGHT, interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label="share of answers" if name == "foretold" else None, shrink=0.8, extend="max")
    ax.plot([0, len(answers) - 1], [0, len(answers) - 1], color="white", linewidth=0.5, alpha=0.7)
    at = range(0, len(answers), EVERY)
    ax.set(xticks=at, yticks=at, xlabel="true count", ylabel="told count", title=title)
    ax.title.set_fontsize(8)


def _piles(ax: Axes, result: Result) -> None:
    """How often each count is told where every count is asked equally often: 1 is fair."""
    for name, prior in (("uniform", FLAT), ("peaked", PEAKED), ("foretold", None)):
        told = result.arrays[f"{name}: answers (seed, true, told)"].sum(1)
        color, label = (COLORS[prior], f"trained: {prior}") if prior else (FORETOLD, "foretold by Bayes' rule")
        style = {"linewidth": 0.9, "linestyle": (0, (2, 1))} if prior is None else {}
        ax.plot(told.mean(0), color=color, label=label, **style)
        if prior:
            ax.fill_between(range(told.shape[1]), told.min(0), told.max(0), color=color, alpha=0.2, linewidth=0)
    counts = np.arange(told.shape[1])
    parts.theory(ax, [0, counts[-1]], [1, 1], "fair", at=0.31)
    ax.set(xlabel="told count", ylabel="told over asked", xticks=counts[::EVERY])


def _bias(ax: Axes, result: Result) -> None:
    table = result.table
    for prior, color in COLORS.items():
        rows = table[(table.prior == prior) & (table.moment == TRAINED)]
        wide = rows.pivot(index="count", columns="seed", values="bias")
        ax.plot(wide.index, wide, color=color, linewidth=0.4, alpha=0.4)
        ax.plot(wide.index, wide.mean(axis=1), color=color)
    foretold = result.arrays["foretold: answers (seed, true, told)"].mean(0)
    counts = np.arange(len(foretold))
    ax.plot(counts, foretold @ counts - counts, color=FORETOLD, linewidth=0.9, linestyle=(0, (2, 1)))
    born = table[(table.moment == UNTRAINED)].groupby("count").bias.mean()
    ax.plot(born.index, born, color="0.55", label="untrained (e)")
    ax.axhline(0, color="0.3", linewidth=0.6)
    most = 1.2 * max(2.0, table[table.moment == TRAINED].bias.abs().max())
    ax.set(xlabel="true count", ylabel="told less true (counts)", ylim=(-most, most), xticks=counts[::EVERY])


def _distances(ax: Axes, result: Result) -> None:
    names = list(PREDICTIONS)
    for at, name in enumerate(names):
        values = _far(result, name)
        ax.plot(
            values, np.full(len(values), at) + np.linspace(-0.12, 0.12, len(values)), "o", color="C4", markersize=3.6
        )
        ax.plot([values.mean()] * 2, [at - 0.28, at + 0.28], color="k", linewidth=1.3)
    ax.set_yticks(range(len(names)), [name.replace(" x ", " x\n").replace("no s", "no\ns") for name in names])
    ax.set(xlabel="total variation, half the sum", xlim=(0, 1), ylim=(len(names) - 0.5, -0.5))


def _far(result: Result, name: str) -> np.ndarray:
    return result.table[result.table.prediction == name].sort_values("seed").total_variation.to_numpy()


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["count_saturation"]
    table, config = result.table, result.run["config"]
    trained = table[table.moment == TRAINED]
    right = trained.groupby("prior").right.mean()
    n, shares = trained.seed.nunique(), {prior: np.mean(round_share(result, prior)) for prior in COLORS}
    large = trained[trained["count"] > config["most"] / 2].groupby("prior").bias.mean()
    gain = 1 - _far(result, PREDICTIONS[1]) / _far(result, PREDICTIONS[0])
    ends = bootstrap_interval(gain.tolist(), np.mean, 0.95, np.random.default_rng(0))
    between = "" if ends is None else f" ({ends[0]:.2f} to {ends[1]:.2f}, 95% bootstrap over seeds)"
    far = {name: _far(result, name).mean() for name in PREDICTIONS}
    return (
        f"Ones among zeros in texts of {config['length']}, by nets that saw all counts alike or as they are named "
        f"(Zipf, multiples of {EVERY} {config['favour']:g} times as often); {n} seeds, {config['test_texts']} texts "
        f"each, all counts asked alike. (a, b) Right {right[FLAT]:.2f} and {right[PEAKED]:.2f}; chance "
        f"{1 / (config['most'] + 1):.2f}. (c) What Bayes' rule makes of (a) and the prior. (d) Of wrong answers "
        f"{shares[FLAT]:.2f} and {shares[PEAKED]:.2f} are round, {even_share(result):.2f} of all counts; shades: the "
        f"seeds' range. (e) Mean error of the larger half of the counts {large[FLAT]:+.1f} and {large[PEAKED]:+.1f}. "
        f"(f) Distance from (b): {far[PREDICTIONS[0]]:.2f} unshrunk, {far[PREDICTIONS[1]]:.2f} by Bayes' rule on "
        f"(a), which takes away {gain.mean():.2f}{between}, {far[PREDICTIONS[2]]:.2f} by the prior on every text's "
        f"logits, {far[PREDICTIONS[3]]:.2f} between two seeds."
    )
