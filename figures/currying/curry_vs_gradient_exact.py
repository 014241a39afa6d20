"""Where a context is a gradient step: identities, training beside the best step, and where the two part."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.core.results import Result
from figures import parts

NEEDS = ("curry_vs_gradient_exact",)
BY_HAND, LINEAR, TWO, ONE, SHUFFLED, UNTRAINED = (
    "gradient step set by hand",
    "linear attention",
    "softmax, 2 heads",
    "softmax, 1 head",
    "linear, shuffled labels",
    "linear, untrained",
)
COLORS = {BY_HAND: "0.3", LINEAR: "C0", TWO: "C1", ONE: "C3", SHUFFLED: "C2", UNTRAINED: "0.6"}
RATIO, COSINE, ANSWERS = (
    "loss over that of the gradient step",
    "cosine of the sensitivities",
    "difference of the answers",
)
UNPROJECTED, LONE = "step in all of W_V: error", "nearest map: relative squared error"
EXACT = 1e-17  # where an error of exactly 0 stands on the logarithmic axis


def draw(tables: Mapping[str, Result]) -> Figure:
    """Five panels: errors of the identities; losses in training, on scaled inputs and with depth; cosines."""
    result = tables["curry_vs_gradient_exact"]
    with parts.house_style():
        figure = parts.Sheet(figsize=(parts.DOUBLE, 5.6))
        axes = figure.subplot_mosaic([["a", "b", "c"], ["a", "d", "e"]], width_ratios=(0.8, 1, 1))
    _identities(axes["a"], result.table)
    _training(axes["b"], result)
    _cosines(axes["c"], result.table)
    _scaled(axes["d"], result)
    _depth(axes["e"], result)
    for letter, ax in axes.items():
        parts.panel_letter(ax, letter)
    handles, _ = axes["c"].get_legend_handles_labels()
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def _names(result: Result) -> list[str]:
    """The models, in the order of the arrays."""
    return [name for name in result.table.instrument.unique() if name in COLORS]


def _identities(ax: Axes, table: pd.DataFrame) -> None:
    rows = table[table.tolerance == 1e-12]
    lines = list(dict.fromkeys(zip(rows.instrument, rows.quantity, strict=True)))
    at = [lines.index(key) for key in zip(rows.instrument, rows.quantity, strict=True)]
    ax.scatter(rows.error.clip(lower=EXACT), at, s=9, c="C0", zorder=3)
    ax.axvline(1e-12, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0)
    failing = {UNPROJECTED: "not projected on W", LONE: "no constant coordinate"}
    for row, (quantity, label) in enumerate(failing.items(), start=len(lines)):
        lines.append(("must fail", label))
        values = table.measured[table.quantity == quantity]
        ax.scatter(values, [row] * len(values), s=9, c="C1", zorder=3)
    ax.axhline(len(lines) - 2.5, color="0.7", linewidth=0.6)
    ax.set_yticks(range(len(lines)), [quantity for _, quantity in lines], fontsize=6)
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.set_xscale("log")
    ax.set_xticks([EXACT, 1e-12, 1e-6, 1], ["0", "$10^{-12}$", "$10^{-6}$", "1"])
    ax.minorticks_off()
    ax.set_xlim(EXACT / 6, 20)
    ax.hlines(range(len(lines)), *ax.get_xlim(), color="0.93", linewidth=0.5, zorder=0)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("largest error")


def _training(ax: Axes, result: Result) -> None:
    curves, theory = result.arrays["loss (condition, seed, mark)"], result.run["theory"]
    for name, values in zip(_names(result), curves, strict=True):
        if name not in (BY_HAND, UNTRAINED):
            parts.spread(ax, result.arrays["marks (updates)"], values, name, COLORS[name])
    at = list(result.run["config"]["scales"]).index(1.0)
    ax.set_yscale("log")
    low, high = theory["step"][at], theory["zero"][at]
    ax.set_ylim(0.9 * low, 1.35 * high)
    ax.set_yticks([0.2, 0.3, 0.4], ["0.2", "0.3", "0.4"])
    ax.minorticks_off()
    for loss, text, away, side in ((low, "one step", 0.98, "top"), (high, "no answer", 1.03, "bottom")):
        ax.axhline(loss, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, zorder=4)
        ax.text(0.98, away * loss, f"{text}: {loss:.3f}", transform=ax.get_yaxis_transform(), ha="right", va=side,
                color="0.3", fontsize=7)  # fmt: skip
    ax.set(xlabel="updates", ylabel="held-out loss (half-MSE)")


def _cosines(ax: Axes, table: pd.DataFrame) -> None:
    for row, (name, color) in enumerate(COLORS.items()):
        rows = table[table.instrument == name]
        ratio, cosine = (
            rows[rows.quantity == what].sort_values("seed").measured.to_numpy() for what in (RATIO, COSINE)
        )
        style = {"markersize": 8, "markerfacecolor": "none"} if name == BY_HAND else {"markersize": 4}
        ax.plot(ratio, cosine, "osD^vx"[row], color=color, linestyle="none", label=name, **style)
    ax.axhline(0, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0)
    ax.text(0.02, 0.03, "chance", transform=ax.get_yaxis_transform(), va="bottom", color="0.3", fontsize=7)
    ax.set(xlabel="loss / loss of the step", ylabel="cosine with the step's\nsensitivity to the query")
    ax.set_ylim(-0.25, 1.1)


def _scaled(ax: Axes, result: Result) -> None:
    scales, theory = result.run["config"]["scales"], result.run["theory"]
    zero = np.array(theory["zero"])
    for name, values in zip(_names(result), result.arrays["loss (condition, seed, scale)"], strict=True):
        if name in (LINEAR, TWO, ONE):
            parts.spread(ax, scales, values / zero, name, COLORS[name])
    ax.set_yscale("log")
    ax.plot(scales, np.array(theory["step"]) / zero, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, zorder=4)
    ax.text(0.06, 0.93, "dashed: one step,\nclosed form", transform=ax.transAxes, va="top", color="0.3", fontsize=7)
    ax.set_yticks([0.5, 1, 2, 5], ["0.5", "1", "2", "5"])
    ax.minorticks_off()
    ax.set(xlabel="size of inputs (training: 1)", ylabel="loss / loss of no answer")


def _depth(ax: Axes, result: Result) -> None:
    values = result.arrays["loss (seed, kind, depth)"]
    depths = np.arange(1, values.shape[-1] + 1)
    for kind, (label, color) in enumerate((("gradient steps", "C4"), ("GD++", "C5"))):
        parts.spread(ax, depths, values[:, kind], label, color)
    ax.set_yscale("log")
    ax.set_yticks([0.05, 0.1, 0.2], ["0.05", "0.1", "0.2"])
    ax.minorticks_off()
    ax.set(xlabel="layers (steps)", ylabel="expected loss (half-MSE)")
    ax.set_ylim(top=1.7 * values.max())
    ax.legend(loc="upper right", fontsize=7)


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["curry_vs_gradient_exact"]
    table, config, theory = result.table, result.run["config"], result.run["theory"]
    task, n = config["task"], result.table.seed.nunique()
    exact = table[table.tolerance == 1e-12]
    mean = table.groupby(["instrument", "quantity"]).measured.mean()
    failing = {quantity: table.measured[table.quantity == quantity].min() for quantity in (UNPROJECTED, LONE)}
    depth = result.arrays["loss (seed, kind, depth)"].mean(0)
    gammas = mean["GD++, 2 tied steps"]
    return (
        f"A context as a change of weights, {n} seed{'s' if n > 1 else ''}. (a) {exact.quantity.nunique()} identities "
        f"of machines set by hand, float64: largest error {exact.error.max():.0e}; what must fail is off by at least "
        f"{failing[UNPROJECTED]:.2f} (a step in all of W_V) and leaves at least {failing[LONE]:.3f} of the square (a "
        f"lone query without a constant coordinate). (b) One layer trained on linear regression, "
        f"{task['n_examples']} examples in {task['d_in']} dimensions, {config['tasks']} held-out tasks (thin lines: "
        f"seeds): loss over that of one gradient step at the best rate ({theory['rate']:.2f}) "
        f"{mean[LINEAR, RATIO]:.3f} with linear attention, {mean[TWO, RATIO]:.2f} with two softmax heads, "
        f"{mean[ONE, RATIO]:.2f} with one, {mean[SHUFFLED, RATIO]:.2f} on shuffled labels. (c) The cosine of the "
        f"gradients of the answer with respect to the query is {mean[LINEAR, COSINE]:.4f} for linear attention, whose "
        f"answers differ by {100 * mean[LINEAR, ANSWERS]:.1f}% of their r.m.s.; {mean[TWO, COSINE]:.2f} and "
        f"{mean[ONE, COSINE]:.2f} for softmax, {mean[SHUFFLED, COSINE]:.2f} on shuffled labels, "
        f"{mean[UNTRAINED, COSINE]:.2f} untrained. (d) On inputs of other sizes linear attention stays the step, also "
        f"where that is wrong; softmax does not. (e) {depth.shape[1]} tuned steps leave {depth[0, -1]:.3f}, of GD++ "
        f"{depth[1, -1]:.3f}; its best gamma for two is {gammas.min():.2f} to {gammas.max():.2f} times what models "
        f"learned in the source."
    )
