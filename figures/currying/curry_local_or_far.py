"""Local or far, the same for every query or not: contexts in the plane of both, and which of them predicts sink."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from analyses.core.results import Result
from figures import parts
from figures.currying.extent.styles import cloud, in_order, key, label, style

NEEDS = ("curry_local_or_far",)
TRAINED, UNTRAINED = "trained", "untrained"
SHIFTS = ("bias", "steer", "bigram_shift")
DISTANCE = "distance_50"  # of most contexts no path removes 90 %
WORD, DIE, COPIES = "in deployment", "biased die", ("copy 2", "copy 4", "copy 8")
FLOOR = -0.5  # of shares; what lies below is drawn on the edge
BORN = "0.6"
PREDICTORS = {"rho_last": r"$\rho$", "distance_50": "50 %", "distance_90": "90 %", "gradient": "step"}
NAMED = (("rho_last", "rho"), ("distance_50", "distance (half)"), ("distance_90", "distance (90 %)"),
         ("gradient", "the gradient step"))  # fmt: skip
MARKS = {"sink": ("C0", "o"), "best null": ("0.55", "|"), "sibling": ("C4", "x"), "gradient": ("C3", "v")}


def draw(tables: Mapping[str, Result]) -> Figure:
    """Six panels: rho against distance and against a gradient step; sink against rho and distance; sources; ranks."""
    table = tables["curry_local_or_far"].table
    shown = table[table.moment == TRAINED]
    figure, axes = parts.sheet(2, 3, height=6.0)
    far = _beyond(shown)
    for source in in_order(shown.source):
        rows = shown[shown.source == source]
        away, sink = rows[DISTANCE].clip(upper=far), rows["sink"].clip(lower=FLOOR)
        cloud(axes[0, 0], away, rows.rho_last, source)
        cloud(axes[0, 1], rows.gradient, rows.rho_last, source)
        cloud(axes[0, 2], rows.rho_last, sink, source)
        cloud(axes[1, 0], away, sink, source)
    _plane(axes[0, 0], axes[0, 1], shown, far)
    _against_rho(axes[0, 2], table)
    _against_distance(axes[1, 0], shown, far)
    _sources(axes[1, 1], shown)
    _ranks(axes[1, 2], shown)
    for ax, letter in zip(axes.flat, "abcdef", strict=True):
        ax.title.set_fontsize(8)
        parts.panel_letter(ax, letter)
    handles = [key(label(source), **style(source)) for source in in_order(shown.source)]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, fontsize=7, columnspacing=1.2)
    return figure


def _beyond(shown: pd.DataFrame) -> float:
    """Where contexts stand that no path reaches."""
    finite = shown[DISTANCE][np.isfinite(shown[DISTANCE])]
    return 3 * float(finite.max() if len(finite) else 1.0)


def _plane(near: Axes, step: Axes, shown: pd.DataFrame, far: float) -> None:
    high = max(0.7, 1.1 * float(shown.rho_last.max()))
    for ax in (near, step):
        ax.set(ylim=(-0.2 * high, 1.2 * high), yticks=np.arange(0, high, 0.2))
    near.set(ylabel=r"query dependence, $\rho$", title=_first_title(shown))
    _distance_axis(near, shown, far)
    step.set(xlim=(-0.05, 1.05), xlabel="KL removed by the best\ngradient step", title=_step_title(shown))
    for ax, words in ((near, ("near", "far")), (step, ("no step", "a step"))):
        for x, side, word in ((0.02, "left", words[0]), (0.98, "right", words[1])):
            for y, above, kind in ((0.99, "top", "depends"), (0.01, "bottom", "same for all")):
                look = {"ha": side, "va": above, "fontsize": 6, "color": "0.4", "style": "italic"}
                ax.text(x, y, f"{word},\n{kind}", transform=ax.transAxes, **look)


def _first_title(shown: pd.DataFrame) -> str:
    """What the plane shows, if it does."""
    median = shown.groupby("source")[[DISTANCE, "rho_last"]].median()
    there = [one for one in COPIES if one in median.index]
    if not {WORD, DIE} <= set(median.index) or not there:
        return "near or far"
    far = median[DISTANCE][WORD] > median[DISTANCE][DIE]
    alike = median.rho_last[WORD] < median.rho_last[there].min()
    if far and alike:
        return "The word is far,\nand the same for all"
    return "The word is far" if far else "The word is not far"


def _step_title(shown: pd.DataFrame) -> str:
    """Whether the best step reaches half of what sink does on the word, and on a die."""
    median = shown.groupby("source")[["gradient", "sink"]].median()
    if not {WORD, DIE} <= set(median.index):
        return "how far a step gets"
    word, die = (median.gradient[name] >= 0.5 * median["sink"][name] for name in (WORD, DIE))
    if die and not word:
        return "A step reaches a die,\nnot the word"
    return f"A step reaches {'both' if word and die else 'the word' if word else 'neither'}"


def _distance_axis(ax: Axes, shown: pd.DataFrame, far: float) -> None:
    ax.set(
        xscale="log", xlim=(0.5 * shown[DISTANCE].min(), far * 1.6), xlabel=r"$|\Delta W|\,/\,|W|$ that removes half"
    )
    ax.axvspan(far / 1.6, far * 1.6, color="0.93", zorder=0)
    ticks = [tick for tick in (0.001, 0.01, 0.1, 1) if 0.5 * shown[DISTANCE].min() <= tick <= far / 1.6]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.text(far, 0.5, "no path", rotation=90, transform=ax.get_xaxis_transform(), ha="center", va="center",
            fontsize=6.5, color="0.4", zorder=1)  # fmt: skip


def _against_rho(ax: Axes, table: pd.DataFrame) -> None:
    born = table[(table.moment == UNTRAINED) & table["sink"].notna()]
    ax.plot(born.rho_last, born["sink"].clip(lower=FLOOR), "x", color=BORN, markersize=3, zorder=2)
    ax.text(0.03, 0.03, "x: untrained", transform=ax.transAxes, ha="left", va="bottom", fontsize=6.5, color="0.4")
    ax.set(xlim=(-0.03, None), ylim=(FLOOR, 1.05), xlabel=r"query dependence, $\rho$", ylabel="KL removed by sink")
    ax.set_title(_rank_title(table[table.moment == TRAINED], "rho_last"))


def _against_distance(ax: Axes, shown: pd.DataFrame, far: float) -> None:
    _distance_axis(ax, shown, far)
    ax.set(ylim=(FLOOR, 1.05), ylabel="KL removed by sink", title=_rank_title(shown, DISTANCE))


def _rank_title(shown: pd.DataFrame, column: str) -> str:
    return f"rank corr. {np.mean(_correlations(shown, column)):+.2f}"


def _correlations(shown: pd.DataFrame, column: str) -> list[float]:
    """Spearman's, with sink's share over the contexts of a seed, one per seed."""
    known = shown[shown["sink"].notna()]
    return [float(spearmanr(rows[column], rows["sink"]).statistic) for _, rows in known.groupby("seed")]


def _sources(ax: Axes, shown: pd.DataFrame) -> None:
    sources = in_order(shown.source)
    rows = shown.assign(**{"best null": shown[list(SHIFTS)].max(axis=1)})
    for name, (color, marker) in MARKS.items():
        for at, source in enumerate(sources):
            values = rows[rows.source == source][name].clip(lower=FLOOR)
            wide = {"markersize": 9 if marker == "|" else 4, "markeredgewidth": 1.2}
            ax.plot(values, np.full(len(values), at), marker, color=color, alpha=0.25, markersize=2.2, zorder=2)
            ax.plot([values.median()], [at], marker, color=color, clip_on=False, zorder=4, **wide)
    ax.set_yticks(range(len(sources)), [label(source) for source in sources], fontsize=6.5)
    ax.set(ylim=(len(sources) - 0.5, -0.5), xlim=(FLOOR, 1.05), xlabel="KL removed")
    ax.axvline(0, color="0.85", linewidth=0.6, zorder=0)
    handles = [key(name, color=color, marker=marker) for name, (color, marker) in MARKS.items()]
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.55, 1.0), ncols=2, fontsize=6.5, handlelength=0.8,
              columnspacing=0.8)  # fmt: skip


def _ranks(ax: Axes, shown: pd.DataFrame) -> None:
    for at, column in enumerate(PREDICTORS):
        values = _correlations(shown, column)
        spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
        ax.plot(at + spread, values, "o", color="0.45", markersize=3, markeredgewidth=0, clip_on=False)
        ax.plot([at - 0.25, at + 0.25], [np.mean(values)] * 2, color="k")
    ax.axhline(0, color="0.3", linestyle=(0, (4, 2)), linewidth=0.8, zorder=0)
    ax.set_xticks(range(len(PREDICTORS)), list(PREDICTORS.values()))
    ax.set(xlim=(-0.5, len(PREDICTORS) - 0.5), ylim=(-1, 1), ylabel="rank correlation with sink")
    ax.set_xlabel(r"$\rho$, distances, gradient step")


# The caption --------------------------------------------------------------------------------------


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["curry_local_or_far"]
    table, config = result.table, result.run["config"]
    shown = table[table.moment == TRAINED]
    n, each = shown.seed.nunique(), config["contexts"]
    told = [_told(shown[shown.source == source], source) for source in in_order(shown.source)]
    born = table[table.moment == UNTRAINED]
    ranks = ", ".join(f"{name} {np.mean(_correlations(shown, column)):+.2f}" for column, name in NAMED)
    held = sorted({shown.queries.min(), shown.queries.max()})
    return (
        f"Contexts of {config['context_length']} tokens (of the pools {config['pool_context_length']}), "
        f"{n} seed{'s' if n > 1 else ''}, {each} of each source and seed (faint; large: medians), on "
        f"{' to '.join(map(str, held))} held-out queries of {config['queries']['length']} tokens, the model's own. "
        f"(a, b) rho of the last layer against the least change of the weights found that removes half of the KL "
        f"(an upper bound; grey: none on any path), and against what the best step down the gradient of the context's "
        f"own loss removes. (c, d) What sink, a rank-one edit, removes; below {FLOOR:g} on the edge; crosses: the "
        f"untrained model (rho {born.rho_last.mean():.2f}, sink {born['sink'].mean():.2f}). (e) By source, with the "
        f"best of bias, steering and bigram shift, and with sink's W' of a sibling context (of another "
        f"source: {shown.wrong.median():.1f}, median). (f) Rank correlations with "
        f"sink over the contexts of a seed: {ranks}. Medians of rho, distances (half, 90 %), step, sink, best null: "
        f"{'; '.join(told)}."
    )


def _told(rows: pd.DataFrame, source: str) -> str:
    null = rows[list(SHIFTS)].max(axis=1).median()
    return (
        f"{label(source)} {rows.rho_last.median():.2f}, {_away(rows.distance_50)}, {_away(rows.distance_90)}, "
        f"{rows.gradient.median():.2f}, {rows['sink'].median():.2f}, {null:.2f}"
    )


def _away(distances: pd.Series) -> str:
    return f"{distances.median():.2g}" if np.isfinite(distances.median()) else "none"
