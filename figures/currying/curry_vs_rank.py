"""How many pairs and how much rank a context needs, and the law that copying needs a pair for every fact."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.core.results import Result
from figures import parts

NEEDS = ("curry_vs_rank",)
ENOUGH = 0.9  # of the KL removed, as in r_90
FLOOR = -0.25  # of shares; what lies below is drawn on the edge
NULLS = ("bias", "steer", "bigram_shift", "sibling", "wrong task")
PAIRS, LORA, TRUNCATED = "kv_r", "lora", "lsq_o"
COPY = "copy "
# Colour and marker of a source: copies by one hue.
STYLES = {
    "copy 2": ("C5", "o"),
    "copy 4": ("C0", "o"),
    "copy 8": ("#00305a", "o"),
    "fresh": ("C2", "s"),
    "chain 0": ("C1", "^"),
    "biased die": ("C4", "D"),
    "K=4": ("C3", "v"),
}
LABELS = {"fresh": "fresh chain", "K=4": "chain of a pool of 4"}


def draw(tables: Mapping[str, Result]) -> Figure:
    """Share against pairs; r_90 against facts; nulls; share against the rank of W', fitted and truncated."""
    table, config = tables["curry_vs_rank"].table, tables["curry_vs_rank"].run["config"]
    figure, axes = parts.sheet(2, 3, height=5.0)
    _curves(axes[0, 0], table, PAIRS)
    axes[0, 0].set(xlabel="key-value pairs r", ylabel="share of the KL removed")
    axes[0, 0].set_xticks(range(1, int(table[table.method == PAIRS].r.max()) + 1, 2))
    _law(axes[0, 1], table, config["net"]["model"]["n_heads"])
    _nulls(axes[0, 2], table)
    for ax, method, label in zip(axes[1], (LORA, TRUNCATED), ("fitted (lora)", "truncated (lsq_o)"), strict=False):
        _curves(ax, table, method)
        ranks = sorted(table[table.method == method].r.unique())
        ax.set_xscale("log")
        ax.set_xticks(ranks, ranks)
        ax.minorticks_off()
        ax.set_xlabel(f"rank of W' - W, {label}")
    axes[1, 0].set_ylabel("share of the KL removed")
    axes[1, 2].axis("off")
    axes[1, 2].legend(handles=_legend(table), loc="center", fontsize=7.5)
    for ax, letter in zip(axes.flat, "abcde", strict=False):
        parts.panel_letter(ax, letter)
    figure.suptitle(message(table), fontsize=9)
    return figure


def message(table: pd.DataFrame) -> str:
    """What copied words and known sources take, in numbers."""
    copied, others = _sorted_out(table)
    parts_of = []
    if copied.facts.nunique() > 1:
        parts_of.append(f"Copying takes {_slope(copied):.1f} pairs per further fact")
    if len(others):
        median = others.enough.median()
        parts_of.append(f"a known source {median:g} pair{'s' if median != 1 else ''} in all")
    return ", ".join(parts_of)


def _sorted_out(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Contexts, one row each: copied words, and those of a known source."""
    each = _contexts(table)
    copied = each.source.str.startswith(COPY)
    return each[copied], each[~copied & (each.source != "fresh")]


def _contexts(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table.method == PAIRS) & (table.r == 1)]


def _slope(copied: pd.DataFrame) -> float:
    return float(np.polyfit(copied.facts, copied.enough, 1)[0])


def _style(source: str) -> tuple[str, str]:
    return STYLES.get(source, ("0.4", "P"))


def _sources(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table.source))


def _curves(ax: Axes, table: pd.DataFrame, method: str) -> None:
    rows = table[table.method == method]
    for source in _sources(rows):
        color, marker = _style(source)
        by_seed = rows[rows.source == source].groupby(["seed", "r"]).share.mean().unstack().clip(lower=FLOOR)
        if len(by_seed) > 1:
            ax.plot(by_seed.columns, by_seed.T, color=color, linewidth=0.5, alpha=0.35, zorder=2)
        ax.plot(by_seed.columns, by_seed.mean(), color=color, marker=marker, markersize=3, linewidth=1.3, zorder=3)
    ax.axhline(ENOUGH, color="0.3", linestyle=(0, (4, 2)), linewidth=0.8, zorder=1)
    ax.set_ylim(FLOOR, 1.03)


def _law(ax: Axes, table: pd.DataFrame, n_heads: int) -> None:
    each = _contexts(table)
    most = int(table[table.method == PAIRS].r.max())
    sources = _sources(each)
    shifts = np.linspace(-0.24, 0.24, len(sources)) if len(sources) > 1 else [0.0]
    for source, shift in zip(sources, shifts, strict=True):
        color, marker = _style(source)
        rows = each[each.source == source]
        for found, face in ((rows[rows.enough <= most], color), (rows[rows.enough > most], "white")):
            if len(found):
                aside = 0.06 * (found.seed.rank(method="dense") - (each.seed.nunique() + 1) / 2)
                style = {"s": 15, "marker": marker, "facecolors": face, "edgecolors": color, "linewidths": 0.8}
                at = found.enough + aside.clip(-0.3, 0.3)
                ax.scatter(found.facts + shift, at, alpha=0.8, zorder=3, **style)
    end = max(each.facts.max(), most) + 1
    parts.theory(ax, [0, end], [0, end], "facts", at=0.8)
    parts.theory(ax, [0, end], [0, end / n_heads], "facts / heads", at=0.88)  # heads have pairs of their own
    ax.set(xlabel="facts: tokens that something follows", ylabel=r"pairs for 90%, $r_{90}$")
    ax.set(xlim=(0, end + 0.5), ylim=(0, most + 2))
    ax.set_xticks(range(0, int(end) + 1, 2))
    ax.set_yticks([*range(0, most, 3), most + 1], [*range(0, most, 3), f">{most}"])


def _nulls(ax: Axes, table: pd.DataFrame) -> None:
    sources = _sources(table)
    shifts = np.linspace(-0.3, 0.3, len(sources)) if len(sources) > 1 else [0.0]
    for at, null in enumerate(NULLS):
        ax.axhline(at + 0.5, color="0.9", linewidth=0.6, zorder=0)
        for source, shift in zip(sources, shifts, strict=True):
            color, marker = _style(source)
            share = table[(table.method == null) & (table.source == source)].groupby("seed").share.mean().dropna()
            if len(share):
                shown, place = share.clip(lower=FLOOR), at + shift
                ax.plot([shown.min(), shown.max()], [place, place], color=color, linewidth=0.8, alpha=0.6)
                mean = max(share.mean(), FLOOR)
                ax.plot([mean], [place], marker=marker, color=color, markersize=3, linestyle="none", clip_on=False)
    ax.axvline(ENOUGH, color="0.3", linestyle=(0, (4, 2)), linewidth=0.8, zorder=1)
    ax.set_yticks(range(len(NULLS)), [null.replace("_", "\n").replace(" ", "\n") for null in NULLS], fontsize=7)
    ax.set(xlim=(FLOOR, 1.03), ylim=(len(NULLS) - 0.5, -0.5), xlabel="share of the KL removed")


def _legend(table: pd.DataFrame) -> list[Line2D]:
    handles = []
    for source in _sources(table):
        color, marker = _style(source)
        label = LABELS.get(source, source)
        handles.append(Line2D([], [], color=color, marker=marker, markersize=4, linewidth=1.3, label=label))
    most = int(table[table.method == PAIRS].r.max())
    open_mark = {"marker": "o", "markerfacecolor": "white", "linestyle": "none", "markersize": 4}
    handles.append(Line2D([], [], color="0.4", label=f"more than {most} pairs (b)", **open_mark))
    return [
        *handles,
        Line2D([], [], color="0.3", linestyle=(0, (4, 2)), linewidth=0.8, label=f"{ENOUGH:.0%}; theory (b)"),
    ]


# The caption --------------------------------------------------------------------------------------


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["curry_vs_rank"]
    config, table = result.run["config"], result.table
    n, each = table.seed.nunique(), _contexts(table)
    copied, _ = _sorted_out(table)
    most = int(table[table.method == PAIRS].r.max())
    told = [_told(source, table[table.source == source], most) for source in _sources(table)]
    law = f"; on copied words it rises by {_slope(copied):.2f} a fact" if copied.facts.nunique() > 1 else ""
    return (
        f"Contexts of transformers of {config['net']['model']['n_layers']} layers, {config['contexts']} a source for "
        f"each of {n} seed{'s' if n > 1 else ''} (thin; thick: means), on {table.queries.min()} to "
        f"{table.queries.max()} held-out queries of the model's own. Copied words have distinct letters, so that "
        f"facts are the period. (a) Share of KL(oracle, curried) removed by r learned key-value pairs, each number "
        f"started from the one before, {config['steps']} steps of Adam each (dashed: {ENOUGH:.0%}). (b) The least r "
        f"that removes {ENOUGH:.0%}, one point for each of {len(each)} contexts (shifted a little by source), beside "
        f"r = facts, and facts over heads, since every head has pairs of its own{law}. (c) Nulls "
        f"(lines: range over seeds), and sink's W' of a sibling context and of another "
        f"source's. (d) W' of rank r fitted by {config['steps']} steps, the best on the fit queries of all ranks so "
        f"far. (e) Least squares for W_O, cut to rank r. Below {FLOOR} values stand on the edge. {' '.join(told)}"
    )


def _told(source: str, rows: pd.DataFrame, most: int) -> str:
    each = _contexts(rows)
    share = rows[rows.method == PAIRS].groupby("r").share.mean()
    start = f"{LABELS.get(source, source)[0].upper()}{LABELS.get(source, source)[1:]}"
    if share.isna().all():
        return f"{start}: says almost nothing."
    median, beyond = each.enough.median(), int((each.enough > most).sum())
    facts = f"{each.facts.min()}" if each.facts.nunique() == 1 else f"{each.facts.min()} to {each.facts.max()}"
    best = rows[rows.method.isin(NULLS[:3])].groupby("method").share.mean()
    fitted = rows[rows.method == LORA].groupby("r").share.mean()
    far = f" ({beyond} of {len(each)} beyond {most})" if beyond else ""
    pairs = f"1 to {most} pairs {share.iloc[0]:.2f} to {share.iloc[-1]:.2f}"
    rank = f"rank {fitted.index[0]} to {fitted.index[-1]} {fitted.iloc[0]:.2f} to {fitted.iloc[-1]:.2f}"
    null = f"best null {best.idxmax()} {best.max():.2f}"
    return f"{start}, {facts} facts: median {median:g} pairs{far}, {pairs}, {rank}, {null}."
