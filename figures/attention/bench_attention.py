"""What row statistics cost: time over SDPA and peak memory, against the number of tokens."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analyses.core.results import Result
from figures import parts

NEEDS = ("bench_attention",)
CAUSAL, WINDOW, MODEL = "causal", "window", "model"
SDPA, FUSED, STATISTICS, TWICE = "SDPA", "fused, output only", "fused + statistics", "SDPA twice"
EAGER, EAGER_STATISTICS, LENS = "eager", "eager + statistics", "TransformerLens"
LOOKS = {  # colour and marker: each tells the variant alone
    SDPA: ("C6", "o"),
    TWICE: ("C2", "v"),
    FUSED: ("C5", "D"),
    STATISTICS: ("C0", "s"),
    LENS: ("C3", "P"),
    EAGER: ("C4", "^"),
    EAGER_STATISTICS: ("C1", "X"),
}
RATIOS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)


def draw(tables: Mapping[str, Result]) -> Figure:
    """Two panels: (a) time over that of SDPA beside it, every repetition and the medians; (b) peak memory."""
    result = tables["bench_attention"]
    figure, axes = parts.sheet(1, 2, height=3.3)
    for ax in axes[0]:
        lengths = np.sort(result.table.n[result.table.workload != MODEL].unique())
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(lengths, [f"{n // 1024}k" if n % 1024 == 0 else str(n) for n in lengths])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set(xlabel="tokens (queries, and keys)", xlim=(lengths[0] / 1.25, lengths[-1] * 1.25))
    _time(axes[0, 0], result)
    _memory(axes[0, 1], result)
    for ax, letter in zip(axes[0], "ab", strict=True):
        parts.panel_letter(ax, letter)
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _rows(result: Result, workload: str, variant: str) -> pd.DataFrame:
    table = result.table
    return table[(table.workload == workload) & (table.variant == variant)].sort_values("n")


def _label(result: Result, variant: str) -> str:
    return variant.replace("fused", result.run["config"]["backend"]).replace(TWICE, "SDPA twice (mean score)")


def _lines(ax: Axes, result: Result, column: str) -> None:
    """Medians over the repetitions; the window's are open and dashed."""
    for variant, (color, marker) in LOOKS.items():
        style = {"color": color, "marker": marker}
        for workload in (CAUSAL, WINDOW):
            rows = _rows(result, workload, variant)
            if workload == WINDOW:
                style |= {"markerfacecolor": "white", "linestyle": (0, (2, 1))}
            if len(rows):
                middle = rows.groupby("n")[column].median()
                window = f", window {result.run['config']['window']}" if workload == WINDOW else ""
                ax.plot(middle.index, middle, **style, label=_label(result, variant) + window, zorder=3)


def _time(ax: Axes, result: Result) -> None:
    _lines(ax, result, "ratio")
    for variant, (color, _) in LOOKS.items():
        for workload in (CAUSAL, WINDOW):
            rows = _rows(result, workload, variant)
            ax.plot(rows.n, rows.ratio, ".", color=color, markersize=3, markeredgewidth=0, alpha=0.5, zorder=2)
    low, high = result.table.ratio[result.table.workload != MODEL].agg(["min", "max"])
    ax.set_ylim(low / 1.3, high * 1.3)
    ticks = [tick for tick in RATIOS if low / 1.3 <= tick <= high * 1.3]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.yaxis.set_minor_locator(NullLocator())
    clock = "processor" if result.run["device"] == "cpu" else "GPU"
    ax.set_ylabel(f"{clock} time over SDPA's (1)")


def _memory(ax: Axes, result: Result) -> None:
    """Beside lines of slope n and n^2, the first below all that is measured, the second above it."""
    _lines(ax, result, "peak_mb")
    table = result.table[result.table.workload == CAUSAL]
    first, last = table.n.min(), table.n.max()
    held = table[table.n == first].peak_mb
    parts.theory(ax, [first, last], [0.5 * held.min(), 0.5 * held.min() * last / first], "as n", at=0.6)
    last = min(last, max(_rows(result, CAUSAL, EAGER_STATISTICS).n.max(), 4 * first))  # not far above all else
    parts.theory(ax, [first, last], [2 * held.max(), 2 * held.max() * (last / first) ** 2], "as n²", at=0.6)
    ax.set_ylabel("peak memory of a call (MB)")


def caption(tables: Mapping[str, Result]) -> str:
    """What ran where, and the numbers at the longest text of each kind; all from the table and its run."""
    result = tables["bench_attention"]
    run, config = result.run, result.run["config"]
    causal = result.table[result.table.workload == CAUSAL]
    place = f"one thread of {run['platform']}" if run["device"] == "cpu" else run["gpu"]
    control = causal[causal.variant == SDPA].ratio.quantile([0.25, 0.75]).to_numpy()
    fused, eager = _rows(result, CAUSAL, STATISTICS), _rows(result, CAUSAL, EAGER_STATISTICS)
    told = (
        f"Causal attention, {config['n_heads']} heads of {config['d_head']}, {run['dtype']}, {place}, torch "
        f"{run['versions']['torch']}; {causal.seed.nunique()} repetitions, each beside one of SDPA (points; lines are "
        f"medians). (a) Time over SDPA's. With every row statistic {config['backend']} takes {_ratio(fused)}, for the "
        f"output alone {_ratio(_rows(result, CAUSAL, FUSED))}; from the pattern the same statistics take "
        f"{_ratio(eager)}{_lens(result)}. SDPA beside itself: half of the repetitions lie in {control[0]:.2f} to "
        f"{control[1]:.2f}. (b) Peak memory of one call, outputs included: {_peak(fused)} with every statistic, "
        f"{_peak(_rows(result, CAUSAL, SDPA))} for SDPA, {_peak(eager)} from the pattern."
    )
    return told + _windowed(result) + _of_the_model(result)


def _ratio(rows: pd.DataFrame) -> str:
    """At the longest text: the median, and all repetitions."""
    at = rows[rows.n == rows.n.max()].ratio
    return f"{at.median():.2f} ({at.min():.2f} to {at.max():.2f}) at {rows.n.max()} tokens"


def _peak(rows: pd.DataFrame) -> str:
    return f"{rows.peak_mb.iloc[-1]:.0f} MB at {rows.n.iloc[-1]} tokens"


def _lens(result: Result) -> str:
    rows = _rows(result, CAUSAL, LENS)
    return f", TransformerLens's attention without them {_ratio(rows)}" if len(rows) else ""


def _windowed(result: Result) -> str:
    rows = _rows(result, WINDOW, STATISTICS)
    if not len(rows):
        return ""
    return (
        f" With a window of {result.run['config']['window']} keys, for which SDPA needs a mask, the statistics take "
        f"{_ratio(rows)} and {_peak(rows)}; SDPA {_peak(_rows(result, WINDOW, SDPA))}."
    )


def _of_the_model(result: Result) -> str:
    variants = {"with every statistic": STATISTICS, "on SDPA": SDPA, "in TransformerLens": LENS}
    rows = {said: _rows(result, MODEL, variant) for said, variant in variants.items()}
    found = [f"{_peak(one)} {said}" for said, one in rows.items() if len(one)]
    return f" A model of two layers holds {', '.join(found)}." if found else ""
