"""Which steps of the weights a context can do: shares by kind of matrix, and what no context moves."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.core.results import Result
from figures import parts

NEEDS = ("uncurry",)
MATRICES = ("Q", "K", "V", "O", "MLP")
COLORS = {"Q": "C1", "K": "C4", "V": "C0", "O": "C5", "MLP": "C3"}
GRADIENT, RANDOM, OWN = "gradient", "random", "a context"
FLOOR = -0.2  # of shares; what lies below is drawn on the edge
PREDICTED = ((2, 3, 0.9), (0, 1, 0.5))  # matrices, from and to, and the share expected: V and O above, Q and K below


def draw(tables: Mapping[str, Result]) -> Figure:
    """(a) Shares reached by matrix, beside a random direction and token contexts; (b) share against what is moved."""
    result = tables["uncurry"]
    figure, axes = parts.sheet(1, 2, height=3.5, width_ratios=(1.7, 1))
    _shares(axes[0, 0], result)
    _moved(axes[0, 1], result)
    for ax, letter in zip(axes.flat, "ab", strict=True):
        parts.panel_letter(ax, letter)
    figure.suptitle(message(result), fontsize=9)
    figure.legend(loc="outside lower center", ncols=4, fontsize=7)
    return figure


def message(result: Result) -> str:
    """What the shares say of the prediction."""
    mean = _mean(result)
    low, high = mean[["Q", "K"]].mean(), mean[["V", "O"]].mean()
    more = "more" if high > low else "no more"
    return f"Contexts reach {more} of a step of V and O ({high:.0%}) than of one of Q and K ({low:.0%})"


def _mean(result: Result, kind: str = GRADIENT, column: str = "share"):
    table = result.table[result.table.kind == kind]
    return table.groupby("matrix")[column].mean()


def _shares(ax: Axes, result: Result) -> None:
    shown = (
        (GRADIENT, "share", -0.27, "o", "free pairs, gradient step"),
        (RANDOM, "share", -0.09, "D", "free pairs, random step"),
        (GRADIENT, "tokens_share", 0.09, "^", "best token context tried"),
        (GRADIENT, "random_share", 0.27, "v", "a token context, mean"),
    )
    for kind, column, shift, marker, label in shown:
        for at, matrix in enumerate(MATRICES):
            rows = result.table[(result.table.kind == kind) & (result.table.matrix == matrix)]
            values = rows.groupby("seed")[column].mean().clip(lower=FLOOR)
            color = COLORS[matrix] if kind == GRADIENT and column == "share" else "0.55"
            place = at + shift + (np.linspace(-0.06, 0.06, len(values)) if len(values) > 1 else np.zeros(1))
            ax.plot(place, values, marker=marker, linestyle="none", color=color, markersize=2.6, alpha=0.6,
                    markeredgewidth=0, clip_on=False)  # fmt: skip
            ax.plot([at + shift - 0.08, at + shift + 0.08], [values.mean()] * 2, color=color, linewidth=1.6)
        color = "k" if (kind, column) == (GRADIENT, "share") else "0.55"
        ax.plot([], [], marker=marker, linestyle="none", color=color, markersize=4, label=label)
    own = result.table[result.table.kind == OWN].share.mean()
    ax.axhline(own, color="k", linewidth=0.8, linestyle=(0, (1, 2)), label="a step that is a context")
    for first, last, share in PREDICTED:
        ax.plot([first - 0.42, last + 0.42], [share, share], color="0.3", linestyle=(0, (4, 2)), linewidth=1.0,
                label="predicted, V and O above, Q and K below" if first else None)  # fmt: skip
    ax.axhline(0, color="0.55", linewidth=0.8, zorder=1)
    ax.set_xticks(range(len(MATRICES)), MATRICES)
    ax.set(xlabel="weights that the step changes", ylabel="share of the KL reached", ylim=(FLOOR, 1.05))


def _moved(ax: Axes, result: Result) -> None:
    for matrix in MATRICES:
        rows = result.table[(result.table.kind == GRADIENT) & (result.table.matrix == matrix)]
        ax.plot(rows.moved, rows.share.clip(lower=FLOOR), "o", color=COLORS[matrix], markersize=3, alpha=0.75,
                markeredgewidth=0, clip_on=False, label=f"step of {matrix} (b)")  # fmt: skip
    ax.axhline(0, color="0.55", linewidth=0.8, zorder=1)
    ax.set(xlabel="first layer's attention moved\n(total variation, out of reach)", ylim=(FLOOR, 1.05))
    ax.set_xlim(left=-0.01)


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["uncurry"]
    table, config, n = result.table, result.run["config"], result.table.seed.nunique()
    reached, random = _mean(result), _mean(result, RANDOM)
    tokens, moved = _mean(result, column="tokens_share"), _mean(result, column="moved")
    own = table[table.kind == OWN]

    def told(values) -> str:
        return ", ".join(f"{matrix} {values[matrix]:.2f}" for matrix in MATRICES)

    return (
        f"Steps of one kind of matrix down the loss on texts of {', '.join(config['sources'])}, each as long as "
        f"changes the output by {config['nats']:g} nats of KL, and the context that does the same best: {n} "
        f"seed{'s' if n > 1 else ''} (points, means over sources; bars: means), {config['held_out']} held-out queries "
        f"at most. (a) Share reached by {config['context_length'] + 1} free key-value pairs per layer and head: "
        f"{told(reached)}; of a random step {told(random)}; by the best of {config['candidates']} token contexts "
        f"{told(tokens)}. Dashes: predicted, V and O above, Q and K below. A step that is a context, the sink's edit "
        f"of {config['context_length']} tokens, is reached by BOS's own pair in it to {own.share.mean():.3f} (dots), "
        f"by those tokens to {own.tokens_share.mean():.2f}. (b) What no context can do: the first layer's attention "
        f"among the query's own tokens, moved by {told(moved)} (total variation); a point per source and seed. Below "
        f"{FLOOR:g} points stand on the edge."
    )
