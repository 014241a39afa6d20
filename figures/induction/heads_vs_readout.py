"""Induction heads against function-vector heads: what two readouts lose without each, and which heads are which."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.core.results import Result
from figures import parts

NEEDS = ("heads_vs_readout",)
INDUCTION, FV, RANDOM = "induction", "function vector", "random"
COLORS = {INDUCTION: "C0", FV: "C1", RANDOM: "C2"}
BEFORE, AFTER = "untrained", "trained"
UNTRAINED = "0.55"
MAP = "{}: {} (seed, layer, head)"


def draw(tables: Mapping[str, Result]) -> Figure:
    """Both readouts against the number of ablated heads, both scores of every head, and how far the kinds overlap."""
    result = tables["heads_vs_readout"]
    figure, axes = parts.sheet(2, 2, height=5.1)
    accuracy, in_context, scatter, overlap = axes.flat
    _ablations(accuracy, result, "accuracy", "few-shot accuracy, last answer")
    accuracy.set_ylim(-0.04, 1.08)
    elimination = result.run["task"]["elimination"]
    parts.theory(accuracy, [0, result.table.k.max()], [elimination] * 2, f"elimination: {elimination:.2f}", at=0.16)
    _ablations(in_context, result, "in_context", "late less early loss on blocks\n(nats per token)")
    n_content = 2 * result.run["config"]["task"]["n_symbols"]
    in_context.set_ylim(-1.3 * np.log(n_content), max(0.6, 1.15 * result.table.in_context.max()))
    in_context.axhline(-np.log(n_content), color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, zorder=4)
    in_context.text(0.98, 0.02, f"dashed: chance to certainty, -ln {n_content}", ha="right", va="bottom",
                    transform=in_context.transAxes, color="0.3", fontsize=7)  # fmt: skip
    _heads(scatter, result)
    _overlap(overlap, result)
    for ax, letter in zip(axes.flat, "abcd", strict=True):
        parts.panel_letter(ax, letter)
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _by_seed(result: Result, model: str, ablated: str, column: str) -> np.ndarray:
    """(seed, k): the mean over draws."""
    table = result.table[(result.table.model == model) & (result.table.ablated == ablated)]
    return table.pivot_table(index="seed", columns="k", values=column, dropna=False).to_numpy()


def _ablations(ax: Axes, result: Result, column: str, label: str) -> None:
    k = np.arange(result.table.k.max() + 1)
    for kind, color in COLORS.items():
        parts.spread(ax, k, _by_seed(result, AFTER, kind, column), f"{kind} heads", color)
    parts.spread(ax, k, _by_seed(result, BEFORE, RANDOM, column), "untrained, random heads", UNTRAINED)
    ax.set(xlabel="heads ablated together", ylabel=label)


def _heads(ax: Axes, result: Result) -> None:
    for model, color, face in ((AFTER, "C3", "C3"), (BEFORE, "0.2", "none")):
        matching, carried = (result.arrays[MAP.format(model, kind)] for kind in (INDUCTION, FV))
        for layer, marker in enumerate("o^sDv"[: matching.shape[1]]):
            x, y = matching[:, layer].ravel(), carried[:, layer].ravel()
            ax.plot(x, y, marker, color=color, markerfacecolor=face, label=f"{model}, layer {layer}", alpha=0.6,
                    markersize=3, markeredgewidth=0.6, linestyle="none")  # fmt: skip
    ax.set(xlabel="induction: prefix matching", ylabel="function vector:\ngain in probability")
    ax.set_xlim(-0.03, 1.03)
    ax.legend(loc="upper right", fontsize=6.5)


def _overlap(ax: Axes, result: Result) -> None:
    k = np.arange(1, result.table.k.max() + 1)
    for model, color in ((BEFORE, UNTRAINED), (AFTER, "C3")):
        parts.spread(ax, k, _by_seed(result, model, RANDOM, "overlap")[:, 1:], model, color)
    n_heads = result.arrays[MAP.format(AFTER, FV)][0].size
    parts.theory(ax, k, k / n_heads, "chance", at=0.12)
    ax.set(xlabel="best heads of each kind", ylabel="share of the best FV heads\nthat are best induction heads")
    ax.set_ylim(-0.04, 1.04)
    ax.legend(loc="upper left")


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["heads_vs_readout"]
    config = result.run["config"]
    n, k = result.table.seed.nunique(), min(4, result.table.k.max())

    def at(column: str, kind: str, heads: int = k, model: str = AFTER) -> float:
        return _by_seed(result, model, kind, column)[:, heads].mean()

    def of_each(column: str) -> str:
        return ", ".join(f"{at(column, kind):.2f}" for kind in COLORS)

    correlation = _by_seed(result, AFTER, RANDOM, "rank_correlation")[:, 0]
    return (
        f"Two layers trained on few-shot texts of {config['task']['n_functions']} functions and on repeated blocks, "
        f"{n} seed{'s' if n > 1 else ''} (thin lines). Heads are ablated by their mean, best first, without the "
        f"{config['excluded']} best of the other kind; {config['draws']} draws of random heads of both layers; values "
        f"without {k} induction, FV and random heads, in this order. (a) Few-shot accuracy {of_each('accuracy')}, of "
        f"{at('accuracy', RANDOM, 0):.2f} with all heads; untrained {at('accuracy', RANDOM, 0, BEFORE):.2f}; a guess "
        f"among the possible answers not yet seen (elimination) "
        f"{result.run['task']['elimination']:.2f}. (b) Late less early loss on blocks of periods held out "
        f"{of_each('in_context')} nats, of {at('in_context', RANDOM, 0):.2f} with all heads. "
        f"(c) Every head; rank correlation of the scores {correlation.mean():.2f} (seeds {correlation.min():.2f} to "
        f"{correlation.max():.2f}). (d) Of the {k} best FV heads {at('overlap', RANDOM):.2f} are among the {k} best "
        f"induction heads, {k / result.arrays[MAP.format(AFTER, FV)][0].size:.2f} by chance."
    )
