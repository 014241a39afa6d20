"""W' after each token that is written: how far outputs and weights move, whose text moves them, and whether they
settle."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.core.results import Result
from figures import parts

NEEDS = ("curry_self_conditioning",)
OWN, TRUE, OTHER = "own", "true source", "other source"
EDITED, WITH, BAYES, BORN = "W'", "with text", "Bayes", "W', untrained"
TEXTS = {OWN: ("C0", "o", "the model's own text"), TRUE: ("C2", "s", "true source"), OTHER: ("C3", "D", "other source")}
PREDICTORS = {WITH: ("k", "model with text"), BAYES: ("C4", "Bayes's posterior"), BORN: ("0.65", "W', untrained")}
SOURCES = ("C0", "C1", "C2", "C4", "C5", "C6")
ENDS = 4  # steps at either end that are held against each other


def draw(tables: Mapping[str, Result]) -> Figure:
    """A panel of steps for each source; steps of the weights, whole ways, and whether squares add up."""
    result = tables["curry_self_conditioning"]
    sources = list(result.table.source.unique())
    columns = max(3, len(sources))
    figure, axes = parts.sheet(2, columns, height=5.4)
    for ax, source in zip(axes[0], sources, strict=False):
        _steps(ax, result, source)
    limits = [ax.get_ylim() for ax in axes[0, : len(sources)]]
    for ax in axes[0, : len(sources)]:
        ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    axes[0, 0].set_ylabel("KL(after || before), nats")
    _weights(axes[1, 0], result, sources)
    _ways(axes[1, 1], result, sources)
    _squares(axes[1, 2], result, sources)
    unused = [*axes[0, len(sources) :], *axes[1, 3:]]
    for ax in unused:
        ax.remove()
    kept = [ax for ax in axes.flat if ax not in unused]
    for ax, letter in zip(kept, "abcdefghijkl", strict=False):
        parts.panel_letter(ax, letter)
    figure.suptitle(title(result))
    figure.legend(handles=_keys(), loc="outside lower center", ncols=4, fontsize=7, columnspacing=1.2)
    return figure


def settling(result: Result, source: str) -> np.ndarray:
    """KL of the last steps of W' over that of the first, on the model's own text, by seed."""
    table = _of(result.table, source, OWN, EDITED)
    last = table[table.t > table.t.max() - ENDS].groupby("seed").kl.sum()
    return (last / table[table.t < ENDS].groupby("seed").kl.sum()).to_numpy()


def title(result: Result) -> str:
    """Whether W' settles on the model's own text, in words, in the median of the seeds."""
    settled = {source: bool(np.median(settling(result, source)) < 1) for source in result.table.source.unique()}
    calm, restless = ([source for source, one in settled.items() if one is which] for which in (True, False))
    if not restless:
        return "In most seeds a model that writes settles its own W'"
    return (
        f"In most seeds writing settles W' on {' and '.join(calm)}, not on {' and '.join(restless)}"
        if calm
        else _RESTLESS
    )


_RESTLESS = "In most seeds writing does not settle W'"


def _of(table: pd.DataFrame, source: str, text: str, predictor: str) -> pd.DataFrame:
    return table[(table.source == source) & (table.text == text) & (table.predictor == predictor)]


def _say(ax: Axes, what: str) -> None:
    ax.set_title(what, loc="right", fontsize=8)


def _steps(ax: Axes, result: Result, source: str) -> None:
    before, lowest, highest = result.run["config"]["start"], [], []
    for text, (color, _, _) in TEXTS.items():
        found = _of(result.table, source, text, EDITED).groupby(["seed", "t"]).kl.mean().unstack("t")
        if len(found) > 1:
            ax.plot(found.columns + before + 1, found.T, color=color, linewidth=0.5, alpha=0.3)
        ax.plot(found.columns + before + 1, found.mean(), color=color, linewidth=1.4, zorder=3)
        lowest.append(float(found.mean().min()))
        highest.append(float(found.mean().max()))
    for who, (color, _) in PREDICTORS.items():
        found = _of(result.table, source, OWN, who).groupby("t").kl.mean()
        ax.plot(found.index + before + 1, found, color=color, linestyle=(0, (4, 2)), linewidth=1.0)
        highest.append(float(found.max()))
    ax.set(yscale="log", xlabel="tokens in the text", ylim=(0.3 * min(lowest), 2 * max(highest)))
    _say(ax, source)


def _weights(ax: Axes, result: Result, sources: list[str]) -> None:
    before = result.run["config"]["start"] + 2  # BOS and the token that is added
    low = np.inf
    for source, color in zip(sources, SOURCES, strict=False):
        found = _of(result.table, source, OWN, EDITED).groupby(["seed", "t"]).weight_step.mean().unstack("t")
        x = found.columns + before
        if len(found) > 1:
            ax.plot(x, found.T, color=color, linewidth=0.5, alpha=0.3)
        ax.plot(x, found.mean(), color=color, linewidth=1.4, label=source)
        low = min(low, float(found.min().min()))
    top = float(found.mean().iloc[0])
    ax.set(xscale="log", yscale="log", xlabel="tokens read, BOS included", ylabel="|change of W'| / |W|")
    parts.theory(ax, x, top * x[0] / np.asarray(x), "1 / t", at=0.6)
    ticks = [int(x[0]), int(np.sqrt(x[0] * x[-1])), int(x[-1])]
    ax.set_xticks(ticks, [str(one) for one in ticks])
    ax.minorticks_off()
    ax.set_ylim(0.35 * min(low, top * x[0] / x[-1]), None)
    ax.legend(fontsize=6.5, loc="lower left")
    _say(ax, "the weights, own text")


def _ways(ax: Axes, result: Result, sources: list[str]) -> None:
    for at, source in enumerate(sources):
        for shift, (text, (color, marker, _)) in zip((-0.25, 0.0, 0.25), TEXTS.items(), strict=True):
            for who, fill in ((EDITED, color), (BAYES, "white")):
                rows = _of(result.table, source, text, who)
                found = rows.groupby(["seed", "path"]).kl.sum().groupby("seed").mean().to_numpy()
                _points(ax, at + shift + (0.08 if who == BAYES else 0.0), found, color, marker, fill)
    ax.set_yscale("log")
    ax.set_xticks(range(len(sources)), sources, fontsize=7)
    ax.set(xlim=(-0.5, len(sources) - 0.5), ylabel="KL of all steps, nats")
    _say(ax, "whose text moves W'")


def squares(result: Result, source: str, who: str) -> np.ndarray:
    """Sum of squared steps over the squared way, by seed, on the model's own text."""
    table = _of(result.table, source, OWN, who)
    way = table[table.t == table.t.max()].groupby("seed").from_start.sum()
    return (table.groupby("seed").squared.sum() / way).to_numpy()


def _squares(ax: Axes, result: Result, sources: list[str]) -> None:
    shown = {EDITED: ("C0", "o"), WITH: ("k", "^"), BAYES: ("C4", "v"), BORN: ("0.65", "x")}
    for at, source in enumerate(sources):
        for shift, (who, (color, marker)) in zip((-0.27, -0.09, 0.09, 0.27), shown.items(), strict=True):
            _points(ax, at + shift, squares(result, source, who), color, marker, color)
    even = ax.axhline(1, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, label="martingale")
    ax.set_yscale("log")
    ax.set_xticks(range(len(sources)), sources, fontsize=7)
    ax.set(xlim=(-0.5, len(sources) - 0.5), ylabel="squared steps / squared way")
    handles = [Line2D([], [], linestyle="none", color=c, marker=m, label=who) for who, (c, m) in shown.items()]
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.55)
    ax.legend(handles=[*handles, even], fontsize=6.5, loc="upper left", ncols=2, columnspacing=0.8, handletextpad=0.4)
    _say(ax, "do steps add up?")


def _points(ax: Axes, at: float, values: np.ndarray, color: str, marker: str, face: str) -> None:
    style = {"linestyle": "none", "color": color, "marker": marker, "markerfacecolor": face}
    ax.plot([at] * len(values), values, markersize=2.4, alpha=0.35, markeredgewidth=0.6, **style)
    ax.plot([at], [np.mean(values)], markersize=4.4, markeredgewidth=0.9, zorder=3, **style)


def _keys() -> list[Line2D]:
    handles = [
        Line2D([], [], color=color, marker=marker, markersize=4, label=label) for color, marker, label in TEXTS.values()
    ]
    dashed = {"linestyle": (0, (4, 2)), "linewidth": 1.0}
    handles += [
        Line2D([], [], color=color, label=f"{label}, own text", **dashed) for color, label in PREDICTORS.values()
    ]
    open_ = Line2D([], [], linestyle="none", color="0.3", marker="o", markerfacecolor="white", label="open: posterior")
    return [*handles, open_]


# The caption --------------------------------------------------------------------------------------


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["curry_self_conditioning"]
    config, table = result.run["config"], result.table
    n, sources = table.seed.nunique(), list(table.source.unique())

    def way(source: str, text: str, who: str = EDITED) -> float:
        return _of(table, source, text, who).groupby(["seed", "path"]).kl.sum().mean()

    told = "; ".join(
        f"{source}: {settling(result, source).mean():.2f}, all steps {way(source, OWN):.3f} on its own text, "
        f"{way(source, TRUE):.3f} on the true source, {way(source, OTHER):.3f} on another (Bayes "
        f"{way(source, OWN, BAYES):.3f}, {way(source, TRUE, BAYES):.3f} and {way(source, OTHER, BAYES):.3f}), squared "
        f"steps over squared "
        f"way {squares(result, source, EDITED).mean():.2f}"
        for source in sources
    )
    steps = table[(table.text == OWN) & (table.predictor == EDITED)]
    slopes = [
        np.polyfit(np.log(one.t + config["start"] + 2), np.log(one.weight_step), 1)[0]
        for _, one in steps.groupby(["source", "seed"])
    ]
    return (
        f"A transformer trained on a mixture writes {config['written']} tokens behind {config['start']} of a source; "
        f"after each its text is curried by sink. {n} seed{'s' if n > 1 else ''} (thin, small; thick, large: means), "
        f"{config['paths']} text{'s' if config['paths'] > 1 else ''} each, the same queries at every step, the model's "
        f"samples behind the start. First row: what each token changes. KL of the last {ENDS} steps over the first "
        f"{ENDS}, and of all, nats: {told}. The weights move from {steps[steps.t == 0].weight_step.mean():.2f} to "
        f"{steps[steps.t == steps.t.max()].weight_step.mean():.2f} of their size a token, slope "
        f"{np.mean(slopes):.2f} ({min(slopes):.2f} to {max(slopes):.2f}) where an average has -1. Behind a text the "
        f"first token of a query is evidence too, which W' never sees: the model with text moves by more. Bayes: its "
        f"posterior over the sources; it expects to learn {result.arrays[_GAP].max():.0e} from its own next symbol."
    )


_GAP = "Bayes's expected gap (seed)"
