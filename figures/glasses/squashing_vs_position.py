"""Sensitivity of the last token by position: closed forms, random values, step 0 against trained, and the bound."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from analyses.core.results import Result
from figures import parts

NEEDS = ("squashing_vs_position",)
UNIFORM, DEEP, WINDOW, SINK, STEEP = "uniform", "uniform, 16 tokens", "window", "sink", "steep scores"
RANDOM, UNTRAINED, TRAINED = "random values", "untrained", "trained"
FIXED, THROUGH = "weights fixed", "through the softmax"
RANDOM_LAW, IDENTITY_LAW = "law of random values", "law of identity values"
STEP_0 = "step 0"
GREY = "0.3"


def draw(tables: Mapping[str, Result]) -> Figure:
    """Six panels; thin lines are seeds, dashed grey lines are theory."""
    result = tables["squashing_vs_position"]
    figure, axes = parts.sheet(2, 3, height=4.6)
    _known(axes[0, 0], result)
    _deep(axes[0, 1], result)
    _random(axes[0, 2], result)
    _born_and_trained(axes[1, 0], result)
    _ratio(axes[1, 1], result)
    _beside_the_bound(axes[1, 2], result)
    for ax, letter in zip(axes.flat, "abcdef", strict=True):
        parts.panel_letter(ax, letter)
    return figure


# Curves -------------------------------------------------------------------------------------------


def _curve(result: Result, arm: str, quantity: str) -> np.ndarray:
    """(seed, position); texts are averaged, after each was divided by its sum for the shares."""
    found = [name for name in result.arrays if name.startswith(f"{arm}: {quantity} (")]
    return result.arrays[found[0]].astype(float)


def _shares(result: Result, arm: str, quantity: str) -> np.ndarray:
    """(seed, position): of the sum over positions, mean over the texts."""
    found = _curve(result, arm, quantity)
    return (found / found.sum(-1, keepdims=True)).mean(1)


def _short(result: Result) -> int:
    return int(result.table[result.table.arm == SINK].n.iloc[0])


def _seeds(ax: Axes, curves: np.ndarray, color: str, label: str) -> None:
    at = np.arange(1, curves.shape[1] + 1)
    ax.plot(at, curves.T, color=color, linewidth=0.4, alpha=0.4, zorder=2)
    ax.plot(at, curves.mean(0), color=color, linewidth=1.3, zorder=3, label=label)


# Panels -------------------------------------------------------------------------------------------


def _known(ax: Axes, result: Result) -> None:
    n = _short(result)
    for arm, color in ((UNIFORM, "C0"), (SINK, "C1"), (WINDOW, "C2")):
        name = f"{arm}, {n} tokens"
        measured, law = (_curve(result, name, quantity)[0] for quantity in ("measured", "law"))
        total, at = law.sum(), np.arange(1, n + 1)
        seen = law > 0
        ax.plot(at[seen], law[seen] / total, color=GREY, linestyle=(0, (4, 2)), linewidth=1.0, zorder=4)
        some = np.unique(np.concatenate([np.geomspace(1, n, 14), np.linspace(1, n, 14)]).astype(int)) - 1
        some = some[seen[some]]
        ax.plot(at[some], measured[some] / total, "o", color=color, markersize=2.5, label=arm)
    ax.set(yscale="log", xlabel="position (tokens)", ylabel="share of sensitivity")
    ax.legend(loc="lower left", handletextpad=0.1)


def _deep(ax: Axes, result: Result) -> None:
    rows = result.table[result.table.arm == DEEP].sort_values("depth")
    ax.plot(rows.depth, rows["first"], "o", color="C0", markersize=4, label="first token")
    ax.plot(rows.depth, rows["last"], "s", color="C3", markersize=3, label="last token")
    parts.theory(ax, rows.depth, rows.law_first, "law", at=0.3)
    ax.axhline(1, color="0.8", linewidth=0.8, zorder=1)
    ax.set(xscale="log", xlabel="layers, 16 tokens", ylabel="share of sensitivity", ylim=(-0.05, 1.1))
    ax.set_xticks(rows.depth, [str(depth) for depth in rows.depth])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(loc="center right")


def _random(ax: Axes, result: Result) -> None:
    ax.set(yscale="log", xlabel="position (tokens)", ylabel="sensitivity (rms)")
    _seeds(ax, _curve(result, RANDOM, "measured"), "C0", "untrained, no norm")
    for law, at in ((RANDOM_LAW, 0.6), (IDENTITY_LAW, 0.5)):
        line = _curve(result, RANDOM, law)[0]
        parts.theory(ax, np.arange(1, len(line) + 1), line, law.removeprefix("law of "), at=at)
    ax.legend(loc="lower left")
    low, high = ax.get_ylim()
    ax.set_ylim(low / 2.5, high)


def _born_and_trained(ax: Axes, result: Result) -> None:
    ax.set(yscale="log", xlabel="position (tokens)", ylabel="share of sensitivity")
    for arm, color in ((UNTRAINED, "C2"), (TRAINED, "C0")):
        _seeds(ax, _shares(result, arm, THROUGH), color, STEP_0 if arm == UNTRAINED else arm)
    law = _shares(result, UNTRAINED, RANDOM_LAW).mean(0)
    parts.theory(ax, np.arange(1, len(law) + 1), law, "random values", at=0.45)
    ax.legend(loc="upper left")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * 8)


def _ratio(ax: Axes, result: Result) -> None:
    ax.set(yscale="log", xlabel="position (tokens)", ylabel="share, trained / step 0")
    for quantity, color in ((THROUGH, "C0"), (FIXED, "C4")):
        _seeds(ax, _shares(result, TRAINED, quantity) / _shares(result, UNTRAINED, quantity), color, quantity)
    ax.axhline(1, color=GREY, linestyle=(0, (4, 2)), linewidth=1.0)
    ax.legend(loc="upper left")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * 4)


def _beside_the_bound(ax: Axes, result: Result) -> None:
    ax.set(yscale="log", xlabel="position (tokens)", ylabel="sensitivity / bound")
    bounds = [name for name in result.arrays if name.startswith(f"{TRAINED}: bound (")]
    if not bounds:
        ax.text(0.5, 0.5, "no bound known", transform=ax.transAxes, ha="center", va="center")
        return
    drawn = ((UNTRAINED, THROUGH, "C2", STEP_0), (TRAINED, THROUGH, "C0", TRAINED))
    for arm, quantity, color, label in (*drawn, (TRAINED, FIXED, "C4", "trained, fixed")):
        ratio = (_curve(result, arm, quantity) / _curve(result, arm, "bound")).max(1)
        _seeds(ax, ratio, color, label)
    n = ratio.shape[1]
    parts.theory(ax, [1, n], [1, 1], "theorem 5.1", at=0.78)
    ax.legend(loc="upper left", bbox_to_anchor=(0, 0.86))
    ax.set_ylim(ax.get_ylim()[0] / 2, 8)


# The caption --------------------------------------------------------------------------------------


def _rows(result: Result, arm: str) -> pd.DataFrame:
    return result.table[result.table.arm == arm]


def _subject(result: Result) -> str:
    config = result.run["config"]
    if isinstance(config["model"], str):
        return f"The checkpoint {Path(config['model']).name} and untrained twins, {result.run['text']['tokens']}"
    return "A transformer trained on bytes of Python's standard library, and the same at step 0"


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["squashing_vs_position"]
    table, known = result.table, result.table[result.table.law_error.notna()]
    uniform, deep = _rows(result, UNIFORM).sort_values("n"), _rows(result, DEEP).sort_values("depth")
    random, born, trained = (_rows(result, arm) for arm in (RANDOM, UNTRAINED, TRAINED))
    n, texts = trained.seed.nunique(), len(trained)
    change = {name: trained[name].mean() / born[name].mean() for name in ("first", "late")}
    shares = ", ".join(f"{share:.3f}" for share in deep["first"])
    depths = ", ".join(map(str, deep.depth))
    words = (
        f"Sensitivity |dy_n/dv_i| of the last token to every position. (a) Averaging models of "
        f"{int(uniform.depth.iloc[0])} layers, plain, with a first token that counts "
        f"{result.run['config']['sink']}-fold (sink) and with a window of {result.run['config']['window']}: the closed "
        f"forms (dashed) hold to {known.law_error.max():.0e}; the law of long texts to "
        f"{uniform.limit_error.iloc[-1]:.4f} at {uniform.n.iloc[-1]} tokens. (b) The first of 16 tokens holds {shares} "
        f"at {depths} layers. (c) Attention at birth, {random.seed.nunique()} seeds: "
        f"{random.random_ratio.min():.3f} to {random.random_ratio.max():.3f} of the law for random values, down to "
        f"{random.identity_ratio.min():.2f} of the one for identity values. (d to f) {_subject(result)}: {n} "
        f"seed{'s' if n > 1 else ''}, {texts} texts of {int(trained.n.iloc[0])} tokens. (d) Dashed, the "
        f"law of random values at the norms' median scale, an approximation. (d, e) Training changes the share of the "
        f"first position {change['first']:.2f}-fold, of the last eighth {change['late']:.2f}-fold; "
        f"through the softmax a position weighs {trained.softmax_path.median():.2f} times as much as with weights "
        f"fixed ({born.softmax_path.median():.2f} at step 0). "
    )
    held = table[table.held.notna()]
    if trained.held.isna().any():
        return words + f"(f) The theorem has no bound for this model ({result.run['bound'].removeprefix('none: ')})."
    steep = _rows(result, STEEP)
    return words + (
        f"(f) Largest ratio of the texts. With weights fixed {held.held.mean():.0%} of all positions of {len(held)} "
        f"curves lie under the bound; through the softmax {trained.above.mean():.0%} of the trained model's lie above "
        f"it, whose bound is {1 / trained.furthest_above.max():.0f} times too large at the closest position, but "
        f"{steep.above.mean():.0%} of a constructed head's with a steep score (up to {steep.furthest_above.max():.0f} "
        f"times)."
    )
