"""The algorithm that training selects, and what its contexts need: what is retrieved fits into a rank-one edit."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import spearmanr

from analyses.core.results import Result
from analyses.core.statistics import bootstrap_interval
from figures import parts

NEEDS = ("curry_phase",)
WAY_COLORS = {
    "bigram retrieval": "#0072B2",
    "unigram retrieval": "#56B4E9",
    "unigram inference": "#E69F00",
    "bigram inference": "#D55E00",
}
WEIGHTS = "weights (chains, step, seed, way)"
LOSSES = "losses (chains, step, seed, which)"
NULLS = {"bias": "o", "steer": "v", "bigram_shift": "P"}
FLOOR = -0.25  # of shares; what lies below is drawn on the edge
FITS, APART = 0.68, 0.2  # the share from which on the title says so, and how far the others have to lie below


def draw(tables: Mapping[str, Result]) -> Figure:
    """Above, after training, against the size of the pool; below, every moment of training."""
    result = tables["curry_phase"]
    figure, axes = parts.sheet(2, 3, height=5.0)
    last = _last(result)
    _ways(axes[0, 0], result)
    _shares(axes[0, 1], result, last)
    _rho(axes[0, 2], result, last)
    _all_moments(axes[1, 0], result)
    _map(axes[1, 1], result, "sink", "rank-one share of the KL")
    _map(axes[1, 2], result, "rho_last", r"query dependence $\rho$")
    for ax, letter in zip(axes.flat, "abcdef", strict=True):
        parts.panel_letter(ax, letter)
    figure.suptitle(headline(result))
    return figure


def headline(result: Result) -> str:
    """The message, as far as this table bears it."""
    share = _last(result).groupby("n_chains").sink.mean().reindex(result.run["config"]["n_chains"])
    fits, others = share.index[share >= FITS], share.index[share < FITS]
    if len(fits) and len(others) and share[fits].min() - share[others].max() >= APART:
        return f"A rank-one edit holds what models of {_list(fits)} chains make of a context, not {_list(others)}"
    return "How much of a context fits into a rank-one edit, by what the model was trained on"


def _list(sizes: Sequence[int]) -> str:
    words = [_name(size) for size in sizes]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["curry_phase"]
    config, last = result.run["config"], _last(result)
    n, names = len(config["seeds"]), {size: _name(size) for size in config["n_chains"]}
    contexts = last.groupby(["n_chains", "seed"]).size().max()

    def told(column: str, digits: int = 2) -> str:
        means = [f"{last[last.n_chains == size][column].mean():.{digits}f}" for size in names]
        return ", ".join(means)

    few = min(size for size in names if size)
    nulls = last[last.n_chains == few][list(NULLS)].mean()
    share, rho = (_between(correlation(result, name)) for name in ("inference", "rho_last"))
    born = result.table[result.table.step == 0]
    excess = result.arrays[LOSSES][:, -1, :, 1] - result.arrays[LOSSES][:, -1, :, 3]
    behind = ", ".join(f"{value:.2f}" for value in excess.mean(-1))
    return (
        f"Transformers of {config['pools']['model']['n_layers']} layers trained on texts by chains of "
        f"{config['pools']['task']['n_symbols']} symbols out of a pool, {config['pools']['train']['steps']} updates "
        f"for every size, {n} seed{'s' if n > 1 else ''} (points), {contexts} contexts of {config['context_length']} "
        f"tokens each, queries of {config['queries']['length']} tokens by the model itself. (a) Weights of the four "
        f"ways to predict; loss on fresh chains above exact inference {behind} nats (K = {', '.join(names.values())}). "
        f"(b) Share of KL(oracle, curried) that a rank-one edit removes: {told('sink')}; at K = {few} nulls remove "
        f"{', '.join(f'{value:.2f} ({name})' for name, value in nulls.items())} and another context of the same chain "
        f"{last[last.n_chains == few].sibling.mean():.2f}; below {FLOOR} points stand on the edge. (c) rho of the last "
        f"layer: {told('rho_last')}; untrained {born.rho_last.mean():.2f}; dashed, a head that says what followed the "
        f"query's token in the context. (d) Every model after every number of updates; dashed, the part of the heads' "
        f"message that a constant keeps. Rank correlation of the share with rho {rho}, with the weight of bigram "
        f"inference {share}, over sizes and updates. {_halves(last)}(e, f) Means over seeds."
    )


def _halves(last: pd.DataFrame) -> str:
    """The models for fresh chains, those that have come to bigrams beside those that have not."""
    fresh = last[last.n_chains == 0].groupby("seed")[["inference", "sink"]].mean()
    early, late = fresh[fresh.inference < 0.5], fresh[fresh.inference >= 0.5]
    if early.empty or late.empty:
        return ""
    return (
        f"With fresh chains {len(early)} of {len(fresh)} models still speak unigrams, and the edit removes "
        f"{early['sink'].mean():.2f}; of the others {late['sink'].mean():.2f}. "
    )


# Panels -------------------------------------------------------------------------------------------


def _ways(ax: Axes, result: Result) -> None:
    sizes, ways = result.run["config"]["n_chains"], result.run["ways"]
    weights = np.nan_to_num(result.arrays[WEIGHTS][:, -1].mean(1))  # (chains, way): no pool, no retrieval
    bottom = np.zeros(len(sizes))
    for way in WAY_COLORS:
        value = weights[:, ways.index(way)]
        ax.bar(range(len(sizes)), value, 0.8, bottom, color=WAY_COLORS[way], label=way)
        bottom += value
    _sizes(ax, sizes)
    ax.set(ylabel="weight of the algorithm", ylim=(0, 1))
    handles, labels = ax.get_legend_handles_labels()
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.14), "ncols": 1, "fontsize": 7}
    ax.legend(handles[::-1], labels[::-1], **place, labelspacing=0.2, borderpad=0)


def _shares(ax: Axes, result: Result, last: pd.DataFrame) -> None:
    sizes = result.run["config"]["n_chains"]
    for name, marker in NULLS.items():
        _points(ax, last, sizes, name, "0.6", marker, 0.24, mean=False)
    _points(ax, last, sizes, "sibling", "C2", "^", 0.08, mean=False)
    _points(ax, last, sizes, "lsq_o", "C5", "D", -0.08)
    _points(ax, last, sizes, "sink", "C0", "s", -0.24)
    ax.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    _sizes(ax, sizes)
    ax.set(ylabel="share of the KL removed", ylim=(FLOOR - 0.03, 1.04))
    entries = [("rank-one edit", "C0", "s"), (r"least squares on $W_O$", "C5", "D"), ("same chain's other", "C2", "^")]
    entries += [(name.replace("_", " "), "0.6", marker) for name, marker in NULLS.items()]
    handles = [Line2D([], [], color=c, marker=m, linestyle="none", markersize=4, label=t) for t, c, m in entries]
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.14), ncols=2, fontsize=7, labelspacing=0.2,
              columnspacing=0.8, handletextpad=0.2, borderpad=0)  # fmt: skip


def _rho(ax: Axes, result: Result, last: pd.DataFrame) -> None:
    sizes = result.run["config"]["n_chains"]
    born = result.table[result.table.step == 0]
    _points(ax, born, sizes, "rho_last", "0.6", "o", 0.0, mean=False)
    _points(ax, last, sizes, "rho_last", "C1", "s", 0.0)
    look_up = last.groupby("n_chains").rho_look_up.mean().reindex(sizes)
    ax.plot(range(len(sizes)), look_up, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0)
    _sizes(ax, sizes)
    ax.set(ylabel=r"query dependence, $\rho$ (last layer)", ylim=(-0.02, 1))
    handles = [
        Line2D([], [], color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, label="looking up what followed"),
        Line2D([], [], color="C1", marker="s", linewidth=1.4, label="trained"),
        Line2D([], [], color="0.6", marker="o", linestyle="none", label="untrained"),
    ]
    ax.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.14), fontsize=7, labelspacing=0.2, borderpad=0
    )


def _all_moments(ax: Axes, result: Result) -> None:
    grown = result.table[result.table.step > 0]
    columns = ["rho_last", "sink", "inference"]
    every = grown.groupby(["n_chains", "step", "seed"], as_index=False)[columns].mean()
    dots = ax.scatter(every.rho_last, every.sink.clip(lower=FLOOR), c=every.inference, cmap="cividis", vmin=0, vmax=1,
                      s=11, linewidths=0)  # fmt: skip
    parts.theory(ax, [0, 1], [1, 0], r"$1 - \rho$", at=0.85)
    ax.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    ax.set(xlabel=r"query dependence, $\rho$", ylabel="rank-one share", xlim=(-0.02, 1), ylim=(FLOOR - 0.03, 1.04))
    bar = ax.figure.colorbar(dots, ax=ax, location="top", shrink=0.8, aspect=18, pad=0.02)
    bar.set_label("weight of bigram inference", fontsize=7)
    bar.ax.tick_params(labelsize=6)


def _map(ax: Axes, result: Result, column: str, label: str) -> None:
    config = result.run["config"]
    steps = [step for step in config["steps"] if step]
    mean = result.table.groupby(["step", "n_chains"])[column].mean().unstack("n_chains")
    image = parts.heat(ax, mean.reindex(index=steps[::-1], columns=config["n_chains"]).to_numpy(), label, 0, 1)
    image.colorbar.remove()  # the numbers stand in the cells
    ax.set_title(label, fontsize=8)
    _sizes(ax, config["n_chains"])
    ax.set_yticks(range(len(steps)), [str(step) for step in steps[::-1]])
    ax.set_ylabel("updates")


# Pieces -------------------------------------------------------------------------------------------


def _points(ax: Axes, table, sizes, column: str, color: str, marker: str, shift: float, mean: bool = True) -> None:
    """One point a seed, its mean over contexts, at every size; a line through the means over seeds."""
    wide = table.groupby(["n_chains", "seed"])[column].mean().unstack("seed").reindex(sizes).clip(lower=FLOOR)
    for at, values in enumerate(wide.to_numpy()):
        ax.plot(np.full(len(values), at + shift), values, marker, color=color, markersize=2.6, alpha=0.6, zorder=2)
    if mean:
        ax.plot(np.arange(len(sizes)) + shift, wide.mean(axis=1), color=color, linewidth=1.4, zorder=3)


def _sizes(ax: Axes, sizes) -> None:
    ax.set_xticks(range(len(sizes)), [_name(size) for size in sizes])
    ax.set_xlabel("chains in the pool, K")


def _name(size: int) -> str:
    return str(size) if size else "fresh"


def _last(result: Result) -> pd.DataFrame:
    return result.table[result.table.step == result.run["config"]["steps"][-1]]


def correlation(result: Result, column: str) -> list[float]:
    """Rank correlation of the rank-one share with a column, over sizes and moments after birth, one per seed."""
    grown = result.table[result.table.step > 0].dropna(subset=["sink"])
    known = grown.groupby(["n_chains", "step", "seed"], as_index=False)[["sink", "inference", "rho_last"]].mean()
    return [float(spearmanr(rows.sink, rows[column]).statistic) for _, rows in known.groupby("seed")]


def _between(values: list[float]) -> str:
    """The mean, with its interval where there are seeds for one."""
    mean = f"{np.mean(values):.2f}"
    if len(values) < 3:
        return mean
    low, high = bootstrap_interval(values, np.mean, 0.95, np.random.default_rng(0))
    return f"{mean} ({low:.2f} to {high:.2f}, bootstrap over seeds)"
