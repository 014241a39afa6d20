"""W' beside Bayes's rule: distances, dimensions of updates and of outputs, dice, and the martingale test."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.core.results import Result
from figures import parts

NEEDS = ("curry_vs_bayes",)
NULLS = ("none", "bias", "steer", "bigram_shift")
# who predicts: colour, marker, filled; closed forms and nulls as in the figure of one context
PREDICTORS = {
    "best null": ("0.55", "v", False),
    "wrong task": ("C3", "X", True),
    "sibling": ("C4", "D", False),
    "lsq_o": ("C0", "s", False),
    "sink": ("C0", "o", True),
}
LEVELS = {"none": "0.55", "with context": "k"}
VECTORS = {
    "weights, untrained": ("0.6", "x", "update, untrained"),
    "weights, lsq_o, trained": ("C0", "s", "update, lsq_o"),
    "weights, trained": ("C0", "o", "update, sink"),
    "outputs, trained": ("C2", "D", "outputs of W'"),
    "outputs, untrained": ("0.6", "+", "outputs, untrained"),
}
TESTED = {
    "2 layers, rope, untrained": ("0.6", "untrained"),
    "2 layers, rope": ("k", "two layers, rotary"),
    "2 layers, rope, W'": ("C0", "its W'"),
    "1 layer, none": ("C1", "one layer, no positions"),
}
FOUR, DICE = "K=4", "two dice"


def draw(tables: Mapping[str, Result]) -> Figure:
    """Six panels: distances from Bayes, K=4 in weights and outputs, dimensions, R^2, martingale gaps."""
    result = tables["curry_vs_bayes"]
    figure, axes = parts.sheet(2, 3, height=6.2, width_ratios=(2.0, 1.1, 1.1))
    _distances(axes[0, 0], result)
    _cloud(axes[0, 1], result, 0, "updates")
    _cloud(axes[0, 2], result, 2, "outputs")
    _dimensions(axes[1, 0], result)
    _explained(axes[1, 1], result)
    _gaps(axes[1, 2], result)
    for ax, letter in zip(axes.flat, "abcdef", strict=True):
        parts.panel_letter(ax, letter)
    figure.suptitle(title(result))
    figure.legend(handles=_keys(), loc="outside lower center", ncols=5, fontsize=6.5, columnspacing=1.0)
    return figure


def title(result: Result) -> str:
    """What the posterior says of updates and of outputs, in words."""
    found = _wide(result, "odds", "R2 posterior").drop(index=DICE, level="net").mean()
    outputs, updates = found["outputs, trained"], found["weights, trained"]
    if outputs - updates >= 0.2:
        return "Evidence is in what W' does, not in where W' lies"
    return "Updates tell the evidence as well as outputs do" if updates > 0.2 else "Neither updates nor outputs tell"


def _wide(result: Result, part: str, quantity: str, index: str = "net") -> pd.DataFrame:
    table = result.table[(result.table.part == part) & (result.table.quantity == quantity)]
    return table.pivot_table(index=[index, "seed"], columns="what", values="value", sort=False)


def _say(ax: Axes, what: str) -> None:
    ax.set_title(what, loc="right", fontsize=8)


def _points(ax: Axes, at: float, values: np.ndarray, color: str, marker: str, filled: bool = True) -> None:
    face = color if filled else "white"
    style = {"linestyle": "none", "color": color, "marker": marker, "markerfacecolor": face}
    x = at + (np.linspace(-0.04, 0.04, len(values)) if len(values) > 1 else np.zeros(1))
    ax.plot(x, values, markersize=2.6, alpha=0.35, markeredgewidth=0.7, zorder=2, **style)
    ax.plot([at], [values.mean()], markersize=4.2, markeredgewidth=1.0, zorder=3, **style)


def _distances(ax: Axes, result: Result) -> None:
    wide = _wide(result, "bayes", "kl")
    wide["best null"] = wide[list(NULLS)].min(axis=1)
    names = list(wide.index.get_level_values("net").unique())
    for at, name in enumerate(names):
        for who, color in LEVELS.items():
            values = wide.loc[name, who].to_numpy()
            ax.hlines(values, at - 0.42, at + 0.42, color=color, linewidth=0.5, alpha=0.4)
            ax.hlines(values.mean(), at - 0.42, at + 0.42, color=color, linewidth=1.4)
        for shift, (who, style) in zip(np.linspace(-0.32, 0.32, len(PREDICTORS)), PREDICTORS.items(), strict=True):
            _points(ax, at + shift, wide.loc[name, who].to_numpy(), *style)
        if at:
            ax.axvline(at - 0.5, color="0.92", linewidth=0.6, zorder=0)
    ax.set_yscale("log")
    ax.set_xticks(range(len(names)), names, fontsize=6.5, rotation=90)
    ax.set(xlim=(-0.5, len(names) - 0.5), ylabel="KL(Bayes || predictor), nats")
    _say(ax, "the nearer to Bayes, the lower")


def _cloud(ax: Axes, result: Result, first: int, what: str) -> None:
    found = result.arrays[f"points {FOUR} (seed, context, number)"][0]
    for chain in np.unique(found[:, 4]).astype(int):
        mine = found[found[:, 4] == chain]
        ax.plot(mine[:, first], mine[:, first + 1], "os^D"[chain % 4], color=f"C{chain}", markersize=3.6, alpha=0.8)
    ax.set(xticks=[], yticks=[], xlabel="principal component 1", ylabel="component 2")
    _say(ax, f"{what}, 4 chains")


def _dimensions(ax: Axes, result: Result) -> None:
    wide = _wide(result, "odds", "participation")
    names = list(wide.index.get_level_values("net").unique())
    shifts = np.linspace(-0.28, 0.28, len(VECTORS))
    for at, name in enumerate(names):
        for shift, (what, (color, marker, _)) in zip(shifts, VECTORS.items(), strict=True):
            values = wide[what].get(name, pd.Series(dtype=float)).dropna().to_numpy()
            if len(values):
                _points(ax, at + shift, values, color, marker, marker != "s")
        k = 2 if name == DICE else int(name.removeprefix("K="))
        style = {"color": "0.3", "linewidth": 1.0, "linestyle": (0, (4, 2))}
        ax.plot([at - 0.42, at + 0.42], [k - 1] * 2, **style, zorder=1)
    ax.text(-0.44, 1.0 if names[0] == DICE else _first(names) * 1.05, "K - 1", fontsize=7, color="0.3", va="bottom")
    ax.set_yscale("log", base=2)
    ax.set_xticks(range(len(names)), names)
    ax.set(xlim=(-0.5, len(names) - 0.5), ylabel="dimensions (participation ratio)")
    ax.yaxis.set_major_formatter("{x:g}")
    _say(ax, "dimensions that contexts span")


def _first(names: list[str]) -> int:
    return int(names[0].removeprefix("K=")) - 1


def _explained(ax: Axes, result: Result) -> None:
    told, lost = (_wide(result, "odds", f"R2 {name}") for name in ("posterior", "shuffled"))
    names = list(told.index.get_level_values("net").unique())
    shown = [(told, "weights, trained"), (told, "outputs, trained"), (told, "outputs, untrained")]
    for at, name in enumerate(names):
        for shift, (table, what) in zip((-0.25, 0.0, 0.25), shown, strict=True):
            color, marker, _ = VECTORS[what]
            _points(ax, at + shift, table.loc[name, what].clip(lower=-0.5).to_numpy(), color, marker)
        worst = lost.loc[name, "outputs, trained"].clip(lower=-0.5).to_numpy()
        ax.plot([at] * len(worst), worst, "_", color="0.3", markersize=9)
    ax.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    ax.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names], fontsize=6.5)
    ax.set(ylabel="$R^2$ on the posterior", ylim=(-0.55, 1.02), xlim=(-0.5, len(names) - 0.5))
    _say(ax, "what evidence tells")


def _gaps(ax: Axes, result: Result) -> None:
    gap, move = (_wide(result, "martingale", name, "at") for name in ("gap", "move"))
    ends = {}
    for who, (color, label) in TESTED.items():
        values = gap[who].unstack("at")
        for row in values.to_numpy():
            ax.plot(values.columns, row, color=color, linewidth=0.6, alpha=0.45)
        ax.plot(values.columns, values.mean(), color=color, linewidth=1.4)
        ends[label] = (values.mean().iloc[0], color)
    exact = move["Bayes"].unstack("at").mean()
    ax.plot(exact.index, exact, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0)
    ends["one throw changes (Bayes)"] = (exact.iloc[0], "0.3")
    ax.set(xscale="log", yscale="log", xlabel="throws in the text", ylabel="martingale gap (variation)")
    lengths = sorted(gap.index.get_level_values("at").unique())
    ax.set_xticks(lengths, [str(one) for one in lengths])
    ax.minorticks_off()
    low = min(float(gap[list(TESTED)].min().min()), float(exact.min()))
    ax.set_ylim(low / 30, 1.6 * max(float(exact.max()), float(gap[list(TESTED)].max().max())))
    for i, (label, (_, color)) in enumerate(sorted(ends.items(), key=lambda item: item[1][0], reverse=True)):
        ax.text(0.03, 0.33 - 0.075 * i, label, color=color, fontsize=6.5, transform=ax.transAxes)
    _say(ax, "dice: a martingale?")


def _keys() -> list[Line2D]:
    def key(label: str, color: str, marker: str, filled: bool = True) -> Line2D:
        face = color if filled else "white"
        style = {"linestyle": "none", "markersize": 4.5, "markerfacecolor": face}
        return Line2D([], [], color=color, marker=marker, label=label, **style)

    handles = [Line2D([], [], color=color, label=f"{name} (a)") for name, color in LEVELS.items()]
    handles += [key(f"{name} (a)", *style) for name, style in PREDICTORS.items()]
    handles += [key(f"{label} (d, e)", color, marker, marker != "s") for color, marker, label in VECTORS.values()]
    return [*handles, key("shuffled (e)", "0.3", "_")]


# The caption --------------------------------------------------------------------------------------


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["curry_vs_bayes"]
    config, n = result.run["config"], result.table.seed.nunique()
    kl = _wide(result, "bayes", "kl")
    kl["best null"] = kl[list(NULLS)].min(axis=1)
    who = ("with context", "sink", "lsq_o", "best null")
    told = "; ".join(
        f"{name} " + ", ".join(f"{kl.loc[name, one].mean():.3f}" for one in who)
        for name in kl.index.get_level_values("net").unique()
    )
    wide, r2 = _wide(result, "odds", "participation"), _wide(result, "odds", "R2 posterior")
    gate = _wide(result, "odds", "R2 odds").loc[DICE, "gate bias, trained"].mean()
    spans = "; ".join(
        f"{name} {wide.loc[name, 'weights, trained'].mean():.1f} and {wide.loc[name, 'outputs, trained'].mean():.1f}, "
        f"R2 {r2.loc[name, 'weights, trained'].mean():.2f} and {r2.loc[name, 'outputs, trained'].mean():.2f}"
        for name in wide.index.get_level_values("net").unique()
    )
    gap = _wide(result, "martingale", "gap", "at")
    order = _wide(result, "martingale", "order variance", "at").max()
    length = gap.index.get_level_values("at").max()
    return (
        f"{n} seed{'s' if n > 1 else ''} (small; large: means). (a) KL from the exact predictor, nats, on up to "
        f"{config['queries'][1]} own queries of {config['contexts']} context{'s' if config['contexts'] > 1 else ''} a "
        f"source; with context, sink, lsq_o, best null: {told}. (b, c) {config['many']} contexts of 4 to "
        f"{config['pool_length']} tokens in the net of 4 chains, first seed, by likeliest chain. (d, e) Dimensions of "
        f"updates and of outputs, and R2 of each on the posterior, contexts left out: {spans}. A head's gate bias is "
        f"affine in the log odds of two dice with R2 {gate:.2f} at best. (f) On dice Bayes's gap is "
        f"{gap['Bayes'].max():.0e} at most; at {length} throws the model's is {gap[_MODEL][length].mean():.4f}, "
        f"that of its W' {gap[_EDITED][length].mean():.4f}, untrained {gap[_BORN][length].mean():.4f}. Variance of a "
        f"probability over orders of the text, largest: one layer without positions {order['1 layer, none']:.0e}, two "
        f"{order['2 layers, none']:.0e}, with rotary positions {order['2 layers, rope']:.0e}."
    )


_MODEL = "2 layers, rope"
_EDITED, _BORN = "2 layers, rope, W'", "2 layers, rope, untrained"
