"""How far two texts stay apart that differ in how often their last token stands there, against their length."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from analyses.core.results import Result
from figures import parts

NEEDS = ("collapse_vs_length",)
MODEL, HEAD, WEIGHTS = "model", "one head", "weights"
NONE, ROPE, STEEP, SHALLOW, LEARNED = "none", "rope", "alibi 1/2", "alibi 1/256", "learned"
CHECKPOINT, TWIN = "checkpoint", "its untrained twin"
COLOURS = {NONE: "C0", ROPE: "C1", STEEP: "C2", SHALLOW: "C4", LEARNED: "C3", CHECKPOINT: "black", TWIN: "0.55"}
DOTTED = (0, (1, 1.2))
FLOOR = 1e-6  # below it the axes end: what is left there is rounding


def draw(tables: Mapping[str, Result]) -> Figure:
    """Six panels against a logarithmic length: the known cases, three texts by position code, and the control."""
    result = tables["collapse_vs_length"]
    figure, axes = parts.sheet(2, 3, height=4.9)
    _one_head(axes[0, 0], result)
    _weights(axes[0, 1], result)
    for ax, text in zip((axes[0, 2], axes[1, 0], axes[1, 1]), ("ones", "digits", "separated"), strict=True):
        _models(ax, result, text)
    _control(axes[1, 2], result)
    for ax, letter in zip(axes.flat, "abcdef", strict=True):
        parts.panel_letter(ax, letter)
        ax.set_xlabel("tokens of the shorter text")
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), columnspacing=1.1, handletextpad=0.4)
    return figure


def _select(result: Result, **where: str) -> pd.DataFrame:
    table = result.table
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def _typical(rows: pd.DataFrame, column: str) -> pd.Series:
    """Geometric mean over seeds, by length."""
    return np.exp(np.log(rows.set_index("length")[column].clip(lower=1e-30)).groupby("length").mean())


def _curve(ax: Axes, rows: pd.DataFrame, column: str, color: str, label: str | None, linestyle="-") -> None:
    """A thin line per seed, a thick one for their geometric mean."""
    if not len(rows):
        return
    wide = rows.pivot(index="length", columns="seed", values=column).clip(lower=1e-30)
    ax.plot(wide.index, wide, color=color, linewidth=0.5, alpha=0.3, linestyle=linestyle, zorder=2)
    mean = _typical(rows, column)
    ax.plot(mean.index, mean, color=color, linewidth=1.8, linestyle=linestyle, label=label, zorder=4)


def _logarithmic(ax: Axes, label: str, low: float | None = None) -> None:
    ax.set(xscale="log", yscale="log", ylabel=label)
    lengths = np.unique(np.concatenate([line.get_xdata() for line in ax.lines]))
    shown = lengths[[0, len(lengths) // 2, -1]]
    ax.set_xticks(shown, [f"{length:g}" for length in shown])
    ax.set_xticks(lengths, minor=True)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_minor_formatter(NullFormatter())
    if low is not None:
        ax.set_ylim(bottom=low)


def _power(ax: Axes, series: pd.Series, power: float, label: str, factor: float, at: float) -> None:
    """A line n^power beside a curve, through its last point times `factor`."""
    x = series.index.to_numpy(float)
    x = x[x >= x[-1] / 64]
    parts.theory(ax, x, series.iloc[-1] * factor * (x / x[-1]) ** power, label, at=at)


def _one_head(ax: Axes, result: Result) -> None:
    for position in (NONE, ROPE, STEEP, SHALLOW, LEARNED):
        _curve(ax, _select(result, case=HEAD, text="digits", position=position), "l1", COLOURS[position], position)
    ones = _select(result, case=HEAD, text="ones", position=NONE)
    _curve(ax, ones, "l1", COLOURS[NONE], None, DOTTED)
    _logarithmic(ax, "one head, 1-norm (σ of a value)", FLOOR)
    digits, rope = (_typical(_select(result, case=HEAD, text="digits", position=p), "l1") for p in (NONE, ROPE))
    _power(ax, digits, -1, "$n^{-1}$", 0.35, 0.6)
    _power(ax, rope, -0.5, "$n^{-1/2}$", 0.4, 0.75)
    _power(ax, _typical(ones, "l1"), -2, "$n^{-2}$", 0.25, 0.35)


def _weights(ax: Axes, result: Result) -> None:
    for text, color in (("perturbed prefix", "0.6"), ("alternating logits", "black")):
        rows = _select(result, case=WEIGHTS, text=text)
        _curve(ax, rows, "l1", color, None)
        theory = _typical(rows, "theory")
        _logarithmic(ax, "softmax weights, 1-norm (0 to 2)", 3e-4)
        label = "$20.7/n$" if text == "perturbed prefix" else "$2(e-1)/(e+1)$"
        parts.theory(ax, theory.index, theory, label, at=0.35 if text == "perturbed prefix" else 0.6)
    ax.annotate("first 200 logits perturbed", (0.04, 0.05), xycoords="axes fraction", fontsize=7)
    ax.set_ylim(top=8)
    ax.annotate("1010… against 0101…", (0.04, 0.9), xycoords="axes fraction", fontsize=7)


def _models(ax: Axes, result: Result, text: str) -> None:
    rows = _select(result, case=MODEL, text=text, pair="repeated")
    for position in (name for name in COLOURS if name in set(rows.position)):
        _curve(ax, rows[rows.position == position], "linf", COLOURS[position], position)
    _logarithmic(ax, f"{text}, inf-norm", FLOOR if text == "ones" else 1e-4)
    ax.axhline(2.0**-8, color="0.75", linewidth=0.8, zorder=1)
    ax.annotate("2⁻⁸", (0.02, 2.0**-8), xycoords=("axes fraction", "data"), va="bottom", fontsize=6.5)


def _control(ax: Axes, result: Result) -> None:
    """Repeated pairs over their middle control, without positions."""
    for text, color in (("ones", "black"), ("digits", "0.55")):
        rows = _select(result, case=MODEL, text=text, position=NONE).set_index(["seed", "length"])
        share = rows[rows.pair == "repeated"].relative / rows[rows.pair == "middle"].relative
        _curve(ax, share.rename("share").reset_index(), "share", color, None)
    _logarithmic(ax, "last token over middle token")
    ends = {}
    for text in ("ones", "digits"):
        rows = _select(result, case=MODEL, text=text, position=NONE).set_index(["seed", "length"])
        share = rows[rows.pair == "repeated"].relative / rows[rows.pair == "middle"].relative
        ends[text] = _typical(share.rename("share").reset_index(), "share")
    parts.theory(ax, ends["digits"].index, np.full(len(ends["digits"]), ends["digits"].iloc[0]), "constant", at=0.3)
    _power(ax, ends["ones"], -1, "$n^{-1}$", 0.5, 0.3)
    for text, color in (("ones", "black"), ("digits", "0.55")):
        place = (ends[text].index[-1], ends[text].iloc[-1])
        ax.annotate(text, place, (0, 6), textcoords="offset points", ha="right", fontsize=7, color=color)


def _end(rows: pd.DataFrame, column: str) -> tuple[float, float]:
    found = _typical(rows, column)
    return found.iloc[0], found.iloc[-1]


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["collapse_vs_length"]
    table, config = result.table, result.run["config"]
    models = table[table.case == MODEL]
    n, shape, longest = table.seed.nunique(), config["shape"], models.length.max()
    weights = _select(result, case=WEIGHTS, text="perturbed prefix")
    product = (weights.l1 * weights.length)[weights.length == weights.length.max()].mean()

    def share(text: str, position: str) -> str:
        rows = _select(result, case=MODEL, text=text, position=position, pair="repeated")
        return f"{rows[rows.length == longest].identical.mean():.0%}"

    def last(text: str, position: str) -> str:
        return f"{_end(_select(result, case=MODEL, text=text, position=position, pair='repeated'), 'linf')[1]:.0e}"

    doubled = _select(result, case="doubled, no mask", position=NONE).linf.max()
    beside = table[table.pair == "doubled"]
    beside = beside[(beside.case != "doubled, no mask") | (beside.position != NONE)].linf.min()
    checkpoint = ""
    if CHECKPOINT in set(models.position):
        ends = _select(result, case=MODEL, text="ones", position=CHECKPOINT, pair="repeated")
        checkpoint = (
            f" The checkpoint (black) goes from {_end(ends, 'linf')[0]:.2g} to {_end(ends, 'linf')[1]:.2g} (c)."
        )
    return (
        f"A text beside the same text with its last token once more, {n} seeds (thin), geometric means (thick). "
        f"(a) One head of random vectors: random tokens (solid), a prefix and copies of the last (dotted); dashed: the "
        f"derived rates. ALiBi of slope 1/2 ends at {_head_ratio(result, STEEP):.2f} times where it began, without "
        f"positions at {_head_ratio(result, NONE):.4f}. (b) n times the change of the weights ends at {product:.1f}. "
        f"(c to e) Behind the final norm of {shape['n_layers']} random layers (pre-RMSNorm, width {shape['d_model']}), "
        f"prompts of {config['prompt']} tokens; grey: half of bfloat16's spacing near 1. At {longest} tokens ones are "
        f"{last('ones', NONE)} apart and random digits {last('digits', NONE)}, without positions, and "
        f"{share('ones', NONE)} and {share('digits', NONE)} of the coordinates are one bfloat16 number; with "
        f"separators {share('separated', NONE)}, and under steep ALiBi {share('separated', STEEP)}. (f) The control: "
        f"relative distance of the repeated pair over that of a pair which differs in one middle token, without "
        f"positions. A text and its doubling differ by {doubled:.0e} nats without mask and positions, by {beside:.1f} "
        f"or more with either."
        f"{checkpoint}"
    )


def _head_ratio(result: Result, position: str) -> float:
    first, last = _end(_select(result, case=HEAD, text="digits", position=position), "l1")
    return last / first
