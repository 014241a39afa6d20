"""Where the norm stands, against depth: stream, branches, gradients, what the last token hears, and warm-up."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from analyses.core.results import Result
from figures import parts

NEEDS = ("norm_vs_depth",)
PRE, POST, RMS, NONE = "pre LN", "post LN", "pre RMS", "no norm"
COLORS = {PRE: "C0", POST: "C1", RMS: "C2", NONE: "C3"}
DASHED, DOTTED = (0, (4, 2)), (0, (1, 1.2))


def draw(tables: Mapping[str, Result]) -> Figure:
    """Six panels; thin lines are seeds, bold ones their geometric mean (loss: mean), dashed ones theory."""
    result = tables["norm_vs_depth"]
    figure, axes = parts.sheet(2, 3, height=4.8)
    _stream(axes[0, 0], result)
    _branches(axes[0, 1], result)
    _gradients(axes[0, 2], result, "last_gradient")
    _gradients(axes[1, 0], result, "first_gradient")
    _own(axes[1, 1], result)
    _training(axes[1, 2], result)
    for ax, letter in zip(axes.flat, "abcdef", strict=True):
        parts.panel_letter(ax, letter)
    for norm, color in COLORS.items():
        axes[0, 0].plot([], [], color=color, label=norm)
    axes[0, 0].plot([], [], color="0.3", linestyle=DASHED, label="theory")
    axes[0, 0].plot([], [], color=COLORS[PRE], linestyle=DOTTED, label="bound")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6, columnspacing=1.2)
    return figure


# Panels -------------------------------------------------------------------------------------------


def _born(result: Result, norm: str) -> pd.DataFrame:
    return result.table[(result.table.norm == norm) & result.table.warmup.isna()]


def _curves(result: Result, norm: str, name: str) -> np.ndarray:
    return result.arrays[f"{norm}: {name} (seed, layer)"].astype(float)


def _bold(ax: Axes, x, by_seed: np.ndarray, color: str, linestyle="-") -> None:
    ax.plot(x, by_seed.T, color=color, linewidth=0.5, alpha=0.4, zorder=2)
    ax.plot(x, np.exp(np.log(by_seed).mean(0)), color=color, linestyle=linestyle, linewidth=1.4, zorder=3)


def _by_depth(result: Result, norm: str, column: str) -> pd.DataFrame:
    """(seed, depth)."""
    return _born(result, norm).pivot(index="seed", columns="depth", values=column)


def _powers_of_two(ax: Axes, depths) -> None:
    ax.set_xscale("log")
    ax.set_xticks(list(depths), [str(depth) for depth in depths])
    ax.xaxis.set_minor_formatter(NullFormatter())


def _stream(ax: Axes, result: Result) -> None:
    ax.set(xscale="log", yscale="log", xlabel="behind layer", ylabel="mean square of the stream")
    at = np.arange(1, _curves(result, PRE, "stream").shape[1] + 1)
    for norm, color in COLORS.items():
        _bold(ax, at, _curves(result, norm, "stream"), color)
    ax.fill_between(at, 1 + at / 2, 1 + 3 * at / 2, color="0.85", zorder=1)
    ax.set_ylim(0.5, 8 * (1 + 3 * at[-1] / 2))
    ax.text(at[-1], 0.62, "grey: lemma 2", ha="right", va="bottom", color="0.3", fontsize=7)
    _powers_of_two(ax, sorted(result.table.depth[result.table.warmup.isna()].unique()))


def _branches(ax: Axes, result: Result) -> None:
    ax.set(xscale="log", yscale="log", xlabel="layer", ylabel="branches / stream")
    for norm, color in COLORS.items():
        stream, both = (
            _curves(result, norm, "stream"),
            sum(_curves(result, norm, name) for name in ("attention", "mlp")),
        )
        at = np.arange(1, stream.shape[1] + 1)
        _bold(ax, at, both / stream, color)
    parts.theory(ax, at, 1 / at, "1 / layer", at=0.35)
    _powers_of_two(ax, sorted(result.table.depth[result.table.warmup.isna()].unique()))


def _gradients(ax: Axes, result: Result, column: str) -> None:
    ax.set(yscale="log", xlabel="layers", ylabel=f"{column.split('_')[0]} layer's gradient (nats)")
    for norm in (PRE, POST, RMS):  # without norms it grows by orders of magnitude, see the caption
        found = _by_depth(result, norm, column)
        _bold(ax, found.columns, found.to_numpy(), COLORS[norm])
    depths = np.array(found.columns, float)
    _powers_of_two(ax, found.columns)
    low, high = ax.get_ylim()
    ax.set_ylim(low / 1.5, high * 1.3)
    ticks = [tick for tick in 2.0 ** np.arange(-20, 20) if low / 1.5 <= tick <= high * 1.3]
    ticks = ticks[:: -(-len(ticks) // 6)]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.yaxis.set_minor_formatter(NullFormatter())
    if column == "last_gradient":
        start = _by_depth(result, PRE, column).mean().iloc[0]
        parts.theory(ax, depths, 0.75 * start * (depths / depths[0]) ** -0.5, "layers$^{-1/2}$", at=0.25)


def _own(ax: Axes, result: Result) -> None:
    ax.set(yscale="log", xlabel="layers", ylabel="own share (squares)")
    for norm in (PRE, POST, NONE):
        found, law = _by_depth(result, norm, "own"), _by_depth(result, norm, "own_law")
        _bold(ax, found.columns, found.to_numpy(), COLORS[norm])
        if norm != POST:  # there the law is that of no norm
            ax.plot(law.columns, law.mean(), color="0.3", linestyle=DASHED, linewidth=1.0, zorder=4)
    bound = _by_depth(result, PRE, "own_bound")
    _bold(ax, bound.columns, bound.to_numpy(), COLORS[PRE], DOTTED)
    _powers_of_two(ax, found.columns)
    ax.set_ylim(1e-12, 3)


def _training(ax: Axes, result: Result) -> None:
    ax.set(xlabel="update", ylabel="training loss (nats per byte)")
    for norm in (PRE, POST):
        for words, style in (("no", "-"), ("with", DOTTED)):
            found = result.arrays[f"{norm}, {words} warm-up: loss (seed, step)"].astype(float)
            smooth = np.stack([np.convolve(one, np.ones(5) / 5, mode="valid") for one in found])
            at = np.arange(3, 3 + smooth.shape[1])
            ax.plot(at, smooth.T, color=COLORS[norm], linewidth=0.3, alpha=0.3, linestyle=style)
            ax.plot(at, smooth.mean(0), color=COLORS[norm], linewidth=1.4, linestyle=style)
    for words, style in (("no warm-up", "-"), ("warm-up", DOTTED)):
        ax.plot([], [], color="0.3", linestyle=style, label=words)
    ax.legend(loc="upper right")


# The caption --------------------------------------------------------------------------------------


def _slope(result: Result, norm: str, column: str) -> float:
    found = np.log(_by_depth(result, norm, column).mean())
    found = found[found.index >= result.run["config"]["slope_from"]]
    return float(np.polyfit(np.log(found.index), found, 1)[0])


def _loss(result: Result, norm: str) -> str:
    """Without and with warm-up."""
    rows = result.table[(result.table.norm == norm) & result.table.loss.notna()]
    without, warm = rows[rows.warmup == 0].loss.mean(), rows[rows.warmup > 0].loss.mean()
    return f"{without:.2f} without and {warm:.2f} with"


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["norm_vs_depth"]
    config, table = result.run["config"], result.table
    born = table[table.warmup.isna()]
    deepest, n = born.depth.max(), born.seed.nunique()
    end = born[born.depth == deepest].groupby("norm")
    mean, own = end.mean(numeric_only=True), end.own.agg(lambda values: float(np.exp(np.log(values).mean())))
    law, last = mean.own_law, born[born.norm == NONE].groupby("depth").last_gradient.mean()
    return (
        f"Models at birth, {n} seed{'s' if n > 1 else ''} of {config['draws']} draws, d_model {config['d_model']}, "
        f"{config['n']} tokens. (a) At {deepest} layers the stream's mean square is {mean.stream[PRE]:.1f} with pre "
        f"LN, which lemma 2 puts between {1 + deepest / 2:g} and {1 + 1.5 * deepest:g}, 1 behind post LN and "
        f"{mean.stream[NONE]:.0e} without norms. (b) What the last layer adds is "
        f"{mean.attention_share[PRE] + mean.mlp_share[PRE]:.3f} of it with pre LN, "
        f"{mean.attention_share[POST] + mean.mlp_share[POST]:.2f} with post LN. (c) One position's gradient by W_out "
        f"of the last layer goes like depth to the {_slope(result, PRE, 'last_gradient'):.2f} (pre LN), "
        f"{_slope(result, RMS, 'last_gradient'):.2f} (pre RMS), {_slope(result, POST, 'last_gradient'):.2f} (post LN) "
        f"from {config['slope_from']} layers on; without norms it grows from {last.iloc[0]:.1f} to {last.iloc[-1]:.0e}."
        f" (d) By that of the first layer: {_slope(result, PRE, 'first_gradient'):.2f} (pre LN), "
        f"{_slope(result, POST, 'first_gradient'):.2f} (post LN). (e) The last token's own share of its squared "
        f"sensitivity at {deepest} layers is {own[PRE]:.2f} with pre LN, {own[POST]:.0e} with post LN, {own[NONE]:.0e} "
        f"without; the law of random values (dashed; that of post LN is the one without norms) says {law[PRE]:.2f} and "
        f"{law[NONE]:.0e}, the bound's shape (dotted) {mean.own_bound[PRE]:.0e} for pre LN. (f) Trainings of "
        f"{config['train_depth']} layers on bytes of Python's standard library: final loss {_loss(result, PRE)} "
        f"warm-up (pre LN), {_loss(result, POST)} (post LN)."
    )
