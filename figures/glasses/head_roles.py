"""Roles of heads: scores beside heads set by hand, what an own-token map keeps, frequencies, limits of the diagonal."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.core.results import Result
from figures import parts

NEEDS = ("head_roles",)
TRAINED, UNTRAINED, UNIFORM = "trained", "untrained", "uniform head"
# Score -> its name on the axis, and the head set by hand that has it in full, by condition and layer.
ROLES = {
    "first_mass": ("first\ntoken", ("first-token head", 0)),
    "diagonal": ("own\ntoken", ("diagonal head", 0)),
    "previous_token": ("previous\ntoken", ("previous-token head", 0)),
    "prefix_matching": ("induction", ("induction circuit", 1)),
}
EPSILON = {0.3: "Gu", 0.8: "Barbero"}
BORN, HAND = "0.6", "k"
DOTTED = (0, (1, 1.2))


def draw(tables: Mapping[str, Result]) -> Figure:
    """Six panels: scores, own-token share, what the map keeps, frequencies, proposition 5.2, one frequency."""
    result = tables["head_roles"]
    figure, axes = parts.sheet(2, 3, height=4.9)
    _scores(axes[0, 0], result)
    _own(axes[0, 1], result)
    _lost(axes[0, 2], result)
    _frequencies(axes[1, 0], result)
    _half(axes[1, 1], result)
    _one_frequency(axes[1, 2], result)
    for ax, letter in zip(axes.flat, "abcdef", strict=True):
        parts.panel_letter(ax, letter)
    handles = {label: handle for ax in axes[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3)
    return figure


def _rows(result: Result, condition: str) -> pd.DataFrame:
    return result.table[result.table.condition == condition]


def _layers(result: Result) -> dict[str, tuple[pd.DataFrame, str]]:
    """Name -> trained rows and colour: the first layer, those between, the last."""
    rows = _rows(result, TRAINED)
    first, last = rows.layer.min(), rows.layer.max()
    groups = {f"trained, layer {first}": (rows[rows.layer == first], "C0")}
    if last > first + 1:
        between = rows[rows.layer.between(first, last, inclusive="neither")]
        groups[f"trained, layers {first + 1} to {last - 1}"] = (between, "C2")
    if last > first:
        groups[f"trained, layer {last}"] = (rows[rows.layer == last], "C3")
    return groups | {"untrained twin": (_rows(result, UNTRAINED), BORN)}


def _dots(ax: Axes, x, y, color: str, label: str | None = None) -> None:
    ax.plot(x, y, "o", color=color, markersize=2.4, alpha=0.6, markeredgewidth=0, label=label)


def _scores(ax: Axes, result: Result) -> None:
    groups = _layers(result)
    for at, (score, (_, (condition, layer))) in enumerate(ROLES.items()):
        for i, (label, (rows, color)) in enumerate(groups.items()):
            jitter = np.linspace(-0.07, 0.07, len(rows)) + 0.19 * (i - (len(groups) - 1) / 2)
            _dots(ax, at + jitter, rows[score], color, label if at == 0 else None)
        known = _rows(result, condition)
        known = known[known.layer == layer][score].mean()
        ax.plot(at, known, "x", color=HAND, markersize=5, clip_on=False, label=None if at else "set by hand")
        even = _rows(result, UNIFORM)[score].mean()
        ax.plot(
            [at - 0.4, at + 0.4], [even, even], color=HAND, linewidth=0.9, label=None if at else "uniform attention"
        )
    for epsilon, whose in EPSILON.items():
        ax.plot([-0.45, 0.4], [epsilon] * 2, color="0.3", linestyle=DOTTED, linewidth=0.9)
        ax.text(-0.45, epsilon + 0.02, f"{epsilon} ({whose})", fontsize=5.5, color="0.3")
    ax.set_xticks(range(len(ROLES)), [name for name, _ in ROLES.values()], fontsize=6)
    ax.set(ylabel="score of a head (0 to 1)", ylim=(0, 1.02), xlim=(-0.5, len(ROLES) - 0.5))


def _own(ax: Axes, result: Result) -> None:
    for rows, color in _layers(result).values():
        _dots(ax, rows.diagonal, rows.linear, color)
    for condition, layer in [where for _, where in ROLES.values()]:
        rows = _rows(result, condition)
        rows = rows[rows.layer == layer]
        ax.plot(rows.diagonal.mean(), rows.linear.mean(), "x", color=HAND, markersize=5, clip_on=False)
    ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set(xlabel="weight on the own token", ylabel="output said by a map\nof the own token (share)", xlim=(0, 1))
    ax.set_ylim(min(-0.25, result.table.linear.min() - 0.05), 1.05)


def _lost(ax: Axes, result: Result) -> None:
    shown = [rows for rows, _ in _layers(result).values()]
    largest = 1.08 * max(rows.lost_zero.max() for rows in shown)
    parts.theory(ax, [0, largest], [0, largest], "map keeps nothing", at=0.62)
    for rows, color in _layers(result).values():
        _dots(ax, rows.lost_zero, rows.lost_map, color)
    ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set(xlabel="loss without the head (nats)", ylabel="loss with the map\nof the own token (nats)")


def _frequencies(ax: Axes, result: Result) -> None:
    name = f"{TRAINED}: share of each frequency (seed, layer, head, pair)"
    if name not in result.arrays:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no rotary positions", ha="center", va="center", color="0.4", transform=ax.transAxes)
        return
    share, born = result.arrays[name], result.arrays[name.replace(TRAINED, UNTRAINED, 1)]
    pairs = share.shape[-1]
    at = np.arange(1, pairs + 1)
    best = _best_previous(result, share)
    flat = share.reshape(-1, pairs)
    ax.plot(at, flat.T, color="C0", linewidth=0.4, alpha=0.3)
    ax.plot(at, flat.mean(0), color="C0", linewidth=1.8, label="all trained heads")
    ax.plot(at, best.mean(0), color="C1", linewidth=1.8, label="best previous-token")
    ax.plot(at, born.reshape(-1, pairs).mean(0), color=BORN, linewidth=1.4, label="untrained")
    parts.theory(ax, at, np.full(pairs, 1 / pairs), "equal", at=0.1)
    ax.set(xlabel="rotary pair, fastest first", ylabel="share of the norms' product", ylim=(0, 1))
    ax.set_xticks([1, *([(pairs + 1) // 2] if pairs > 2 else []), pairs])
    ax.legend(loc="upper left", fontsize=6.5)


def _best_previous(result: Result, share: np.ndarray) -> np.ndarray:
    """(seed, pair): of the head of each seed that looks one back most."""
    rows = _rows(result, TRAINED).sort_values(["seed", "layer", "head"])
    best = rows.previous_token.to_numpy().reshape(len(share), -1).argmax(-1)
    return share.reshape(len(share), -1, share.shape[-1])[np.arange(len(share)), best]


def _half(ax: Axes, result: Result) -> None:
    arms = {
        "no positions,\nrandom": "no positions, random (seed, head)",
        "no positions,\noptimised": "no positions, optimised (seed, head)",
        "rotary,\noptimised": "rotary, optimised (seed, head)",
        "rotary,\nby hand": "rotary, constructed (model)",
    }
    for at, name in enumerate(arms.values()):
        values = result.arrays[f"[bos, x, x], {name}"].ravel()
        where = at - np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else [at]
        ax.plot(values, where, "x" if len(values) == 1 else "o", color=HAND if len(values) == 1 else f"C{at}",
                markersize=5 if len(values) == 1 else 1.8, clip_on=False)  # fmt: skip
    ax.axvline(0.5, color="0.3", linestyle=(0, (4, 2)), linewidth=1.0, zorder=0)
    ax.text(0.52, 2.5, "proposition 5.2: 1/2", color="0.3", fontsize=6.5, va="center")
    ax.set(xlabel="own weight on [bos, x, x]", xlim=(0, 1), ylim=(3.5, -0.5))
    ax.set_yticks(range(len(arms)), list(arms), fontsize=6.5)


def _one_frequency(ax: Axes, result: Result) -> None:
    norms = sorted({int(name.split(",")[1]) for name in result.arrays if name.startswith("one frequency")})
    for norm, color in zip(norms, ("C0", "C2", "C3"), strict=True):
        name = f"one frequency, {norm}, 512 tokens"
        queries = np.arange(1, 513)
        ax.plot(queries, result.arrays[f"{name}: own weight (query)"], color=color, linewidth=1.8, alpha=0.5)
        closed = result.arrays[f"{name}: closed form (query)"]
        ax.plot(queries, closed, color="0.2", linestyle=DOTTED, linewidth=1.0)
        ax.text(540, closed[-1], rf"{norm}", color=color, fontsize=6.5, va="center")
    ax.plot([], [], color="0.2", linestyle=DOTTED, label="closed form")
    ax.plot([], [], color="0.5", linewidth=1.8, label=r"one frequency, $|\psi|^2$")
    ax.set(xscale="log", yscale="log", xlabel="query (tokens seen)", ylabel="weight on the own token", xlim=(1, 900))
    ax.legend(loc="lower left", fontsize=6.5)


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["head_roles"]
    config, trained = result.run["config"], _rows(result, TRAINED)
    n, heads = trained.seed.nunique(), len(trained)
    model = config["model"]
    whose = f"the checkpoint {Path(model).name}" if isinstance(model, str) else "byte models with rotary positions"
    rates = {epsilon: trained[f"sink_rate_{whose_.lower()}"].mean() for epsilon, whose_ in EPSILON.items()}
    roles = trained.role.value_counts()
    best = ", ".join(f"{name.replace(chr(10), ' ')} {trained[score].max():.2f}" for score, (name, _) in ROLES.items())
    last = trained[trained.layer == trained.layer.max()]
    kept = [1 - rows.lost_map.sum() / rows.lost_zero.sum() for _, rows in last.groupby("seed")]
    optimised = result.arrays["[bos, x, x], no positions, optimised (seed, head)"].max()
    rotary = result.arrays["[bos, x, x], rotary, optimised (seed, head)"].max()
    return (
        f"{heads} heads of {whose}, {n} seed{'s' if n > 1 else ''}, {config['texts']} texts of {config['length']} "
        f"tokens each. (a) Every head's four scores beside heads set by hand; largest: {best}; most heads score "
        f"highest as {roles.index[0]} ({roles.iloc[0]} of {heads}). Sinks: {rates[0.3]:.2f} of (text, head) above 0.3, "
        f"{rates[0.8]:.2f} above 0.8. (b) A fixed map of the own token says {last.linear.median():.2f} of what the "
        f"median head of the last layer writes. (c) Put in its place, it keeps {np.mean(kept):.2f} of the loss that "
        f"those heads are worth one by one ({min(kept):.2f} to {max(kept):.2f} over seeds); in the untrained twin "
        f"nothing is lost either way. {_told_frequencies(result)}(e) Without positions the search ends at "
        f"{optimised:.4f}, with rotation at {rotary:.4f}. (f) With one frequency the own weight fades as the text "
        f"grows, whatever its norm."
    )


def _told_frequencies(result: Result) -> str:
    name = f"{TRAINED}: share of each frequency (seed, layer, head, pair)"
    if name not in result.arrays:
        return ""
    share = result.arrays[name]
    half = share.shape[-1] // 2
    slow = share[..., half:].sum(-1).mean()
    fast = _best_previous(result, share)[:, :half].sum(-1).mean()
    return (
        f"(d) The slower half of the rotary frequencies has {slow:.2f} of the norms' product; the faster half has "
        f"{fast:.2f} in the best previous-token head and {1 - slow:.2f} in all. "
    )
