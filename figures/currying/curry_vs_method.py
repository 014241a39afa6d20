"""Which null explains a task's contexts, and which method says the rest: three numbers per method and task."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.core.results import Result
from figures import parts

NEEDS = ("curry_vs_method",)
ENOUGH, MOST = 0.9, 0.75  # of the KL removed: what explains a context, and what nearly does
COLUMNS = ("share", "context_share", "entity_error")
LABELS = ("share of the KL removed", "share that is the context's own", "entity error")
ENDS = {"share": (-0.6, 1.0), "context_share": (-0.6, 1.0), "entity_error": (0.0, 2.5)}  # what is beyond: on the edge
# What a null says of a context that it explains; from knowing least to most.
MEANINGS = {
    "bias": "a marginal",
    "steer": "a vector",
    "bigram_shift": "a bigram law",
    "sibling": "its task",
}
OWN = "this very context"
NULLS = ("bias", "steer", "bigram_shift")
COLORS = {
    "null": "0.55",
    "exact": "k",
    "closed form": "C0",
    "descent": "C1",
    "learned pairs": "C2",
    "gradient": "C3",
}
SIBLING = "C4"
FIRST = ("none", *NULLS, "wrong task")  # the order of lines, from the top; then the table's


def draw(tables: Mapping[str, Result]) -> Figure:
    """A column per task under its verdict, a line per method: share, context's own share, entity error."""
    table = tables["curry_vs_method"].table
    sources, methods = list(dict.fromkeys(table.source)), order(table)
    figure, axes = parts.sheet(3, len(sources), height=1.2 + 0.34 * len(methods), sharey=True)
    for column, source in enumerate(sources):
        rows = table[table.source == source]
        for ax, what, label in zip(axes[:, column], COLUMNS, LABELS, strict=True):
            _panel(ax, rows, methods, what)
            ax.set_xlabel(label if column == len(sources) // 2 else "")
        axes[0, column].set_title(f"{source}:\n{verdict(rows)}", fontsize=8)
    for row, letter in zip(axes, "abc", strict=True):
        row[0].set_yticks(range(len(methods)), methods, fontsize=6)
        row[0].set_ylim(len(methods) - 0.4, -0.6)
        row[0].set_title(letter, loc="left", fontweight="bold", x=-0.9)
    figure.legend(handles=_legend(table), loc="outside upper center", ncols=5, fontsize=7, columnspacing=1.0)
    return figure


def order(table: pd.DataFrame) -> list[str]:
    """Nulls first, then the others in the order of the table."""
    there = list(dict.fromkeys(table.method))
    return [name for name in FIRST if name in there] + [name for name in there if name not in FIRST]


def verdict(rows: pd.DataFrame) -> str:
    """What the contexts of a task are: the meaning of the null that knows least and suffices in the mean over seeds."""
    mean = _explained(rows)
    if mean.isna().all():
        return "next to nothing"
    enough = [name for name in MEANINGS if mean[name] >= ENOUGH]
    if enough:
        return MEANINGS[enough[0]]
    best = max(MEANINGS, key=lambda name: mean[name])
    return f"mostly {MEANINGS[best]}" if mean[best] >= MOST else OWN


def _explained(rows: pd.DataFrame) -> pd.Series:
    """Mean share of every null, and of the sibling's W' by sink."""
    mean = rows.groupby("method").share.mean().reindex(list(NULLS))
    mean["sibling"] = rows[rows.method == "sink"].sibling_share.mean()
    return mean


def _panel(ax: Axes, rows: pd.DataFrame, methods: list[str], what: str) -> None:
    low, high = ENDS[what]
    by_seed = rows.groupby(["method", "family", "seed"], sort=False)[[what, "sibling_share"]].mean().reset_index()
    best = by_seed[by_seed.method.isin(NULLS)].groupby("method")[what].mean().max()
    if what == "share":
        ax.axvline(max(best, low), color=COLORS["null"], linewidth=0.8, zorder=1)
        ax.axvline(ENOUGH, color="0.3", linestyle=(0, (4, 2)), linewidth=0.8, zorder=1)
    elif what == "context_share":
        ax.axvline(0, color=COLORS["null"], linewidth=0.8, zorder=1)
    else:
        none = by_seed[by_seed.method == "none"][what].mean()
        ax.axvline(min(none, high), color=COLORS["null"], linewidth=0.8, zorder=1)
    for name, group in by_seed.groupby("method", sort=False):
        at = methods.index(name)
        if what == "share":
            _points(ax, group.sibling_share.to_numpy(), at, SIBLING, "D", (low, high))
        _points(ax, group[what].to_numpy(), at, COLORS[group.family.iloc[0]], "o", (low, high))
    for at in range(len(methods)):
        ax.axhline(at, color="0.93", linewidth=0.5, zorder=0)
    ax.set_xlim(low, high + 0.03 * (high - low))
    ax.set_xticks([0, 1, 2] if what == "entity_error" else [-0.5, 0, 0.5, 1])
    ax.tick_params(axis="x", labelsize=6.5)
    ax.tick_params(axis="y", length=0)


def _points(ax: Axes, values: np.ndarray, at: int, color: str, marker: str, ends: tuple[float, float]) -> None:
    """Seeds small, their mean large; open for a sibling's."""
    known = values[~np.isnan(values)]
    if not len(known):
        return
    seeds, mean = np.clip(known, *ends), float(np.clip(known.mean(), *ends))
    style = {"linestyle": "none", "marker": marker, "color": color, "clip_on": False}
    if marker == "o":
        ax.plot(seeds, np.full(len(seeds), at), markersize=2.2, markeredgewidth=0, alpha=0.45, zorder=3, **style)
        ax.plot([mean], [at], markersize=3.8, zorder=4, **style)
    else:
        ax.plot([seeds.min(), seeds.max()], [at, at], color=color, linewidth=0.9, alpha=0.6, zorder=2)
        ax.plot([mean], [at], markersize=3.2, markerfacecolor="white", markeredgewidth=0.8, zorder=3, **style)


def _legend(table: pd.DataFrame) -> list[Line2D]:
    families = [family for family in COLORS if family in set(table.family)]
    handles = [
        Line2D([], [], color=COLORS[one], marker="o", linestyle="none", markersize=4, label=one) for one in families
    ]
    style = {"marker": "D", "markerfacecolor": "white", "linewidth": 0.9, "markersize": 3.2}
    handles.append(Line2D([], [], color=SIBLING, label="the sibling's W', same method", **style))
    handles.append(Line2D([], [], color=COLORS["null"], linewidth=0.8, label="best null (a), none (c)"))
    return [*handles, Line2D([], [], color="0.3", linestyle=(0, (4, 2)), linewidth=0.8, label=f"{ENOUGH:.0%}")]


# The caption --------------------------------------------------------------------------------------


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["curry_vs_method"]
    config, table = result.run["config"], result.table
    n, contexts, low, high = table.seed.nunique(), config["contexts"], table.queries.min(), table.queries.max()
    told = [_told(source, rows) for source, rows in table.groupby("source", sort=False)]
    return (
        f"Contexts of {config['context_length']} tokens, {contexts} of each source for each of {n} "
        f"seed{'s' if n > 1 else ''} (small points: means over contexts; large: over seeds), in a transformer of "
        f"{config['net']['model']['n_layers']} layers trained on {config['net']['task']['n_chains']} chains, two dice, "
        f"copied words and a word that switches; {low} to {high} held-out queries of {config['query_length']} tokens. "
        f"(a) Share of KL(oracle, W') removed, and what the W' of another context of the same source removes by the "
        f"same method (diamonds, range over seeds); above, what a context is: the null that knows least and removes "
        f"{ENOUGH:.0%}, 'mostly' from {MOST:.0%}. (b) 1 - KL(W') / KL(the sibling's W'). (c) Error of the stream "
        f"behind every attention and block. Beyond {ENDS['share'][0]} and {ENDS['entity_error'][1]} values stand on "
        f"the edge. {' '.join(told)}"
    )


def _told(source: str, rows: pd.DataFrame) -> str:
    mean = rows.groupby("method")[["share", "context_share", "entity_error", "baseline_kl"]].mean()
    start = f"{source[0].upper()}{source[1:]} ({mean.baseline_kl.iloc[0]:.2f} nats without the context): "
    if mean.share.isna().all():
        return start + "next to nothing."
    explained = _explained(rows)
    nulls = ", ".join(f"{name} {explained[name]:.2f}" for name in (*NULLS, "sibling"))
    others = f"sink {mean.share['sink']:.2f}, its own share {mean.context_share['sink']:.2f}"
    pairs = [name for name in mean.index if name.startswith("kv_r")]
    more = f", {pairs[-1]} {mean.share[pairs[-1]]:.2f}" if pairs else ""
    uniform = f", on uniform queries {mean.share.get('sink, uniform queries', np.nan):.2f}"
    error = f", entity error {mean.entity_error['sink']:.2f}"
    return f"{start}{verdict(rows)} ({nulls}; {others}{uniform}{error}{more})."
