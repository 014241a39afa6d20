"""A map of contexts: what curried models say, where their weights lie, who stands nearest, and what transfers."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.core.results import Result
from figures import parts

NEEDS = ("curry_map",)
BEHAVIOUR, WEIGHTS, CHANCE = "behaviour", "weights", "chance"
NULLS = ("bias", "steer", "bigram_shift")
ITSELF = "itself"
LOWEST = -1.0  # of shares in the matrix: what lies below has the darkest colour
STYLES = (
    *(("C0", "o"), ("C5", "s"), ("C1", "^"), ("C4", "v"), ("C2", "D"), ("C3", "P"), ("k", "X")),
    *(("0.4", "*"), ("0.6", "h"), ("C6", "<")),
)


def draw(tables: Mapping[str, Result]) -> Figure:
    """Two maps of one seed, nearest neighbours of all, and the transfer matrix with its nulls."""
    result = tables["curry_map"]
    figure, axes = parts.sheet(2, 2, height=6.4, width_ratios=(1.25, 1))
    _map(axes[0, 0], result, BEHAVIOUR, "what they do (symmetric KL)")
    _map(axes[0, 1], result, WEIGHTS, "where W' lies")
    _transfer(axes[1, 0], result)
    _nearest(axes[1, 1], result)
    for ax, letter in zip(axes.flat, "abcd", strict=True):
        parts.panel_letter(ax, letter)
    figure.suptitle(title(result))
    figure.legend(handles=_keys(_sources(result)), loc="outside lower center", ncols=4, fontsize=7)
    return figure


def title(result: Result) -> str:
    """Where contexts of one source stand together, in words."""
    near = _near(result)
    behaviour, weights = (near["trained", what].mean() for what in (BEHAVIOUR, WEIGHTS))
    chance = near["trained", CHANCE].mean()
    if behaviour < chance + 0.1:
        return "Contexts of one source do not stand together"
    if behaviour > weights + 0.05:
        return "Contexts of one source are neighbours by what W' does, less by where it lies"
    return "Contexts of one source are neighbours by what W' does and where it lies"


def _sources(result: Result) -> list[str]:
    return list(dict.fromkeys(result.run["of source"]))


def _near(result: Result) -> pd.DataFrame:
    """Share with a neighbour of their own source; rows seeds, columns (model, what)."""
    table = result.table[result.table.part == "nearest"]
    return table.pivot(index="seed", columns=["model", "what"], values="value")


def matrix(result: Result, model: str = "trained") -> pd.DataFrame:
    """Mean share of KL removed: rows the oracle's source, columns whose W', then itself and the best null."""
    table = result.table[(result.table.part == "transfer") & (result.table.model == model)]
    wide = table.groupby(["seed", "source", "what"]).value.mean().groupby(["source", "what"]).mean().unstack("what")
    sources = _sources(result)
    wide = wide.loc[sources]
    return wide[sources].assign(**{"best null": wide[list(NULLS)].max(axis=1), ITSELF: wide[ITSELF]})


def _say(ax: Axes, what: str) -> None:
    ax.set_title(what, loc="right", fontsize=8)


def _map(ax: Axes, result: Result, name: str, what: str) -> None:
    points = result.arrays[f"{name} (seed, context, number)"][0]
    of = np.array(result.run["of source"])
    for source, (color, marker) in zip(_sources(result), STYLES, strict=False):
        mine = points[of == source]
        ax.plot(mine[:, 0], mine[:, 1], linestyle="none", color=color, marker=marker, markersize=4.5, alpha=0.85)
    unit = "square root of nats" if name == BEHAVIOUR else "units of |W|"
    ax.set(xlabel=f"first axis ({unit})", ylabel="second axis")
    _say(ax, what)


def _transfer(ax: Axes, result: Result) -> None:
    found = matrix(result)
    parts.heat(ax, found.to_numpy(), "share of the KL removed", vmin=LOWEST, vmax=1)
    ax.set_xticks(range(len(found.columns)), list(found.columns), rotation=90, fontsize=6.5)
    ax.set_yticks(range(len(found)), list(found.index), fontsize=6.5)
    ax.axvline(len(found) - 0.5, color="white", linewidth=2.5)
    ax.set(xlabel="whose W'", ylabel="behind whose context")
    _say(ax, "what transfers")


def _nearest(ax: Axes, result: Result) -> None:
    near = _near(result)
    shown = [(what, model) for what in (BEHAVIOUR, WEIGHTS) for model in ("trained", "untrained")]
    for at, (what, model) in enumerate(shown):
        values, color = near[model, what].to_numpy(), "C0" if model == "trained" else "0.6"
        shift = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
        ax.plot(at + shift, values, "o", color=color, markersize=3.2, alpha=0.6, markeredgewidth=0)
        ax.plot([at - 0.22, at + 0.22], [values.mean()] * 2, color=color, linewidth=1.8)
    chance = near["trained", CHANCE].mean()
    ax.axhline(chance, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0)
    ax.text(len(shown) - 0.55, chance + 0.015, "chance", fontsize=7, color="0.3", ha="right", va="bottom")
    ax.set_xticks(range(len(shown)), [f"{what},\n{model}" for what, model in shown], fontsize=6.5)
    ax.set(ylim=(0, 1.03), xlim=(-0.5, len(shown) - 0.5), ylabel="nearest is of the same source")
    _say(ax, "neighbours")


def _keys(sources: list[str]) -> list[Line2D]:
    return [
        Line2D([], [], linestyle="none", color=color, marker=marker, markersize=4.5, label=source)
        for source, (color, marker) in zip(sources, STYLES, strict=False)
    ]


# The caption --------------------------------------------------------------------------------------


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["curry_map"]
    config, near, found = result.run["config"], _near(result), matrix(result)
    n, sources = len(near), _sources(result)
    born = matrix(result, "untrained")

    def told(what: str, model: str = "trained") -> str:
        values = near[model, what]
        return f"{values.mean():.2f}" + (f" ({values.min():.2f} to {values.max():.2f})" if n > 1 else "")

    off = {one: found.loc[one, [other for other in sources if other != one]].max() for one in sources}
    each = "; ".join(
        f"{one} {found.loc[one, one]:.2f}, {off[one]:.2f}, {found.loc[one, 'best null']:.2f}, "
        f"{found.loc[one, ITSELF]:.2f}"
        for one in sources
    )
    return (
        f"{config['contexts']} contexts of {config['context_length']} tokens of each of {len(sources)} sources, "
        f"curried by sink into a transformer trained on their mixture, all asked the same queries; {n} seed"
        f"{'s' if n > 1 else ''}. (a, b) Classical scaling of both distances, first seed. (c) Share of KL(oracle || "
        f"none) that another context's W' removes, mean over seeds and {config['transferred'][0]} "
        f"context{'s' if config['transferred'][0] > 1 else ''} a source; below {LOWEST:g} one colour. Sibling, best "
        f"other source, best null, the context itself: {each}. Untrained, siblings remove "
        f"{np.mean([born.loc[one, one] for one in sources]):.2f} in the mean, other sources "
        f"{_off_diagonal(born, sources):.2f} (trained {np.mean([found.loc[one, one] for one in sources]):.2f} and "
        f"{_off_diagonal(found, sources):.2f}). (d) Contexts whose nearest other is of their own source: by behaviour "
        f"{told(BEHAVIOUR)}, by weights {told(WEIGHTS)}, untrained {told(BEHAVIOUR, 'untrained')} and "
        f"{told(WEIGHTS, 'untrained')}; chance {near['trained', CHANCE].mean():.2f}."
    )


def _off_diagonal(found: pd.DataFrame, sources: list[str]) -> float:
    square = found.loc[sources, sources].to_numpy()
    return float(np.nanmean(square[~np.eye(len(sources), dtype=bool)]))
