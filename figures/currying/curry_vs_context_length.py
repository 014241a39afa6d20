"""Longer contexts: what a rank-one edit leaves of them, by source, beside nulls, rho and Bayes."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.core.results import Result
from figures import parts
from figures.currying.extent.styles import in_order, label, style

NEEDS = ("curry_vs_context_length",)
SHIFTS = ("bias", "steer", "bigram_shift")
FLOOR = -0.5  # of shares; what lies below is drawn on the edge
BEST = "best null"
METHODS = {"sink": ("C0", "-"), "lsq_o": ("C4", "-"), BEST: ("0.55", "--"), "sibling": ("C3", ":")}
POOLS = ("K=4", "fresh")


def draw(tables: Mapping[str, Result]) -> Figure:
    """Four panels of methods, a source each; what is left, rho and Bayes by source; and the pools."""
    table = with_best_null(tables["curry_vs_context_length"].table)
    figure, axes = parts.sheet(2, 4, height=4.9)
    sources = [one for one in in_order(table.source) if one not in POOLS]
    for ax, source in zip(axes[0], shown(sources), strict=False):
        _methods(ax, table[table.source == source])
        ax.set_title(title(table, source), fontsize=8)
    for ax in axes[0, len(shown(sources)) :]:
        ax.set_visible(False)
    axes[0, 0].set_ylabel("share of the KL removed")
    for source in sources:
        rows = table[(table.source == source) & (table.method == "sink")]
        _lines(axes[1, 0], rows, "kl", source)
        _lines(axes[1, 1], rows, "rho_last", source)
    born = table[table.method == "sink"].groupby(["n", "seed"]).untrained_rho_last.mean().groupby("n").mean()
    axes[1, 1].plot(born.index, born, color="0.6", linestyle="--", linewidth=0.9)
    axes[1, 0].set(ylabel="KL left by sink (nats)", yscale="log", title="what is left")
    axes[1, 1].set(ylabel=r"query dependence, $\rho$", title="dashes: untrained")
    _bayes(axes[1, 2], table, sources[0])
    _pools(axes[1, 3], table)
    for ax, letter in zip(axes.flat, "abcdefgh", strict=True):
        _length_axis(ax, table)
        ax.title.set_fontsize(8)
        parts.panel_letter(ax, letter)
    _legend(figure, sources)
    return figure


def with_best_null(table: pd.DataFrame) -> pd.DataFrame:
    """The table with one more method: the shift that removes most, in every context."""
    nulls = table[table.method.isin(SHIFTS)]
    best = nulls.loc[nulls.groupby(["source", "seed", "n"]).kl.idxmin()]
    return pd.concat([table, best.assign(method=BEST)], ignore_index=True)


def shown(sources: list[str]) -> list[str]:
    """The four that get a panel of their own: one of each kind where there are more."""
    return sources if len(sources) <= 4 else [one for one in sources if one != "copy 2"][:4]


def title(table: pd.DataFrame, source: str) -> str:
    """Whether sink leaves less of the longest context than of the shortest above one token, in the mean over seeds."""
    rows = table[(table.source == source) & (table.method == "sink") & (table.n > 1)]
    left = rows.groupby("n").kl.mean()
    change = left.iloc[-1] / left.iloc[0]
    word = "easier" if change < 0.8 else "harder" if change > 1.25 else "as hard"
    return f"{label(source).replace(' amid text', ' first')}:\n{word}"


def _methods(ax: Axes, rows: pd.DataFrame) -> None:
    for method, (color, line) in METHODS.items():
        wide = rows[rows.method == method].pivot(index="n", columns="seed", values="share").clip(lower=FLOOR)
        ax.plot(wide.index, wide, color=color, linewidth=0.5, alpha=0.35, linestyle=line)
        ax.plot(wide.index, wide.mean(axis=1), color=color, linewidth=1.4, linestyle=line, zorder=3)
    ax.axhline(0, color="0.85", linewidth=0.6, zorder=0)
    ax.set_ylim(FLOOR, 1.05)


def _lines(ax: Axes, rows: pd.DataFrame, column: str, source: str) -> None:
    wide = rows.pivot(index="n", columns="seed", values=column)
    look = style(source)
    ax.plot(wide.index, wide, color=look["color"], linewidth=0.4, alpha=0.3)
    mean = np.exp(np.log(wide).mean(axis=1)) if column == "kl" else wide.mean(axis=1)
    ax.plot(wide.index, mean, linewidth=1.1, markersize=4, zorder=3, **look)


def _bayes(ax: Axes, table: pd.DataFrame, source: str) -> None:
    rows = table[table.source == source]
    for method, color, line, name in (("none", "0.55", "--", "no context"), ("sink", "C0", "-", "W'"),
                                      ("oracle", "k", "-", "context")):  # fmt: skip
        wide = rows[rows.method == method].pivot(index="n", columns="seed", values="bayes_kl")
        ax.plot(wide.index, wide, color=color, linewidth=0.4, alpha=0.3, linestyle=line)
        ax.plot(wide.index, wide.mean(axis=1), color=color, linewidth=1.4, linestyle=line, label=name)
    ax.set(ylabel="KL from Bayes (nats)", title=label(source))
    ax.set_ylim(0, 1.45 * float(rows[rows.method.isin(["none", "sink", "oracle"])].bayes_kl.max()))
    ax.legend(loc="upper right", fontsize=6.5, ncols=1)


def _pools(ax: Axes, table: pd.DataFrame) -> None:
    for source in (one for one in POOLS if one in set(table.source)):
        rows = table[table.source == source]
        for method, line in (("sink", "-"), (BEST, "--")):
            wide = rows[rows.method == method].pivot(index="n", columns="seed", values="share").clip(lower=FLOOR)
            look = {"color": style(source)["color"], "linestyle": line}
            ax.plot(wide.index, wide, linewidth=0.4, alpha=0.3, **look)
            ax.plot(wide.index, wide.mean(axis=1), linewidth=1.3, zorder=3, **look,
                    label=label(source) if method == "sink" else None)  # fmt: skip
    ax.axhline(0, color="0.85", linewidth=0.6, zorder=0)
    ax.set(ylim=(FLOOR, 1.75), yticks=[-0.5, 0, 0.5, 1], ylabel="share of the KL removed", title="pools, by sink")
    ax.legend(loc="upper right", fontsize=6.5)


def _length_axis(ax: Axes, table: pd.DataFrame) -> None:
    ax.set(xscale="log", xlabel="tokens of context")
    ticks = [n for n in (1, 2, 5, 10, 20) if table.n.min() <= n <= table.n.max()]
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.set_xticks([], minor=True)


def _legend(figure: Figure, sources: list[str]) -> None:
    handles = [Line2D([], [], color=color, linestyle=line, label=name) for name, (color, line) in METHODS.items()]
    for source in sources:
        handles.append(Line2D([], [], label=label(source).replace(" amid text", " first"), markersize=4.5,
                              linewidth=1.1, **style(source)))  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=5, fontsize=7, columnspacing=1.2)


# The caption --------------------------------------------------------------------------------------


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["curry_vs_context_length"]
    table = with_best_null(result.table)
    n, queries = table.seed.nunique(), result.run["config"]["queries"]
    held = sorted({table.queries.min(), table.queries.max()})
    gap = float(np.max(result.arrays["empty context: largest difference (seed)"]))
    strange = table[table.method == "wrong task"].share.median()
    told = "; ".join(_told(table, source) for source in in_order(table.source))
    return (
        f"The first tokens of one context a source, {n} seed{'s' if n > 1 else ''} (thin; thick: means), on "
        f"{' to '.join(map(str, held))} held-out queries of {queries['length']} tokens, the model's own. (a to d) KL "
        f"removed by sink, by least squares, by the best of bias, steering and bigram shift, and by sink's W' of a "
        f"sibling context (of another source: {strange:.1f}, median); below {FLOOR:g} on the edge. (e) KL that sink "
        f"leaves (geometric means). (f) rho of the last layer. (g) KL from Bayes's predictor, of the model with the "
        f"context, of sink's W', of the model alone. (h) One of four chains and a fresh one, dashed the best null. The "
        f"empty context gives W back to {gap:g}. From the shortest to the longest, KL without the context, share by "
        f"sink, rho: {told}."
    )


def _told(table: pd.DataFrame, source: str) -> str:
    rows = table[(table.source == source) & (table.method == "sink")].groupby("n").mean(numeric_only=True)
    ends = " to ".join(
        f"{one.baseline_kl:.2f}, {f'{one.share:.2f}' if np.isfinite(one.share) else 'none'}, {one.rho_last:.2f}"
        for _, one in rows.iloc[[0, -1]].iterrows()
    )
    return f"{label(source).replace(' amid text', ' first')} {ends}"
