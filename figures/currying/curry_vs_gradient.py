"""Is W' a gradient step: shares of every step beside W', what lies near the gradient, and where steps stop working."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.core.results import Result
from figures import parts

NEEDS = ("curry_vs_gradient",)
FLOOR = -0.5  # of shares; what lies below stands on the edge
NULL, CLOSED, STEP, IDEAL = "0.55", "C0", "C3", "C4"
# (kind, method) -> label, from top to bottom; several steps are put in where they were taken
ARMS = {
    ("method", "sink"): "sink",
    ("method", "lsq_o"): "lsq_o",
    ("distilled", "plain"): "KL step, plain",
    ("distilled", "rms"): "KL step, rms",
    ("distilled", "by matrix"): "KL step, by matrix",
    ("step", "plain"): "step, plain",
    ("step", "sign"): "step, sign",
    ("step", "rms"): "step, rms",
    ("step", "fisher"): "step, Fisher",
    ("step", "by matrix"): "step, by matrix",
    ("null", "bias"): "bias",
    ("null", "steer"): "steer",
    ("null", "bigram_shift"): "bigram_shift",
    ("null", "sibling"): "sibling",
    ("null", "wrong task"): "wrong task",
}
KINDS = {"method": CLOSED, "distilled": IDEAL, "step": STEP, "null": NULL}
AXES = {
    "gradient": (STEP, "the gradient"),
    "distill_gradient": (IDEAL, "the KL's gradient"),
    "random": (NULL, "random"),
}
CONTEXTS = ("C6", "C1", "C2", "C5", "#F0E442", "#882255")  # in the order of the config; none is of KINDS
MARKERS = "^so"  # of context lengths, the longest last


def draw(tables: Mapping[str, Result]) -> Figure:
    """Per context: shares of steps, and the best within an angle; below: outputs, and two maps of where steps work."""
    result = tables["curry_vs_gradient"]
    table, names = result.table, list(result.run["contexts"])
    longest = table[table.length == table.length.max()]
    figure, grid = parts.sheet(3, max(len(names), 4), height=7.9, height_ratios=(1.75, 1, 1.1))
    for column, name in enumerate(names):
        rows = longest[longest.context == name]
        _arms(grid[0, column], rows, first=column == 0)
        _cone(grid[1, column], rows, first=column == 0)
        grid[0, column].set_title(f"{name}:\n{verdict(rows)}", fontsize=8)
    for ax in grid[:2, len(names) :].flat:
        ax.set_visible(False)
    _outputs(grid[2, 0], longest, names)
    _map(grid[2, 1], table, names, "bias", "share of the null `bias`")
    _map(grid[2, 2], table, names, "rho", "query dependence, $\\rho$")
    _lengths(grid[2, 3], table, names)
    shown = [ax for ax in grid.flat if ax.get_visible()]
    for ax, letter in zip(shown, "abcdefghijklmnopqrstuvwxyz", strict=False):
        parts.panel_letter(ax, letter)
    figure.legend(handles=_legend(table, names), loc="outside upper center", ncols=4, fontsize=7, columnspacing=1.6)
    return figure


def verdict(rows: pd.DataFrame) -> str:
    """What the best step does of what sink does, means over seeds."""
    best, sink = _best(rows).mean(), _shares(rows, "method", "sink").mean()
    return f"best step {best:.2f},\nsink {sink:.2f}"


def _shares(rows: pd.DataFrame, kind: str, method: str) -> pd.Series:
    """Shares by seed."""
    return rows[(rows.kind == kind) & (rows.method == method)].set_index("seed").share


def _best(rows: pd.DataFrame, kind: str = "step") -> pd.Series:
    """The largest share of a step, 0 for none, by seed."""
    return rows[rows.kind == kind].groupby("seed").share.max().clip(lower=0)


def _arms(ax: Axes, rows: pd.DataFrame, first: bool) -> None:
    arms = dict(ARMS)
    many = sorted((m for m in rows[rows.kind == "step"].method.unique() if m.endswith(" steps")), key=_count)
    arms |= {("step", name): name for name in many}
    order = sorted(arms, key=lambda arm: list(KINDS).index(arm[0]))  # stable: within a kind as they stand
    for place, (kind, method) in enumerate(order):
        values = _shares(rows, kind, method).to_numpy()
        style = {"color": KINDS[kind], "clip_on": False, "zorder": 3}
        at = np.full(len(values), place)
        ax.plot(np.clip(values, FLOOR, 1), at, "o", markersize=2.4, alpha=0.5, markeredgewidth=0, **style)
        mean = float(np.clip(np.nanmean(values), FLOOR, 1)) if np.isfinite(values).any() else np.nan
        ax.plot([mean], [place], "|", markersize=8, markeredgewidth=1.6, **style)
    ax.axvline(0, color=NULL, linewidth=0.7, zorder=0)
    ax.set(xlim=(FLOOR, 1.02), ylim=(len(order) - 0.5, -0.5), xlabel="share of the KL")
    ax.set_yticks(range(len(order)), [arms[arm] for arm in order] if first else [], fontsize=6.5)


def _count(name: str) -> int:
    return int(name.split(" ")[0])


def _cone(ax: Axes, rows: pd.DataFrame, first: bool) -> None:
    """The best share within each angle, a thin line per seed."""
    cones = rows[rows.kind == "cone"].assign(drawn=rows.share.clip(lower=FLOOR))
    for name, (color, _) in AXES.items():
        mine = cones[cones.method == name].sort_values("angle")
        for _, one in mine.groupby("seed"):
            ax.plot(one.angle, one.drawn, color=color, linewidth=0.5, alpha=0.4)
        mean = mine.groupby("angle").drawn.mean()
        ax.plot(mean.index, mean, color=color, marker="o", markersize=2.5)
    sink = float(_shares(rows, "method", "sink").mean())
    ax.axhline(max(sink, FLOOR), color=CLOSED, linestyle=(0, (4, 2)), linewidth=0.9)
    ax.set(xlabel="angle to the direction", xlim=(0, 90), ylim=(-0.05, 1.02), xticks=(0, 30, 60, 90))
    ax.set_xticklabels(["0°", "30°", "60°", "90°"])
    if first:
        ax.set_ylabel("best share within")
    else:
        ax.set_yticklabels([])


def _outputs(ax: Axes, rows: pd.DataFrame, names: list[str]) -> None:
    """Cosine of the changes of the logits by a short step and by W'."""
    directions = rows[rows.kind == "direction"]
    for place, name in enumerate(names):
        for shift, (method, (color, _)) in zip((-0.2, 0, 0.2), AXES.items(), strict=True):
            mine = directions[(directions.context == name) & (directions.method == method)].curried_cosine
            ax.plot(mine, np.full(len(mine), place + shift), "o", color=color, markersize=3, clip_on=False)
    ax.axvline(0, color=NULL, linewidth=0.7, zorder=0)
    ax.set_yticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names], fontsize=6.5)
    ax.set(xlim=(-0.5, 1), ylim=(len(names) - 0.5, -0.5), xlabel="cosine of logit changes,\nshort step and W'")


def _points(table: pd.DataFrame, of: str) -> pd.DataFrame:
    """The best step's share beside `of`, by context, length and seed."""
    keys = ["context", "length", "seed"]
    best = table[table.kind == "step"].groupby(keys).share.max().clip(lower=0)
    if of == "rho":
        beside = table.groupby(keys).rho.first()
    else:
        beside = table[(table.kind == "null") & (table.method == of)].set_index(keys).share
    return pd.DataFrame({"best": best, "beside": beside}).dropna().reset_index()


def _map(ax: Axes, table: pd.DataFrame, names: list[str], of: str, label: str) -> None:
    lengths = sorted(table.length.unique())
    for (context, length), some in _points(table, of).groupby(["context", "length"]):
        color = CONTEXTS[names.index(context) % len(CONTEXTS)]
        marker = MARKERS[lengths.index(length) - len(lengths)]
        ax.plot(some.beside.clip(lower=FLOOR), some.best, marker, color=color, markersize=3.2, alpha=0.75,
                markeredgewidth=0, clip_on=False)  # fmt: skip
    if of == "bias":
        ax.plot([0, 1], [0, 1], color=NULL, linestyle=(0, (4, 2)), linewidth=0.9, zorder=1)
    ax.set(xlabel=label, ylabel="share of the best step", xlim=(0, 1), ylim=(-0.02, 1.02))


def _lengths(ax: Axes, table: pd.DataFrame, names: list[str]) -> None:
    """The best step's share over context lengths: thin seeds, bold mean; sink's mean dashed."""
    for name, color in zip(names, CONTEXTS, strict=False):
        rows = table[table.context == name]
        best = rows[rows.kind == "step"].groupby(["seed", "length"]).share.max().clip(lower=0).unstack()
        for _, one in best.iterrows():
            ax.plot(best.columns, one, color=color, linewidth=0.5, alpha=0.4)
        ax.plot(best.columns, best.mean(), color=color, marker="o", markersize=3)
        sink = rows[rows.method == "sink"].groupby("length").share.mean().clip(lower=FLOOR)
        ax.plot(sink.index, sink, color=color, linestyle=(0, (2, 1)), linewidth=0.9)
    ax.set(xlabel="context (tokens)", ylabel="share", ylim=(-0.1, 1.02))


def _legend(table: pd.DataFrame, names: list[str]) -> list[Line2D]:
    def key(label: str, color: str, marker: str = "o", line: object = "none", **look: str) -> Line2D:
        return Line2D([], [], color=color, marker=marker, linestyle=line, markersize=4, label=label, **look)

    handles = [key("W'", CLOSED), key("down the KL", IDEAL), key("down the context's loss", STEP), key("null", NULL)]
    handles.append(key("sink", CLOSED, "", (0, (4, 2))))
    handles += [key(name, color) for name, color in zip(names, CONTEXTS, strict=False)]
    lengths = sorted(table.length.unique())
    shapes = [MARKERS[i - len(lengths)] for i in range(len(lengths))]
    alone = {"markerfacecolor": "white"}  # a shape without a colour
    return handles + [key(f"{n} tokens", "0.3", shape, **alone) for n, shape in zip(lengths, shapes, strict=True)]


# The caption --------------------------------------------------------------------------------------


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["curry_vs_gradient"]
    config, table, names = result.run["config"], result.table, list(result.run["contexts"])
    longest = table[table.length == table.length.max()]
    n, held = table.seed.nunique(), sorted({table.queries.min(), table.queries.max()})
    told = " ".join(_told(longest[longest.context == name], name) for name in names)
    points = {of: _points(table, of) for of in ("bias", "rho")}
    rank = {of: some.best.corr(some.beside, method="spearman") for of, some in points.items()}
    return (
        f"Contexts of {table.length.max()} tokens, {n} seed{'s' if n > 1 else ''} (points and thin lines), on "
        f"{' to '.join(map(str, held))} held-out queries of {config['query_length']} tokens, the model's own samples; "
        f"every step has the size that is best on other queries. Top: shares of KL(oracle, curried); below {FLOOR:g} "
        f"values stand on the edge. Middle: the best update found within an angle of a direction (dashed: sink). "
        f"Bottom: cosine of logit changes; the best step's share against that of one logit vector and against rho, at "
        f"{', '.join(map(str, sorted(table.length.unique())))} tokens; and over length (dashed: sink). {told} Over all "
        f"contexts and lengths the best step's share has a rank correlation of {rank['bias']:.2f} with the bias's and "
        f"{rank['rho']:.2f} with rho."
    )


def _told(rows: pd.DataFrame, name: str) -> str:
    cones = rows[(rows.kind == "cone") & (rows.angle == 30)].groupby("method").share.mean()
    cosine = rows[(rows.kind == "direction") & (rows.method == "gradient")].curried_cosine.mean()
    near = (
        f"; within 30 degrees of the gradient {cones['gradient']:.2f}, of a random direction {cones['random']:.2f}"
        if len(cones)
        else ""
    )
    return (
        f"{name[0].upper()}{name[1:]}, {rows.baseline_kl.mean():.2f} nats: best step {_best(rows).mean():.2f}, step "
        f"down the KL {_best(rows, 'distilled').mean():.2f}, sink {_shares(rows, 'method', 'sink').mean():.2f}, bias "
        f"{_shares(rows, 'null', 'bias').mean():.2f}{near}; logit changes {cosine:.2f}."
    )
