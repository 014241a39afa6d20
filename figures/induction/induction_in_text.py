"""Training on real text: loss, what context gives, and the heads, for three models."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.core.results import Result
from figures import parts

NEEDS = ("induction_in_text",)
TWO, ONE, SMEARED = "2 layers", "1 layer", "1 layer, smeared keys"
COLORS = {TWO: "C0", ONE: "C1", SMEARED: "C2"}


def draw(tables: Mapping[str, Result]) -> Figure:
    """Six panels against the training step; its left end is the untrained model."""
    result = tables["induction_in_text"]
    figure, axes = parts.sheet(2, 3, height=4.4)
    steps = [0, result.table.step.max()]
    _panel(axes[0, 0], result, "loss", "held-out loss\n(nats per byte)")
    unigram = result.run["text"]["unigram_loss"]
    parts.theory(axes[0, 0], steps, [unigram, unigram], "byte frequencies alone", at=0.62)
    _panel(axes[0, 1], result, "in_context", "in-context score\n(nats per byte)")
    _panel(axes[0, 2], result, "text_gain", "second less first copy\nof a text (nats per byte)")
    for ax in axes[0, 1:]:
        ax.axhline(0, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, zorder=1)
    _panel(axes[1, 0], result, "prefix_matching", "prefix matching, last layer\n(dashed: even attention)")
    even = _even_attention(result.run["config"]["period"], result.run["config"]["copies"])
    axes[1, 0].set_ylim(0, 1.6 * max(even, result.table.prefix_matching.max()))
    axes[1, 0].axhline(even, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, zorder=1)
    _panel(axes[1, 1], result, "previous_token", "previous token,\nbest head of first layer")
    axes[1, 1].set_ylim(0, 1.15 * result.table.previous_token.max())
    _panel(axes[1, 2], result, "k_composition", "K-composition, best pair\n(random heads: 1)")
    axes[1, 2].axhline(1, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, zorder=1)
    for ax, letter in zip(axes.flat, "abcdef", strict=True):
        parts.panel_letter(ax, letter)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _panel(ax: Axes, result: Result, column: str, label: str) -> None:
    for condition, color in COLORS.items():
        wide = result.table[result.table.condition == condition].pivot(index="seed", columns="step", values=column)
        if wide.notna().any(axis=None):  # one layer has no pair of layers to compose
            parts.spread(ax, wide.columns.to_numpy(), wide.to_numpy(), condition, color)
    ax.set(xlabel="training step", ylabel=label)


def _even_attention(period: int, copies: int) -> float:
    """Prefix matching of a head that attends evenly: mean of (earlier copies) / (visible keys); theory/induction.md."""
    position = np.arange(period + 1, period * copies + 1)
    return float(np.mean((position - 1) // period / (position + 1)))


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["induction_in_text"]
    table, config = result.table, result.run["config"]
    final = table[table.step == table.step.max()].groupby("condition")
    n, steps = table.seed.nunique(), table.step.max()
    read = steps * config["train"]["batch_size"] * config["task"]["n_ctx"] / 1e6
    mean = {column: final[column].mean() for column in table.columns if column not in ("condition", "seed", "step")}

    def of_each(column: str, digits: int = 2) -> str:
        return ", ".join(f"{mean[column][one]:.{digits}f}" for one in COLORS)

    even = _even_attention(config["period"], config["copies"])
    unigram = result.run["text"]["unigram_loss"]
    return (
        f"Bytes of Python's standard library, {n} seed{'s' if n > 1 else ''}, {steps} updates ({read:.1f} million "
        f"bytes); values at the end for {'; '.join(COLORS)}, in this order. (a) Held-out loss {of_each('loss')} nats "
        f"per byte, byte frequencies alone {unigram:.2f}. (b) In-context score {of_each('in_context')} nats: late less "
        f"early loss, negative is better. (c) An earlier copy of the same text changes the loss by "
        f"{of_each('text_gain')} nats. (d) Prefix matching on repeats of random bytes {of_each('prefix_matching')}; "
        f"even attention scores {even:.2f}. (e) The first layer's best previous-token score is "
        f"{of_each('previous_token')}. (f) The best pair of heads composes through the keys "
        f"{mean['k_composition'][TWO]:.1f} times as strongly as random heads."
    )
