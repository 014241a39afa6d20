"""The length at which two texts become one, by number format: predicted for one head, measured in models."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from analyses.core.results import Result
from figures import parts

NEEDS = ("collapse_vs_precision",)
HEAD, RANDOM, CHECKPOINT = "one head", "random model", "checkpoint"
ARMS = {"weights": "C0", "activations": "C1", "accumulation": "C2"}
TEXTS = {"ones": "C0", "digits": "C1"}
SHORT = {"float8_e4m3fn": "e4m3", "float8_e5m2": "e5m2", "bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def draw(tables: Mapping[str, Result]) -> Figure:
    """One head against 1/u with its prediction; then models by format and arm, for ones and for digits."""
    result = tables["collapse_vs_precision"]
    figure, axes = parts.sheet(1, 3, height=3.1, sharey=False)
    _one_head(axes[0, 0], result)
    for ax, text in zip(axes[0, 1:], TEXTS, strict=True):
        _models(ax, result, text)
    low = min(ax.get_ylim()[0] for ax in axes[0, 1:])
    high = max(ax.get_ylim()[1] for ax in axes[0, 1:])
    for ax in axes[0, 1:]:
        ax.set_ylim(low, high)
        shown = [2**power for power in range(1, 31) if low <= 2**power <= high]
        ax.set_yticks(shown[:: 1 + len(shown) // 8], [str(n) for n in shown[:: 1 + len(shown) // 8]])
    for ax, letter in zip(axes[0], "abc", strict=True):
        parts.panel_letter(ax, letter)
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), columnspacing=1.1, handletextpad=0.4)
    return figure


def _rows(result: Result, **where: str) -> pd.DataFrame:
    table = result.table
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def _spread(seeds: pd.Series, width: float) -> np.ndarray:
    """A small step aside for every seed, so that their points do not cover each other."""
    order = seeds.rank(method="dense").to_numpy() - 1
    return width * (order / max(order.max(initial=0), 1) - 0.5)


def _one_head(ax: Axes, result: Result) -> None:
    ax.set(xscale="log", yscale="log", xlabel="1 / unit roundoff", ylabel="critical length (tokens)")
    ax.set_xscale("log", base=2)
    for text, color in TEXTS.items():
        rows = _rows(result, subject=HEAD, text=text).dropna(subset=["roundoff"])
        for criterion, face in (("half", color), ("all", "none")):
            found = rows[rows.criterion == criterion].dropna(subset=["critical"])
            x = 1 / found.roundoff * 2 ** _spread(found.seed, 0.8)
            ax.plot(x, found.critical, "o", markerfacecolor=face, color=color, markersize=3, zorder=5)
        half = rows[rows.criterion == "half"]
        theory = np.exp(np.log(half.predicted).groupby(1 / half.roundoff).mean())
        theory = theory[theory <= half.longest.max()]
        parts.theory(ax, theory.index, theory, "predicted" if text == "ones" else "", at=0.75)
        ax.plot([], [], "o", color=color, label=text)
    ax.legend(loc="upper left", handletextpad=0.2)
    powers = sorted({1 / u for u in result.table.roundoff.dropna()})
    near = [after <= 2 * power for power, after in zip(powers, [*powers[1:], np.inf], strict=True)]  # names would touch
    ax.set_xticks(
        powers, ["" if one else f"$2^{{{round(np.log2(power))}}}$" for power, one in zip(powers, near, strict=True)]
    )
    ax.xaxis.set_minor_formatter(NullFormatter())


def _models(ax: Axes, result: Result, text: str) -> None:
    """Points are seeds; an arrow marks a length that was not reached."""
    formats = list(dict.fromkeys(result.table.format))
    width = 0.8 / len(ARMS)
    for at, (arm, color) in enumerate(ARMS.items()):
        for subject, marker in ((RANDOM, "o"), (CHECKPOINT, "D")):
            rows = _rows(result, subject=subject, arm=arm, text=text, criterion="half")
            where = rows.format.map(formats.index).to_numpy(float) + (at - 1) * width
            where = where + _spread(rows.seed, 0.7 * width)
            open_end = rows.critical.isna().to_numpy()
            if len(rows):
                label = arm if subject == RANDOM else None
                ax.plot(where[~open_end], rows.critical[~open_end], marker, color=color, markersize=3, label=label)
                ax.plot(where[open_end], rows.longest[open_end], "^", color=color, markersize=3.5, alpha=0.4)
    if (result.table.subject == CHECKPOINT).any():
        ax.plot([], [], "D", color="0.4", markersize=3, label=CHECKPOINT)
    ax.set(yscale="log", ylabel=f"{text}: length for half (tokens)")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xticks(range(len(formats)), [SHORT.get(name, name) for name in formats], rotation=60)
    ax.set_xlim(-0.6, len(formats) - 0.4)


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["collapse_vs_precision"]
    table, config = result.table, result.run["config"]
    n = table.seed.nunique()
    half = table[(table.subject == HEAD) & (table.criterion == "half")].dropna(subset=["critical", "predicted"])
    ratio = np.exp(np.log(half.critical / half.predicted).groupby(half.text).mean())

    def typical(arm: str, text: str, subject: str = RANDOM, criterion: str = "half") -> str:
        rows = _rows(result, subject=subject, arm=arm, text=text, criterion=criterion, format="bfloat16")
        missed = int(rows.critical.isna().sum())
        beyond = f" ({missed} of {len(rows)} beyond {rows.longest.max()})" if missed else ""
        return f"{rows.critical.fillna(rows.longest).median():.0f}{beyond}"

    held = table[(table.subject == RANDOM) & (table.arm == "weights") & (table.criterion == "half")]
    held = held[(held.format == "bfloat16") & (held.text == "ones")].held_share
    told = f"{held.dropna().max():.0%}" if held.notna().any() else "none"
    checkpoint = " Diamonds: the checkpoint." if (table.subject == CHECKPOINT).any() else ""
    return (
        f"The first length at which a text and the same text with its last token once more are one, {n} seeds "
        f"(points). (a) One head of random vectors with its residual, rounded at the end: half of the coordinates "
        f"equal (filled) or all (open). Measured over predicted length, all float formats: "
        f"{ratio.get('ones', np.nan):.2f} for ones, {ratio.get('digits', np.nan):.2f} for random digits; in bfloat16 "
        f"{typical('stored', 'ones', HEAD)} and {typical('stored', 'digits', HEAD)} tokens. (b, c) Random models of "
        f"{config['shape']['n_layers']} layers in float32 with one thing in the format, compared in that format, means "
        f"over {config['neighbours']} lengths from each on; arrows: not up to this length. In bfloat16 ones are half "
        f"equal at {typical('weights', 'ones')} tokens where only weights are rounded, at "
        f"{typical('activations', 'ones')} where activations are and at {typical('accumulation', 'ones')} where sums "
        f"are: the errors of rounding at every step differ in the two texts, and keep them apart. Where half of the "
        f"coordinates are equal once rounded, at most {told} are in float32 (weights rounded). The best token is the "
        f"same from {typical('activations', 'digits', criterion='answer')} tokens on.{checkpoint}"
    )
