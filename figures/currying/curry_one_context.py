"""What a context needs to stand in weights: quality against bytes and build cost, and what heads take from it."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import offset_copy

from analyses.core.results import Result
from figures import parts

NEEDS = ("curry_one_context",)
ENOUGH = 0.9  # of the KL removed: the method that stands for the context
FLOOR, CEILING = -0.6, 2.5  # of shares and of entity errors; what lies beyond is drawn on the edge
STRANGERS = ("sibling", "wrong task")
SHIFTS = ("bias", "steer", "bigram_shift")
COLORS = {
    "null": "0.55",
    "exact": "k",
    "closed form": "C0",
    "descent": "C1",
    "learned pairs": "C2",
    "gradient": "C3",
}
MARKERS = "osD^vP*Xph"
BORN = "0.7"


def draw(tables: Mapping[str, Result]) -> Figure:
    """Per context a column: KL removed against bytes and build cost, entity error against bytes, rho against gate."""
    result = tables["curry_one_context"]
    names = list(result.run["contexts"])
    if len(names) == 1:
        figure, axes = parts.sheet(2, 2, height=5.4)
        grid = axes.reshape(-1, 1)
    else:
        figure, grid = parts.sheet(4, len(names), height=8.4, sharey="row")
    for column, name in enumerate(names):
        rows = result.table[result.table.context == name]
        _frontier(grid[0, column], rows, "share", "bytes")
        _frontier(grid[1, column], rows, "share", "token_forwards")
        _frontier(grid[2, column], rows, "entity_error", "bytes")
        _heads(grid[3, column], result, column)
        title = verdict(rows) if name == "prompt" else f"{name}:\n{verdict(rows)}"
        grid[0, column].set_title(title, fontsize=8)
    labels = {"share": "share of the KL removed", "entity_error": "entity error"}
    for row, label in enumerate(
        (labels["share"], labels["share"], labels["entity_error"], "query dependence, $\\rho$")
    ):
        grid[row, 0].set_ylabel(label)
    for ax, letter in zip(grid.flat, "abcdefghijklmnopqrstuvwxyz", strict=False):
        parts.panel_letter(ax, letter)
    figure.legend(handles=_legend(result), loc="outside upper center", ncols=5, fontsize=7, columnspacing=1.0)
    return figure


def verdict(rows: pd.DataFrame) -> str:
    """What the context needs, in words: the least that removes `ENOUGH` of the KL in the mean over seeds."""
    share = rows.groupby("method").share.mean()
    if share.isna().all():
        return "says almost nothing"
    if share.reindex(["bias", "steer"]).max() >= ENOUGH:
        return "a steering vector"
    if share.get("sink", np.nan) >= ENOUGH:
        return "a rank-one edit"
    pairs = rows[rows.family == "learned pairs"].groupby("r").share.mean()
    enough = pairs.index[pairs >= ENOUGH]
    if len(enough):
        return f"needs r \N{ALMOST EQUAL TO} {enough.min()} pairs"
    return f"needs r > {pairs.index.max()} pairs" if len(pairs) else "no rank-one edit"


def _styles(table: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Colour and marker by method, the r of a method left out; what removes nothing is a line."""
    styles, used = {}, {}
    for method, family in table[["method", "family"]].drop_duplicates().itertuples(index=False):
        base = _base(method, family)
        if base not in styles and base != "none":
            used[family] = used.get(family, -1) + 1
            styles[base] = (COLORS[family], MARKERS[used[family] % len(MARKERS)])
    return styles


def _base(method: str, family: str) -> str:
    return method if family == "null" else method.split(" ")[0]


def _frontier(ax: Axes, rows: pd.DataFrame, quality: str, cost: str) -> None:
    low, high = (FLOOR, 1.0) if quality == "share" else (0.0, CEILING)
    drawn = rows[rows[cost] > 0].assign(at=rows[quality].clip(low, high))
    for base, (color, marker) in _styles(rows).items():
        mine = drawn[[_base(*pair) == base for pair in zip(drawn.method, drawn.family, strict=True)]]
        style = {"color": color, "marker": marker, "clip_on": False}
        ax.plot(mine[cost], mine["at"], linestyle="none", markersize=2, alpha=0.35, markeredgewidth=0, **style)
        mean = mine.groupby("r")[[cost, quality]].mean().assign(at=lambda one: one[quality].clip(low, high))
        line = "-" if len(mean) > 1 else "none"
        ax.plot(mean[cost], mean["at"], linestyle=line, linewidth=0.8, markersize=4.5, **style, zorder=4)
        if quality == "share" and cost == "bytes" and base == "kv_r":
            _name_pairs(ax, mean, cost)
    nothing = rows[rows.method == "none"][quality].mean()
    ax.axhline(min(nothing, high), color=COLORS["null"], linewidth=0.8, zorder=1)
    if quality == "share":
        ax.axhline(ENOUGH, color="0.3", linestyle=(0, (4, 2)), linewidth=0.8, zorder=1)
    ax.set_xscale("log")
    ax.set(xlabel=f"{cost} beside the weights" if cost == "bytes" else "build cost (token-forwards)")
    ax.set_ylim(low, high + 0.05)


def _name_pairs(ax: Axes, mean: pd.DataFrame, cost: str) -> None:
    below = offset_copy(ax.transData, fig=ax.figure, y=-3.5, units="points")
    for r, one in mean.iterrows():
        ax.text(one[cost], one["at"], str(r), transform=below, ha="center", va="top", fontsize=5.5, color="C2")


def _heads(ax: Axes, result: Result, column: int) -> None:
    found = {name: result.arrays[f"{name} (context, seed, layer, head)"][column] for name in ("rho", "gate")}
    born = {name: result.arrays[f"untrained {name} (context, seed, layer, head)"][column] for name in ("rho", "gate")}
    layers = found["rho"].shape[1]
    ax.plot(born["gate"].ravel(), born["rho"].ravel(), "x", color=BORN, markersize=3.5, clip_on=False)
    for layer in range(layers):
        at = (found[name][:, layer].ravel() for name in ("gate", "rho"))
        ax.plot(*at, "o", color=_layer_color(layer, layers), markersize=3.2, alpha=0.8, markeredgewidth=0)
    ax.set(xlabel="gate: mass on the context (0 to 1)", xlim=(0, 1), ylim=(0, 1))


def _layer_color(layer: int, layers: int) -> tuple:
    return mpl.colormaps["viridis"](0.15 + 0.7 * layer / max(layers - 1, 1))


def _legend(result: Result) -> list[Line2D]:
    def key(label: str, color, marker: str, **options) -> Line2D:
        return Line2D([], [], color=color, marker=marker, linestyle="none", markersize=4.5, label=label, **options)

    layers = result.arrays["rho (context, seed, layer, head)"].shape[2]
    handles = [key(name, *style) for name, style in _styles(result.table).items()]
    handles.append(Line2D([], [], color=COLORS["null"], linewidth=0.8, label="none"))
    ends = [("head, first layer", 0), ("head, last layer", layers - 1)] if layers > 1 else [("head", 0)]
    handles += [key(label, _layer_color(layer, layers), "o") for label, layer in ends]
    return [*handles, key("head, untrained", BORN, "x")]


# The caption --------------------------------------------------------------------------------------


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["curry_one_context"]
    config, table = result.run["config"], result.table
    n, held = table.seed.nunique(), sorted({table.queries.min(), table.queries.max()})
    sources = {"own": "the model's own samples behind the context", "uniform": "uniform tokens"}
    queries = config["queries"]
    told = [_told(result, column, name) for column, name in enumerate(result.run["contexts"])]
    reasons: dict[str, list[str]] = {}
    for label, why in result.run["refused"].items():
        reasons.setdefault(why, []).append(label)
    refused = [f"{', '.join(labels)} ({why})" for why, labels in reasons.items()]
    return (
        f"{_subject(config)}, {n} seed{'s' if n > 1 else ''} (faint; large: means), on "
        f"{' to '.join(map(str, held))} held-out queries of {queries['length']} tokens, {sources[queries['source']]}. "
        f"Rows: share of KL(oracle, curried) removed against bytes kept beside the weights and against build cost, a "
        f"token through the model forward 1, backward 2 (dashed: {ENOUGH:.0%}); error of the stream behind every "
        f"attention and block; and per head, rho against gate, crosses before training. Numbers at kv_r: pairs. Below "
        f"{FLOOR} and above {CEILING} values stand on the edge. {' '.join(told)}"
        + (f" Not drawn: {'; '.join(refused)}." if refused else "")
    )


def _subject(config: Mapping) -> str:
    if isinstance(config["model"], str):
        return f"One prompt curried into {Path(config['model']).name}"
    if config["prompt"]:
        return f"One prompt curried into a transformer trained on {config['task']['n_chains']} chains, dice and copies"
    return (
        f"Contexts of {config['context_length']} tokens curried into transformers of {config['model']['n_layers']} "
        f"layers trained on a mixture of {config['task']['n_chains']} chains, two dice and copied words"
    )


def _told(result: Result, column: int, name: str) -> str:
    rows = result.table[result.table.context == name]
    mean = rows.groupby("method")[["share", "context_share", "kl", "baseline_kl", "entity_error"]].mean()
    start = f"{name[0].upper()}{name[1:]}, {mean.baseline_kl.iloc[0]:.3f} nats without the context: {verdict(rows)}"
    rho = result.arrays["rho (context, seed, layer, head)"][column, :, -1]
    born = result.arrays["untrained rho (context, seed, layer, head)"][column, :, -1]
    end = f"; rho of the last layer {rho.mean():.2f}, untrained {born.mean():.2f}."
    if mean.share.isna().all():
        return start + end
    nulls = mean.share.reindex(SHIFTS).dropna()
    pairs = rows[rows.family == "learned pairs"].groupby("r").share.mean()
    found = [f"best null {nulls.idxmax()} {nulls.max():.2f}"] if len(nulls) else []
    if "sink" in mean.index:
        found += [f"sink {mean.share['sink']:.2f} (entity error {mean.entity_error['sink']:.2f})"]
        found += [f"{who} {mean.share[who]:.2f}" for who in STRANGERS]
        found += [f"sink's context-specific share {mean.context_share['sink']:.2f}"]
    if len(pairs):
        found += [f"{pairs.index[0]} to {pairs.index[-1]} pairs {pairs.iloc[0]:.2f} to {pairs.iloc[-1]:.2f}"]
    return f"{start} ({', '.join(found)}){end}"
