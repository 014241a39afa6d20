"""How far W' lies: KL and entity error along every way from W, what outputs hide, and how alike ends are."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from analyses.core.results import Result
from figures import parts

NEEDS = ("curry_vs_distance",)
ENOUGH = 0.9  # of the KL
FLOOR, CEILING = -0.5, 2.0  # of shares and entity errors; what lies beyond stands on the edge
NEAREST, FURTHEST = 2.0**-8.5, 4.0  # distances drawn
BEYOND = 1.0  # what the study says where nothing reaches ENOUGH
NULLS = ("bias", "steer", "bigram_shift", "sibling")
NULL, CLOSED, FITTED, STEP, OUTPUT = "0.55", "C0", "C1", "C3", "k"
# path and method -> colour, marker, label; lines join points of one path, in the order of `at`
LINES = {
    ("alpha", "sink"): (CLOSED, "", "W + α dW, sink"),
    ("alpha", "lsq"): (FITTED, "", "W + α dW, lsq"),
    ("length", "gradient"): (STEP, "", "steps down the gradient"),
    ("reg", "lsq"): (FITTED, "s", "lsq, more and more penalty"),
}
POINTS = {
    ("", "sink"): (CLOSED, "o", "sink"),
    ("", "lsq_o"): (CLOSED, "s", "lsq_o"),
    ("rank", "lora"): (FITTED, "D", "lora, rank 1 and 4"),
    ("", "child"): (FITTED, "*", "child (fine-tuned)"),
    ("", "gradient"): (STEP, "o", "gradient, best step"),
    ("", "distill_gradient"): (STEP, "^", "distillation gradient, best step"),
}
DESCENTS = {"entity": (FITTED, "fitted to entities"), "kl": (OUTPUT, "fitted to KL")}
PAIRS = {
    "kl from none and kl from sink": "KL fits: none, sink",
    "entity from none and entity from sink": "entity fits: none, sink",
    "entity from none and kl from none": "entity fit, KL fit",
    "entity from none and sink": "entity fit, sink",
    "entity from none and child": "entity fit, child",
}
ERRORS = (0.2, 0.5, 1.0, 2.0, 5.0)  # ticks


def draw(tables: Mapping[str, Result]) -> Figure:
    """Per context a column: share and entity error against distance; entity error against KL; cosines."""
    result = tables["curry_vs_distance"]
    names = list(result.run["contexts"])
    figure, grid = parts.sheet(4, len(names), height=8.6, sharey="row", height_ratios=(1.25, 1, 1.1, 0.9))
    for column, name in enumerate(names):
        rows = result.table[result.table.context == name]
        _against_distance(grid[0, column], rows, "share")
        _against_distance(grid[1, column], rows, "entity_error")
        _descents(grid[2, column], rows)
        _likeness(grid[3, column], result, column)
        grid[0, column].set_title(f"{name}:\n{verdict(result, column)}", fontsize=8)
    for row, label in enumerate(("share of the KL removed", "entity error", "entity error")):
        grid[row, 0].set_ylabel(label)
    for ax, letter in zip(grid.flat, "abcdefghijklmnopqrstuvwxyz", strict=False):
        parts.panel_letter(ax, letter)
    figure.legend(handles=_legend(), loc="outside upper center", ncols=3, fontsize=7, columnspacing=1.0)
    return figure


def verdict(result: Result, column: int) -> str:
    """Where 90 % of the KL is first gone, in the median of the seeds where it ever is."""
    least = _least(result)[column]
    reached = least[least < BEYOND]
    where = f"90 % at {np.median(reached):.2g} |W|" if len(reached) else "90 % nowhere"
    return f"{where}\n({len(reached)} of {len(least)} seed{'s' if len(least) > 1 else ''})"


def _least(result: Result) -> np.ndarray:
    """The least distance, (context, seed)."""
    return result.arrays["least distance (context, seed)"]


def _against_distance(ax: Axes, rows: pd.DataFrame, quality: str) -> None:
    low, high = (FLOOR, 1.0) if quality == "share" else (0.0, CEILING)
    shown = rows.assign(drawn=rows[quality].clip(low, high), x=rows.distance.clip(NEAREST, FURTHEST))
    for (path, method), (color, marker, _) in LINES.items():
        mine = shown[(shown.path == path) & (shown.method == method) & (shown.distance > 0)]
        for _, one in mine.groupby("seed"):
            ax.plot(one.x, one.drawn, color=color, linewidth=0.5, alpha=0.35, zorder=2)
        mean = mine.groupby("at")[["x", "drawn"]].mean()
        dashed = "--" if path == "reg" else "-"
        ax.plot(mean.x, mean.drawn, dashed, color=color, marker=marker, markersize=3, linewidth=1.3, zorder=3)
    for (path, method), (color, marker, _) in POINTS.items():
        mine = shown[(shown.path == path) & (shown.method == method) & (shown.distance > 0)]
        if mine.empty:  # the best step was none; a line without points would take up the whole sheet
            continue
        ax.plot(mine.x, mine.drawn, marker, color=color, markersize=2, alpha=0.4, markeredgewidth=0, clip_on=False)
        mean = mine.groupby(mine["at"].fillna(0))[["x", "drawn"]].mean()
        face = "white" if marker == "^" else color
        size = 7 if marker == "*" else 4.5
        ax.plot(mean.x, mean.drawn, marker, color=color, markerfacecolor=face, markersize=size, clip_on=False, zorder=4)
    nulls = rows[rows.method.isin(NULLS)].groupby("method")[quality].mean()
    for value in nulls:
        ax.axhline(np.clip(value, low, high), color=NULL, linewidth=0.7, zorder=1)
    if quality == "share":
        ax.axhline(ENOUGH, color="0.3", linestyle=(0, (4, 2)), linewidth=0.8, zorder=1)
    ax.set_xscale("log")
    ax.set_xlim(NEAREST, FURTHEST)
    ax.set_ylim(low, high * 1.05)
    ax.set_xlabel("distance |dW| / |W|")


def _descents(ax: Axes, rows: pd.DataFrame) -> None:
    """Entity error against KL along both descents, from either start."""
    descents = rows[rows.path == "steps"]
    for method, (color, _) in DESCENTS.items():
        for start, line in (("none", "-"), ("sink", (0, (2, 1)))):
            mine = descents[(descents.method == method) & (descents.start == start)].sort_values("at")
            for _, one in mine.groupby("seed"):
                ax.plot(one.kl, one.entity_error, color=color, linestyle=line, linewidth=0.5, alpha=0.35)
            logs = np.log(mine.set_index("at")[["kl", "entity_error"]]).groupby(level=0).mean()
            mean = np.exp(logs)
            ax.plot(mean.kl, mean.entity_error, color=color, linestyle=line, marker="o", markersize=2.2, linewidth=1.3)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_yticks(ERRORS, [f"{error:g}" for error in ERRORS])
    ax.xaxis.set_major_locator(LogLocator(numticks=4))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(*_decades(descents.kl))
    ax.set_xlabel("KL to the oracle (nats)")


def _decades(values: pd.Series) -> tuple[float, float]:
    """Limits that hold a tick or more on a logarithmic axis."""
    low, high = np.log10(values.min()), np.log10(values.max())
    return 10 ** min(np.floor(low + 0.3), low - 0.1), 10 ** max(np.ceil(high - 0.3), high + 0.1)


def _likeness(ax: Axes, result: Result, column: int) -> None:
    """Cosines of pairs of W' - W: filled in weights, hollow in heads' QK and OV."""
    found = result.arrays["cosine, gauge-free cosine (context, seed, pair, measure)"][column]
    names = list(result.run["pairs"])
    for place, name in enumerate(PAIRS):
        values = found[:, names.index(name)]
        for measure, (face, shift) in enumerate(((OUTPUT, -0.15), ("white", 0.15))):
            at = np.full(len(values), place + shift)
            style = {"markersize": 3.2, "markeredgewidth": 0.7, "clip_on": False}
            ax.plot(values[:, measure], at, "o", color=OUTPUT, markerfacecolor=face, **style)
    ax.axvline(0, color=NULL, linewidth=0.7, zorder=0)
    ax.set_yticks(range(len(PAIRS)), list(PAIRS.values()), fontsize=6.5)
    ax.set(xlim=(-0.2, 1), ylim=(len(PAIRS) - 0.5, -0.5), xlabel="cosine of two dW")


def _legend() -> list[Line2D]:
    handles = []
    for (path, _), (color, marker, label) in LINES.items():
        line = "--" if path == "reg" else "-"
        handles.append(Line2D([], [], color=color, marker=marker, linestyle=line, markersize=3.5, label=label))
    for color, marker, label in POINTS.values():
        face, size = ("white" if marker == "^" else color), (7 if marker == "*" else 4.5)
        style = {"markerfacecolor": face, "markersize": size, "linestyle": "none"}
        handles.append(Line2D([], [], color=color, marker=marker, label=label, **style))
    handles.append(Line2D([], [], color=NULL, linewidth=0.8, label="bias, steer, bigram_shift, sibling"))
    handles += [Line2D([], [], color=color, label=label) for color, label in DESCENTS.values()]
    handles.append(Line2D([], [], color=OUTPUT, linestyle=(0, (2, 1)), label="the same, starting at sink"))
    for face, label in ((OUTPUT, "cosine of weights"), ("white", "of heads' QK and OV")):
        style = {"markerfacecolor": face, "markersize": 3.5, "linestyle": "none"}
        handles.append(Line2D([], [], color=OUTPUT, marker="o", label=label, **style))
    return handles


# The caption --------------------------------------------------------------------------------------


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["curry_vs_distance"]
    config, table = result.run["config"], result.table
    n, held = table.seed.nunique(), sorted({table.queries.min(), table.queries.max()})
    ratio = np.exp(result.arrays["ln entity error in KL over in entities, at equal KL (context, seed, start)"].mean(1))
    told = [_told(result, column, name, ratio[column]) for column, name in enumerate(result.run["contexts"])]
    return (
        f"Contexts of {config['context_length']} tokens, {n} seed{'s' if n > 1 else ''} (thin and small; bold: means), "
        f"measured on {' to '.join(map(str, held))} held-out queries of {config['query_length']} tokens, the model's "
        f"own samples. Distances are over W_Q, W_K, W_V, W_O; grey: nulls, without distance. Rows: share of KL(oracle, "
        f"curried) removed (dashed: {ENOUGH:.0%}) and entity error along every way; entity error where a fit of the KL "
        f"alone and one of the entities have the same KL; cosines between ends. Below {FLOOR:g} and above {CEILING:g} "
        f"values stand on the edge. {' '.join(told)}"
    )


def _told(result: Result, column: int, name: str, ratio: np.ndarray) -> str:
    rows, least = result.table[result.table.context == name], _least(result)[column]
    share = rows[rows.path == ""].groupby("method").share.mean()
    best = share.reindex(list(NULLS)).idxmax()
    reached = least[least < BEYOND]
    of = f"in {len(reached)} of {len(least)} seed{'s' if len(least) > 1 else ''}"
    where = f"90 % is gone {of}" + (
        f", first at {reached.min():.2g} to {reached.max():.2g} |W|" if len(reached) else ""
    )
    return (
        f"{name[0].upper()}{name[1:]}, {rows.baseline_kl.mean():.2f} nats without the context: {where}; sink "
        f"{share['sink']:.2f}, best null {best} {share[best]:.2f}, wrong task {share['wrong task']:.1f}, best step "
        f"down the gradient {share['gradient']:.2f}; at equal KL the KL fit's entity error is {ratio[0]:.2f} (from "
        f"none) and {ratio[1]:.2f} (from sink) times that of the entity fit."
    )
