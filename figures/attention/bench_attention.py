"""What row statistics cost: time over SDPA and peak memory, against the number of tokens."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analyses.attention.cost import rates
from analyses.core.results import Result
from figures import parts

NEEDS = ("bench_attention",)
CAUSAL, WINDOW, MODEL = "causal", "window", "model"
SDPA, FUSED, STATISTICS, TWICE = "SDPA", "fused, output only", "fused + statistics", "SDPA twice"
EAGER, EAGER_STATISTICS, LENS = "eager", "eager + statistics", "TransformerLens"
FLASH, CUDNN, MATH = "SDPA flash", "SDPA cuDNN", "SDPA math"
LOOKS = {  # colour and marker: each tells the variant alone
    SDPA: ("C6", "o"),
    TWICE: ("C2", "v"),
    FUSED: ("C5", "D"),
    STATISTICS: ("C0", "s"),
    LENS: ("C3", "P"),
    EAGER: ("C4", "^"),
    EAGER_STATISTICS: ("C1", "X"),
    FLASH: ("#882255", "<"),
    CUDNN: ("#999933", ">"),
    MATH: ("0.6", "p"),
}
REQUIRED = 16384  # tokens at which the cost of the statistics on a GPU is read
RATIOS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)


def draw(tables: Mapping[str, Result]) -> Figure:
    """(a) Time over that of SDPA beside it, every repetition and the medians; (b) peak memory.  On a GPU also (c)
    operations per second beside those of a matrix product, and (d) the statistics over the same kernel without them."""
    result = tables["bench_attention"]
    gpu = result.run["device"] == "cuda"
    figure, axes = parts.sheet(2, 2, height=6.2) if gpu else parts.sheet(1, 2, height=3.3)
    for ax in axes.flat:
        lengths = np.sort(result.table.n[result.table.workload != MODEL].unique())
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        every = 1 if len(lengths) <= 7 else 2  # names that would touch
        names = [_length(n) if at % every == 0 else "" for at, n in enumerate(reversed(lengths))]
        ax.set_xticks(lengths, reversed(names))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set(xlabel="tokens (queries, and keys)", xlim=(lengths[0] / 1.25, lengths[-1] * 1.25))
    _time(axes[0, 0], result)
    _memory(axes[0, 1], result)
    if gpu:
        _operations(axes[1, 0], result)
        _statistics(axes[1, 1], result)
    for ax, letter in zip(axes.flat, "abcd", strict=False):
        parts.panel_letter(ax, letter)
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _length(n: int) -> str:
    units = {2**20: "M", 2**10: "k", 1: ""}
    return next(f"{n // size}{unit}" for size, unit in units.items() if n % size == 0)


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
    eager = _rows(result, CAUSAL, EAGER_STATISTICS).n.max()
    last = min(last, np.nanmax([eager, 4 * first]))  # not far above all else
    parts.theory(ax, [first, last], [2 * held.max(), 2 * held.max() * (last / first) ** 2], "as n²", at=0.6)
    ax.set_ylabel("peak memory of a call (MB)")


def _operations(ax: Axes, result: Result) -> None:
    """TFLOP/s of each variant on the left, and on the right as a share of the matrix product's."""
    product = float(np.median(result.arrays[rates.MATMUL]))
    highest = product
    for variant, (color, marker) in LOOKS.items():
        rows = rates.causal(result, variant)
        if len(rows):
            ax.plot(rows.n, rows.tflops, ".", color=color, markersize=3, markeredgewidth=0, alpha=0.5, zorder=2)
            middle = rows.groupby("n").tflops.median()
            ax.plot(middle.index, middle, color=color, marker=marker, label=_label(result, variant), zorder=3)
            highest = max(highest, rows.tflops.max())
    ax.set(yscale="linear", ylim=(0, 1.1 * highest), ylabel="attention's operations (TFLOP/s)")
    parts.theory(ax, ax.get_xlim(), [product, product], "matrix product, same run", at=0.3)
    share = ax.secondary_yaxis(
        "right", functions=(lambda rate: 100 * rate / product, lambda part: part * product / 100)
    )
    share.set_ylabel("share of the matrix product's (%)")


def _statistics(ax: Axes, result: Result) -> None:
    """Over the same kernel without them, and over torch's fastest kernel at each length."""
    pairs = rates.over_output_only(result)
    fastest = pd.DataFrame({n: rates.over_fastest(result, n) for n in pairs.index}).T
    named = {"the same kernel without": (pairs, LOOKS[FUSED]), "torch's fastest": (fastest, LOOKS[SDPA])}
    for name, (ratios, (color, marker)) in named.items():
        ax.plot(ratios.index, ratios, ".", color=color, markersize=3, markeredgewidth=0, alpha=0.5, zorder=2)
        ax.plot(ratios.index, ratios.median(axis=1), color=color, marker=marker, label=f"over {name}", zorder=3)
    ax.set(yscale="linear", ylabel="time with every statistic (1)")
    low, high = np.nanmin([pairs.min(), fastest.min()]), np.nanmax([pairs.max(), fastest.max()])
    low, high = min(low, 1), max(high, 1.1)
    ax.set_ylim(low - 0.1 * (high - low), high + 0.35 * (high - low))  # room for the legend
    parts.theory(ax, ax.get_xlim(), [1, 1], "no cost", at=0.85)
    ax.legend(loc="upper center")


def caption(tables: Mapping[str, Result]) -> str:
    """What ran where, and the numbers at the longest text of each kind; all from the table and its run."""
    result = tables["bench_attention"]
    if result.run["device"] == "cuda":
        return _on_a_gpu(result) + _windowed(result) + _of_the_model(result) + _left_out(result)
    run, config = result.run, result.run["config"]
    causal = result.table[result.table.workload == CAUSAL]
    control = causal[causal.variant == SDPA].ratio.quantile([0.25, 0.75]).to_numpy()
    fused, eager = _rows(result, CAUSAL, STATISTICS), _rows(result, CAUSAL, EAGER_STATISTICS)
    told = (
        f"Causal attention, {config['n_heads']} heads of {config['d_head']}, {run['dtype']}, one thread of "
        f"{run['platform']}, torch {run['versions']['torch']}; {causal.seed.nunique()} repetitions, each beside one "
        f"of SDPA (points; lines are "
        f"medians). (a) Time over SDPA's. With every row statistic {config['backend']} takes {_ratio(fused)}, for the "
        f"output alone {_ratio(_rows(result, CAUSAL, FUSED))}; from the pattern the same statistics take "
        f"{_ratio(eager)}{_lens(result)}. SDPA beside itself: half of the repetitions lie in {control[0]:.2f} to "
        f"{control[1]:.2f}. (b) Peak memory of one call, outputs included: {_peak(fused)} with every statistic, "
        f"{_peak(_rows(result, CAUSAL, SDPA))} for SDPA, {_peak(eager)} from the pattern."
    )
    return told + _windowed(result) + _of_the_model(result)


def _on_a_gpu(result: Result) -> str:
    run, config = result.run, result.run["config"]
    sdpa, fused, plain = (_rows(result, CAUSAL, variant) for variant in (SDPA, STATISTICS, FUSED))
    control = sdpa.ratio.quantile([0.25, 0.75]).to_numpy()
    eager, pairs = _rows(result, CAUSAL, EAGER_STATISTICS), rates.over_output_only(result)
    lengths = sorted({pairs.index[pairs.index <= max(REQUIRED, pairs.index.min())].max(), pairs.index.max()})
    return (
        f"Causal attention, {config['n_heads']} heads of {config['d_head']}, {run['dtype']}, {run['gpu']}, torch "
        f"{run['versions']['torch']}, triton {run['triton']}; {sdpa.seed.nunique()} repetitions, each the median of "
        f"calls in turns with SDPA's (points; lines are medians). (a) Time over SDPA's. With every row statistic "
        f"{config['backend']} takes {_ratio(fused)}, for the output alone {_ratio(plain)}"
        + (f"; from the pattern the same statistics take {_ratio(eager)}" if len(eager) else "")
        + f"{_lens(result)}. SDPA beside itself: half of the repetitions lie in {control[0]:.2f} to {control[1]:.2f}. "
        f"(b) Peak memory of one call, outputs included: {_peak(fused)} with every statistic, {_peak(sdpa)} for SDPA"
        + (f", {_peak(eager)} from the pattern" if len(eager) else "")
        + f". (c) Operations of the attention (2 n^2 for each number of a head) in the time of the call; a product of "
        f"square matrices in {run['matmul']} ran at {np.median(result.arrays[rates.MATMUL]):.0f} TFLOP/s. "
        + " ".join(_rates_at(result, n) for n in lengths)
        + " (d) The statistics over the same kernel without, and over the fastest of torch's: "
        + "; ".join(_paired_at(result, n) for n in lengths)
        + "."
    )


def _rates_at(result: Result, n: int) -> str:
    product, found = np.median(result.arrays[rates.MATMUL]), []
    for variant in (STATISTICS, FUSED, rates.fastest_of_torch(result, n)):
        rows = rates.causal(result, variant)
        rate = rows.tflops[rows.n == n].median()
        found.append(f"{_label(result, variant)} {rate:.0f} ({rate / product:.0%})")
    return f"At {n} tokens, in TFLOP/s and as a share of that: {'; '.join(found)}."


def _paired_at(result: Result, n: int) -> str:
    fastest = rates.over_fastest(result, n)
    each = [(rates.over_output_only(result).loc[n], ""), (fastest, f" ({rates.fastest_of_torch(result, n)})")]
    told = [f"{at.median():.2f} ({at.min():.2f} to {at.max():.2f}){name}" for at, name in each]
    return f"{' and '.join(told)} at {n} tokens"


def _left_out(result: Result) -> str:
    """Each reason once, with the lengths that it is true of."""
    lengths: dict[tuple[str, str], list[str]] = {}
    for case, reason in result.run["left_out"].items():
        what, n = case.rsplit(", ", 1)
        lengths.setdefault((what, reason.rstrip(".")), []).append(n)
    told = [f"{what} at {', '.join(at)} ({reason})" for (what, reason), at in lengths.items()]
    return f" Left out: {'; '.join(told)}." if told else ""


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
