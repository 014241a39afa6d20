"""Sharpness against the length of the text: keys in use, the peak beside its bound, and the spread of the scores."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from analyses.core.results import Result
from figures import parts

NEEDS = ("sharpness_vs_context",)
TRAINED, UNTRAINED, UNIFORM = "trained", "untrained", "uniform"
LAYERS = ("C0", "C1", "C3", "C4", "C5")  # colours of the trained layers
BORN = "C2"
DOTTED = (0, (1, 1.2))


def draw(tables: Mapping[str, Result]) -> Figure:
    """Three panels against a logarithmic axis, a thin line per head and seed, a thick one for their median.

    Where there are more layers than colours, those between the first and the last are drawn as one."""
    result = tables["sharpness_vs_context"]
    figure, axes = parts.sheet(1, 3, height=3.0)
    for ax, column, label in zip(
        axes[0],
        ("n_eff", "peak", "spread"),
        ("keys in use, $1/\\sum p^2$", "largest weight (0 to 1)", "spread of the scores (nats)"),
        strict=True,
    ):
        _curves(ax, result, column)
        scale = "linear" if column == "spread" else "log"
        ax.set(xscale="log", yscale=scale, xlabel="context (tokens)", ylabel=label)
        _mark_lengths(ax, result)
        _training_length(ax, result)
    equal = _rows(result, UNIFORM)
    keys, share = _median(equal, "keys"), _median(equal, "peak_bound")  # at spread 0 the bound is the mean of 1/n
    parts.theory(axes[0, 0], keys.index, keys, "n", at=0.42)
    parts.theory(axes[0, 1], share.index, share, "1/n", at=0.42)
    parts.theory(axes[0, 2], keys.index, np.log(keys), "ln n", at=0.85)
    axes[0, 2].set_ylim(0, None)
    _uniform(axes[0, 0], result, "n_eff")
    _uniform(axes[0, 1], result, "peak")
    for ax, letter in zip(axes[0], "abc", strict=True):
        parts.panel_letter(ax, letter)
    axes[0, 1].plot([], [], color="0.3", linestyle=DOTTED, label="bound of Lemma 2.1")
    handles, labels = axes[0, 1].get_legend_handles_labels()
    columns = -(-len(labels) // 2)  # two rows leave the corner to the name of the profile
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, columnspacing=1.2)
    return figure


def _groups(result: Result) -> dict[str, tuple[pd.DataFrame, str]]:
    """What is drawn together, by its name: rows and colour."""
    trained = _rows(result, TRAINED)
    first, last = trained.layer.min(), trained.layer.max()
    if last - first < len(LAYERS):
        named = {f"trained, layer {layer}": rows for layer, rows in trained.groupby("layer")}
    else:
        named = {
            f"trained, layer {first}": trained[trained.layer == first],
            f"layers {first + 1} to {last - 1}": trained[trained.layer.between(first, last, inclusive="neither")],
            f"layer {last}": trained[trained.layer == last],
        }
    groups = {name: (rows, color) for (name, rows), color in zip(named.items(), LAYERS, strict=False)}
    return groups | {UNTRAINED: (_rows(result, UNTRAINED), BORN)}


def _rows(result: Result, condition: str) -> pd.DataFrame:
    return result.table[result.table.condition == condition]


def _median(rows: pd.DataFrame, column: str) -> pd.Series:
    """Over heads and seeds, by length."""
    return rows.groupby("length")[column].median()


def _curves(ax: Axes, result: Result, column: str) -> None:
    for name, (rows, color) in _groups(result).items():
        wide = rows.pivot(index="length", columns=["seed", "layer", "head"], values=column)
        ax.plot(wide.index, wide, color=color, linewidth=0.5, alpha=0.35, zorder=2)
        ax.plot(wide.index, wide.median(axis=1), color=color, linewidth=1.8, zorder=5, label=name)
        if column == "peak":
            bound = _median(rows, "peak_bound")
            ax.plot(bound.index, bound, color=color, linestyle=DOTTED, zorder=4)


def _uniform(ax: Axes, result: Result, column: str) -> None:
    found = _median(_rows(result, UNIFORM), column)
    ax.plot(found.index, found, "kx", markersize=4, markeredgewidth=0.8, zorder=6, label="all scores equal")


def _mark_lengths(ax: Axes, result: Result) -> None:
    """Name the shortest, the middle and the longest: powers of ten alone may leave an axis with one number."""
    lengths = sorted(result.table.length.unique())
    shown = sorted({lengths[0], lengths[len(lengths) // 2], lengths[-1]})
    ax.set_xticks(shown, [str(length) for length in shown])
    ax.set_xticks(lengths, minor=True)
    ax.xaxis.set_minor_formatter(NullFormatter())


def _training_length(ax: Axes, result: Result) -> None:
    ax.axvline(_trained_on(result), color="0.75", linewidth=0.8, zorder=1)


def _trained_on(result: Result) -> int:
    """The length of the training windows; of a checkpoint, the longest that its own configuration names."""
    checkpoint = result.run.get("checkpoint")
    return checkpoint["n_ctx"] if checkpoint else result.run["config"]["task"]["n_ctx"]


def _measured(result: Result) -> str:
    """The texts, their lengths and the model, in words."""
    config, lengths = result.run["config"], result.table.length
    path = config["task"].get("path")
    place = "Python's standard library" if path is None else Path(path).name
    span, checkpoint = f"{lengths.min()} to {lengths.max()} tokens", result.run.get("checkpoint")
    if checkpoint is None:
        return f"held-out bytes of {place}, {span}, by a transformer trained on {_trained_on(result)} (grey line)"
    texts = result.run["text"]["tokens"]
    texts = f"text of {place}" if texts == "held-out text" else texts
    return (
        f"{texts}, {span}, by the checkpoint {Path(config['model']).name}, made for {_trained_on(result)} (grey line), "
        f"and by an untrained twin of the same shape"
    )


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["sharpness_vs_context"]
    table, config = result.table, result.run["config"]
    shortest, longest = table.length.min(), table.length.max()
    heads = _rows(result, TRAINED).groupby(["seed", "layer", "head"]).ngroups
    n = table.seed.nunique()

    def between(rows: pd.DataFrame, column: str, digits: str) -> str:
        ends = _median(rows, column)
        return f"{ends[shortest]:{digits}} to {ends[longest]:{digits}}"

    trained, born = _rows(result, TRAINED), _rows(result, UNTRAINED)
    first, last = (trained[trained.layer == layer] for layer in (trained.layer.min(), trained.layer.max()))
    at_end = trained[trained.length == longest]
    silent = int((at_end.spread > np.log(at_end["keys"])).sum())
    worst = table.peak_excess.max()
    share = _median(born.assign(share=born.n_eff / born["keys"]), "share")
    texts, plural = config["texts"], "s" if n > 1 else ""
    return (
        f"Attention on {_measured(result)}: {heads} heads of {n} seed{plural}, means over the last "
        f"{config['last_rows']} queries of {texts} text{'s' if texts > 1 else ''} each; thick lines are median heads. "
        f"(a) From the shortest to the longest text the median head uses {between(first, 'n_eff', '.0f')} keys in the "
        f"first layer, {between(last, 'n_eff', '.1f')} in the last and {between(born, 'n_eff', '.0f')} before training "
        f"({share[shortest]:.0%} and {share[longest]:.0%} of all keys). (b) Its largest weight goes from "
        f"{between(first, 'peak', '.2f')}, {between(last, 'peak', '.2f')} and {between(born, 'peak', '.4f')}; no query "
        f"of any head is above the bound of Lemma 2.1, exp(spread)/n, by more than rounding (largest excess "
        f"{worst:.0e} nats). (c) But the lemma speaks only below ln n, and the trained heads' scores spread "
        f"over {between(first, 'spread', '.0f')} and {between(last, 'spread', '.0f')} nats, above ln n at the longest "
        f"text in {silent} of {heads} heads: what trained attention does at these lengths, the lemma leaves open."
    )
