"""Sharing keys and values: accuracy against cache, lookups answered, keys looked at, and the ranks behind them."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.core.results import Result
from analyses.core.statistics import bootstrap_interval
from figures import parts

NEEDS = ("heads_vs_kv_heads",)
ALL, ONE_KV, HALF, ONE = "8 heads, 8 kv", "8 heads, 1 kv", "4 heads", "1 head"
FAMILIES = {"shared": ("C0", "8 heads share kv heads"), "fewer heads": ("C1", "fewer heads"),
            "thinner heads": ("C2", "8 thinner heads")}  # fmt: skip
OTHERS = {  # condition -> marker, colour
    "1 head and an MLP": ("s", "C1"),
    "1 head of 64": ("D", "C1"),
    "8 heads of 14, 1 kv": ("^", "C0"),
    "8 heads of 4, 1 kv": ("v", "C0"),
}
LINES = {ALL: ("C0", "-"), ONE_KV: ("C0", (0, (1.5, 1))), HALF: ("C1", "-"), ONE: ("C1", (0, (1.5, 1)))}
BORN = "0.6"


def draw(tables: Mapping[str, Result]) -> Figure:
    """Four panels; lines are means over seeds, and each seed is a point or a thin line."""
    table = tables["heads_vs_kv_heads"].table
    figure, axes = parts.sheet(2, 2, height=5.4)
    _cache(axes[0, 0], table)
    _lookups(axes[0, 1], table)
    _looked_at(axes[1, 0], table)
    _ranks(axes[1, 1], table)
    for ax, letter in zip(axes.flat, "abcd", strict=True):
        parts.panel_letter(ax, letter)
    named = {label: line for ax in axes[0] for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=3, columnspacing=1.2)
    return figure


def _models(table: pd.DataFrame, trained: bool = True) -> pd.DataFrame:
    """One row per condition and seed: accuracy is the mean over the numbers of lookups."""
    rows = table[(table.step > 0) == trained]
    return rows.groupby(["condition", "seed"], sort=False).agg(
        **{name: (name, "first") for name in ("family", "n_heads", "n_kv", "d_head", "cache_bytes")},
        **{name: (name, "first") for name in ("value_rank", "key_rank", "query_rank")},
        accuracy=("accuracy", "mean"),
    )


def _cache(ax: Axes, table: pd.DataFrame) -> None:
    models = _models(table)
    for family, (color, label) in FAMILIES.items():
        named = (models.family == family) | (
            models.index.get_level_values("condition") == ALL
        )  # all curves start there
        means = models[named].groupby("cache_bytes").accuracy.mean()
        ax.plot(means.index, means, color=color, label=label, zorder=3)
        ax.plot(models[named].cache_bytes, models[named].accuracy, ".", color=color, markersize=3, alpha=0.6, zorder=2)
    for condition, (marker, color) in OTHERS.items():
        rows = models.loc[condition]
        style = {"linestyle": "none", "marker": marker, "color": color, "markerfacecolor": "white", "zorder": 4}
        ax.plot(rows.cache_bytes.iloc[:1], [rows.accuracy.mean()], markersize=5, label=condition, **style)
        ax.vlines(rows.cache_bytes.iloc[0], rows.accuracy.min(), rows.accuracy.max(), color=color, linewidth=0.8)
    born = _models(table, trained=False).groupby("cache_bytes").accuracy.mean()
    ax.plot(born.index, born, color=BORN, label="untrained")
    ax.set_xscale("log", base=2)
    ticks = sorted({*models[models.family != "other"].cache_bytes, models.cache_bytes.min()})
    ax.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    ax.set(xlabel="key-value cache (bytes per token)", ylabel="answers right in every slot", ylim=(-0.03, 1.03))


def _by_lookups(table: pd.DataFrame, condition: str, column: str, trained: bool = True) -> tuple:
    """Numbers of lookups, and values (seed, lookups)."""
    rows = table[(table.condition == condition) & ((table.step > 0) == trained)]
    wide = rows.pivot(index="seed", columns="lookups", values=column)
    return wide.columns.to_numpy(), wide.to_numpy()


def _curves(ax: Axes, table: pd.DataFrame, column: str) -> None:
    for condition, (color, dashes) in LINES.items():
        x, values = _by_lookups(table, condition, column)
        ax.plot(x, values.T, color=color, linewidth=0.5, alpha=0.4, linestyle=dashes, zorder=2)
        ax.plot(x, values.mean(0), color=color, linestyle=dashes, label=condition, zorder=3)
    x, values = _by_lookups(table, ALL, column, trained=False)
    ax.plot(x, values.mean(0), color=BORN)
    ax.set(xlabel="lookups that the question needs", xticks=x)


def _lookups(ax: Axes, table: pd.DataFrame) -> None:
    _curves(ax, table, "accuracy")
    x = np.sort(table.lookups.unique())
    for heads, at in ((4, 0.62), (1, 0.22)):
        parts.theory(ax, x, 2.0 ** -np.maximum(0, x - heads), f"{heads} key{'s' if heads > 1 else ''}", at=at)
    ax.set(ylabel="answers right in every slot", ylim=(-0.03, 1.03))


def _looked_at(ax: Axes, table: pd.DataFrame) -> None:
    _curves(ax, table, "distinct")
    x = np.sort(table.lookups.unique())
    parts.theory(ax, x, x, "one key a lookup", at=0.88)
    ax.set(ylabel="different keys looked at", ylim=(0, 8.3))


def _ranks(ax: Axes, table: pd.DataFrame) -> None:
    models = _models(table)
    shared = models[models.family == "shared"]
    width, d_head = 64, int(shared.d_head.iloc[0])
    kv = np.array(sorted(shared.n_kv.unique()))
    for column, marker, label in (
        ("query_rank", "o", "read by queries"),
        ("key_rank", "s", "read by keys"),
        ("value_rank", "x", "written, sum of OV"),
    ):
        ax.plot(shared.n_kv, shared[column], marker, markersize=5, color="C0", fillstyle="none", label=label)
    parts.theory(ax, kv, np.minimum(width, kv * d_head), "$n_{kv}\\, d_{head}$", at=0.65)
    parts.theory(ax, kv, np.full(len(kv), width), "$n_{heads}\\, d_{head}$", at=0.65)
    ax.set(xlabel="key-value heads", ylabel="rank (dimensions)", xticks=kv, ylim=(0, 72))
    ax.legend(loc="lower right")


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    table = tables["heads_vs_kv_heads"].table
    models, n = _models(table), table.seed.nunique()
    most = table.lookups.max()

    def mean(condition: str) -> str:
        return f"{models.loc[condition].accuracy.mean():.2f}"

    def all_slots(condition: str) -> str:
        return f"{_by_lookups(table, condition, 'accuracy')[1][:, -1].mean():.2f}"

    lost = (models.loc[ALL].accuracy - models.loc[ONE_KV].accuracy).to_numpy()
    found = bootstrap_interval(lost, np.mean, 0.95, np.random.default_rng(0))
    between = f" ({found[0]:+.3f} to {found[1]:+.3f}, bootstrap over seeds)" if found else ""
    cache = models.groupby("condition").cache_bytes.first()
    narrow, thin = "8 heads of 4, 1 kv", "8 heads of 4"
    return (
        f"One layer, questions of 1 to {most} lookups, {n} seed{'s' if n > 1 else ''}, equal updates. (a) 8 heads on "
        f"8, 4, 2 and 1 kv heads answer {', '.join(mean(name) for name in _order(models, 'shared'))}; sharing "
        f"one loses {lost.mean():+.3f}{between} for {cache[ONE_KV]:.0f} instead of {cache[ALL]:.0f} bytes. At "
        f"{cache[ONE_KV]:.0f} bytes one whole head answers {mean(ONE)}, 8 of width 1 {mean('8 heads of 1')}, one head "
        f"with an MLP and as many parameters {mean('1 head and an MLP')}; one head of 64, with all the cache, "
        f"{mean('1 head of 64')}. With heads of 4, where the shared rank is scarce, sharing takes {mean(thin)} to "
        f"{mean(narrow)}; widened to 14, the first model's parameters, {mean('8 heads of 14, 1 kv')}; untrained "
        f"{_models(table, trained=False).accuracy.mean():.3f}. (b) {most} lookups at once: {all_slots(ALL)}, "
        f"{all_slots(ONE_KV)}, {all_slots(HALF)} and {all_slots(ONE)} (8 and 1 kv, 4 heads, 1 head); dashed, heads "
        f"that know one key each and guess the rest. (c) Heads that share keys look at different ones all the same. "
        f"(d) Singular values in float64: sharing takes rank from keys and values, not from queries."
    )


def _order(models: pd.DataFrame, family: str) -> list[str]:
    rows = models[models.family == family].groupby("condition").n_kv.first()
    return list(rows.sort_values(ascending=False).index)
