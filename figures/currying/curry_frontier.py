"""The frontier of putting a context away: KL left against bytes and build cost, entity error against bytes."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import offset_copy

from analyses.core.results import Result
from figures import parts

NEEDS = ("curry_frontier",)
ENOUGH = 0.9  # of the KL removed
FLOOR, CEILING = 1e-3, 3.0  # of the KL left; what lies beyond is drawn on the edge
LARGEST_ERROR = 1.6  # of entities
STRANGERS = ("sibling", "wrong task")
SHIFTS = ("bias", "steer", "bigram_shift")
# Colours and markers as in the figure of one context.
STYLES = {
    "kv": ("k", "o", "whole cache"),
    "sink": ("C0", "o", "sink"),
    "lsq_o": ("C0", "s", "lsq_o"),
    "attention_matching": ("C0", "D", "attention matching"),
    "kv_r": ("C2", "o", "learned pairs (kv_r)"),
    "lora": ("C1", "s", "lora"),
    "lsq": ("C1", "o", "lsq"),
    "gradient": ("C3", "o", "gradient, best step"),
    "sibling": ("0.55", "o", "sibling"),
    "wrong task": ("0.55", "s", "wrong task"),
    "bias": ("0.55", "D", "bias"),
    "steer": ("0.55", "^", "steer"),
    "bigram_shift": ("0.55", "v", "bigram_shift"),
}
SIZED = ("attention_matching", "kv_r", "lora")  # methods with an r
PREDICTED = (1.35, 37)  # one learned pair: the sink's KL over its own at most, its cost over the sink's


def draw(tables: Mapping[str, Result]) -> Figure:
    """Per source a column: KL left against bytes and against build cost, entity error against bytes."""
    result = tables["curry_frontier"]
    table = _first(result)
    names = list(dict.fromkeys(table.source))
    figure, axes = parts.sheet(3, len(names), height=6.9, sharey="row", sharex="row")
    best = _largest(table)
    for column, name in enumerate(names):
        mine, all_budgets = best[best.source == name], table[table.source == name]
        _against_bytes(axes[0, column], mine, "left", (FLOOR, CEILING))
        _against_cost(axes[1, column], all_budgets)
        _against_bytes(axes[2, column], mine, "entity_error", (0.0, LARGEST_ERROR))
        axes[0, column].set_title(f"{name}:\n{verdict(mine)}", fontsize=7.5)
    for row, label in enumerate(("share of the KL left", "share of the KL left", "entity error")):
        axes[row, 0].set_ylabel(label)
    for ax, letter in zip(axes.flat, "abcdefghijkl", strict=False):
        parts.panel_letter(ax, letter)
    figure.suptitle(message(result), fontsize=9)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=5, fontsize=7, columnspacing=1.0)
    return figure


def message(result: Result) -> str:
    """What the figure says: how often the least computing that suffices is a closed form."""
    table = _first(result)
    found = [_least(rows, "spent") for _, rows in table.groupby("source", sort=False)]
    closed = sum(one is not None and one[1] in ("closed form", "null") for one in found)
    return (
        f"Closed forms put {closed} of {len(found)} kinds of context away ({ENOUGH:.0%} of the KL), without any descent"
    )


def verdict(rows: pd.DataFrame) -> str:
    """The fewest bytes that remove `ENOUGH` of the KL in the mean over seeds."""
    if rows.share.isna().all():
        return "says almost nothing"
    found = _least(rows, "bytes")
    if found is None:
        return "nothing suffices"
    label = {"attention_matching": "kept key", "kv_r": "learned pair"}
    base, _, r = found[0].partition(" ")
    if base in label:
        return f"{r} {label[base]}{'s' if r != '1' else ''}"
    return {"sink": "a rank-one edit", "steer": "a steering vector", "bigram_shift": "a bigram shift"}.get(
        base, found[0]
    )


def _least(rows: pd.DataFrame, cost: str) -> tuple[str, str] | None:
    """Method and family of what costs least among those that remove enough; none if only the whole cache does."""
    mean = rows.groupby(["method", "family", "budget"])[["share", cost]].mean().reset_index()
    inside = mean[(mean.share >= ENOUGH) & (mean.family != "exact") & ~mean.method.isin(STRANGERS)]
    if inside.empty:
        return None
    one = inside.loc[inside[cost].idxmin()]
    return one.method, one.family


def _first(result: Result) -> pd.DataFrame:
    """First contexts, which have every budget, with the share that is left."""
    table = result.table[result.table.context == 0]
    return table.assign(left=1 - table.share, base=[_base(*pair) for pair in zip(table.method, table.r, strict=True)])


def _base(method: str, r: int) -> str:
    return method.removesuffix(f" {r}")


def _largest(table: pd.DataFrame) -> pd.DataFrame:
    """Every method at its largest budget."""
    return table.loc[table.groupby(["source", "seed", "method"]).budget.idxmax()]


def _against_bytes(ax: Axes, rows: pd.DataFrame, quality: str, ends: tuple[float, float]) -> None:
    low, high = ends
    drawn = rows[rows.bytes > 0]
    for base, (color, marker, _) in STYLES.items():
        mine = drawn[drawn.base == base]
        style = {"color": color, "marker": marker, "clip_on": False}
        ax.plot(mine.bytes, mine[quality].clip(low, high), linestyle="none", markersize=2, alpha=0.35,
                markeredgewidth=0, **style)  # fmt: skip
        mean = mine.groupby("r")[["bytes", quality]].mean()
        line = "-" if len(mean) > 1 else "none"
        ax.plot(mean.bytes, mean[quality].clip(low, high), linestyle=line, linewidth=0.8, markersize=4, zorder=4,
                **style)  # fmt: skip
        if base == "kv_r" and quality == "left":
            ends_of_it = mean.iloc[[0, -1]] if len(mean) > 1 else mean
            _name(ax, ends_of_it.bytes, ends_of_it[quality].clip(low, high), [str(r) for r in ends_of_it.index], color,
                  "below")  # fmt: skip

    _front(ax, drawn, "bytes", quality, ends)
    whole = rows[rows.method == "kv"].bytes.mean()
    ax.axvline(whole, color="0.3", linestyle=(0, (4, 2)), linewidth=0.8, zorder=1)
    nothing = rows[rows.method == "none"][quality].mean()
    ax.axhline(min(nothing, high), color="0.55", linewidth=0.8, zorder=1)
    ax.set(xscale="log", xlabel="bytes beside W")
    _shares(ax) if quality == "left" else ax.set_ylim(low, high + 0.05)


def _against_cost(ax: Axes, rows: pd.DataFrame) -> None:
    drawn = rows[(rows.spent > 0) & (rows.family != "exact")]
    for base, (color, marker, _) in STYLES.items():
        mine = drawn[drawn.base == base]
        style = {"color": color, "marker": marker, "clip_on": False}
        for r, one in mine.groupby("r"):
            mean = one.groupby("budget")[["spent", "left"]].mean()
            ax.plot(one.spent, one.left.clip(FLOOR, CEILING), linestyle="none", markersize=2, alpha=0.3,
                    markeredgewidth=0, **style)  # fmt: skip
            line = "-" if len(mean) > 1 else "none"
            ax.plot(mean.spent, mean.left.clip(FLOOR, CEILING), linestyle=line, linewidth=0.8, markersize=3.5,
                    zorder=4, **style)  # fmt: skip
            if base == "kv_r" and r in (1, rows[rows.method.str.startswith(base)].r.max()):
                _name(ax, mean.spent[-1:], mean.left[-1:].clip(FLOOR, CEILING), [str(r)], color, "right")
    _front(ax, drawn, "spent", "left", (FLOOR, CEILING))
    if rows.source.iloc[0] in ("chain 0", "biased die"):
        _predicted(ax, rows[rows.method == "sink"])
    ax.axhline(1.0, color="0.55", linewidth=0.8, zorder=1)
    ax.set(xscale="log", xlabel="build cost (token-forwards)")
    _shares(ax)


def _predicted(ax: Axes, sink: pd.DataFrame) -> None:
    """Where one learned pair was expected: at least 37 times the sink's cost, at most 35 % below its KL."""
    ratio, times = PREDICTED
    cost, left = sink.spent.mean(), sink.left.mean()
    ax.plot([cost, times * cost, times * cost], [left, left, left / ratio], color="0.3", linestyle=(0, (4, 2)),
            linewidth=1.0, zorder=2)  # fmt: skip


def _front(ax: Axes, rows: pd.DataFrame, cost: str, quality: str, ends: tuple[float, float]) -> None:
    """What nothing cheaper beats, exact ones included, as a staircase."""
    usable = rows[~rows.method.isin(STRANGERS)]
    mean = usable.groupby(["method", "budget"])[[cost, quality]].mean().sort_values(cost)
    mean = mean[mean[quality].notna()]
    lowest = mean[quality].cummin()
    ax.step(mean[cost], lowest.clip(*ends), where="post", color="k", linewidth=3.0, alpha=0.18, zorder=1.5)


def _name(ax: Axes, x: pd.Series, y: pd.Series, names: list[str], color: str, side: str) -> None:
    dx, dy, ha, va = {"below": (0, -3.5, "center", "top"), "above": (0, 3.5, "center", "bottom"),
                      "right": (3.5, 0, "left", "center")}[side]  # fmt: skip
    shifted = offset_copy(ax.transData, fig=ax.figure, x=dx, y=dy, units="points")
    for at, height, name in zip(x, y, names, strict=True):
        ax.text(at, height, name, transform=shifted, ha=ha, va=va, fontsize=5.5, color=color)


def _shares(ax: Axes) -> None:
    ax.set_yscale("log")
    ax.set_ylim(FLOOR * 0.8, CEILING * 1.1)
    ax.axhline(1 - ENOUGH, color="0.3", linestyle=(0, (1, 2)), linewidth=0.8, zorder=1)


def _legend() -> list[Line2D]:
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="-" if base in SIZED else "none", linewidth=0.8,
               markersize=4, label=label)
        for base, (color, marker, label) in STYLES.items()
    ]  # fmt: skip
    handles.append(Line2D([], [], color="0.55", linewidth=0.8, label="none"))
    handles.append(Line2D([], [], color="k", linewidth=3.0, alpha=0.18, label="front"))
    return handles


# The caption --------------------------------------------------------------------------------------


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["curry_frontier"]
    table, config, n = result.table, result.run["config"], result.table.seed.nunique()
    held = sorted({int(table.queries.min()), int(table.queries.max())})
    names, keys = dict.fromkeys(table.source), table.groupby("method")["keys"].first()
    told = " ".join(_told(table, name) for name in names)
    cache = int(table[table.method == "kv"].spent.iloc[0])
    budgets = ", ".join(f"{budget:,}".replace(",", " ") for budget in config["budgets"])
    return (
        f"Contexts of {config['context_length']} tokens curried into transformers of "
        f"{config['net']['model']['n_layers']} layers trained on a mixture of sources, {n} seed{'s' if n > 1 else ''} "
        f"(faint; large: means), the first context of each source, {' to '.join(map(str, held))} held-out queries of "
        f"{config['query_length']} tokens. Rows: share of the KL from the model with the context that is left, against "
        f"bytes beside the weights and against build cost, a token forward 1 and backward 2, tuning included (the "
        f"whole cache: {cache}); entity error against bytes. Titles: the fewest bytes that remove {ENOUGH:.0%} of the "
        f"KL. Fits have budgets of {budgets} token-forwards, joined in the middle row; above and below the largest. "
        f"Numbers: r, at the ends of the learned pairs. Grey staircase: what nothing cheaper beats. Vertical dashes: "
        f"the whole cache, which is exact and stands on the lower edge; bent dashes: where one learned pair was "
        f"expected from the sink, whose KL is at "
        f"most {PREDICTED[0]} times as large for 1/{PREDICTED[1]} of the cost; dots: {ENOUGH:.0%} removed. {told} "
        f"The last token of a query reads {keys['kv']} keys with the whole cache, {keys['sink']} behind an edit."
    )


def _told(table: pd.DataFrame, name: str) -> str:
    rows = table[(table.source == name) & (table.context == 0)]
    best = _largest(rows)
    share = best.groupby("method").share.mean()
    if share.isna().all():
        return f"{name[0].upper()}{name[1:]} says almost nothing."
    shifts = share.reindex(SHIFTS).dropna()
    found = [f"best null {shifts.idxmax()} {shifts.max():.2f}"]
    wanted = [
        "sibling",
        "sink",
        "kv_r 1",
        "attention_matching 1",
        "attention_matching 10",
        "kv_r 10",
        "lora 1",
        "lora 4",
    ]
    wanted += ["lsq", "gradient"]
    found += [f"{method} {share[method]:.2f}" for method in wanted if method in share]
    return f"{name[0].upper()}{name[1:]}, KL removed: {', '.join(found)}."
