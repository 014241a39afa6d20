"""A prescription: failures down, remedies across; how much each helps, what it costs, and where it does not apply."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from analyses.core.results import Result
from analyses.counting.remedies.marks import AT_TEST, BASELINE, TRAINED, UNTRAINED, cells
from figures import parts

NEEDS = ("prescription",)
LEVEL = 0.05  # of the adjusted p
# What theory says of softmax on ever longer texts; the ceiling of all is 1.
FAILURES = {
    "copy last": "collapses",
    "copy first": "over-squashes",
    "count ones": "collapses",
    "retrieve": "disperses",
    "copy repeated": "not in C-RASP",
    "parity": "not in C-RASP",
}
WITH = ("separators", "alternating", "scratchpad", "window", "log n", "off by one", "gated", "entmax", "ALiBi",
        "no position")  # fmt: skip
AT = ("window at test", "log n at test", "adaptive", "hard max", "bfloat16", "float64")
PLACES = {name: at + (0.4 if name in AT else 0.0) for at, name in enumerate((*WITH, *AT))}  # a gap between the groups
COSTS = ("trained lengths", "parameters", "operations")
COLOURS, SHADES = mpl.colormaps["RdBu"], mpl.colormaps["Greys"]
LARGE, SMALL = 6.0, 4.8  # points: a change, and its deviation
NOT_RUN = {"facecolor": "white", "edgecolor": "0.7", "hatch": "//////", "linewidth": 0.0}


def draw(tables: Mapping[str, Result]) -> Figure:
    """Baseline, changes and ceiling side by side; below, what each remedy costs."""
    result = tables["prescription"]
    widths, heights = (3.1, max(PLACES.values()) + 1, 3.2), (len(FAILURES), len(COSTS) - 0.6)
    figure, axes = parts.sheet(2, 3, height=4.5, width_ratios=widths, height_ratios=heights)
    figure.get_layout_engine().set(wspace=0.0, w_pad=0.02, h_pad=0.02)
    found = cells(result.table)
    _baseline(axes[0, 0], result.table)
    _changes(axes[0, 1], result, found)
    _ceiling(axes[0, 2])
    _costs(axes[1, 1], result.table, found)
    _names_of_costs(axes[1, 0])
    axes[1, 2].set_visible(False)
    _legend(figure, axes[1, 1])
    return figure


def _bare(ax: Axes, columns: Mapping[str, float], rows: int) -> None:
    """An empty table, the names of its columns above it."""
    ax.set(xlim=(min(columns.values()) - 0.5, max(columns.values()) + 0.5), ylim=(rows - 0.5, -0.5))
    ax.spines[:].set_visible(False)
    ax.xaxis.tick_top()
    names = [name.removesuffix(" at test") for name in columns]
    ax.set_xticks(list(columns.values()), names, rotation=90, ha="center", fontsize=7)
    ax.tick_params(length=0, pad=2)
    ax.set_yticks([])


def _box(ax: Axes, x: float, y: float, **look) -> None:
    ax.add_patch(Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, **look))


def _filled(ax: Axes, x: float, y: float, color, text: str, below: str = "") -> None:
    """A coloured cell with a number, and a smaller one below it."""
    _box(ax, x, y, facecolor=color, linewidth=0)
    ink = {
        "ha": "center",
        "va": "center",
        "color": "white" if np.dot(to_rgb(color), (0.3, 0.6, 0.1)) < 0.5 else "black",
    }
    ax.text(x, y - (0.16 if below else 0.0), text, fontsize=LARGE, **ink)
    if below:
        ax.text(x, y + 0.27, below, fontsize=SMALL, **ink)


def _baseline(ax: Axes, table: pd.DataFrame) -> None:
    shown = {
        "trained lengths": ("accuracy_in", BASELINE),
        "long texts": ("accuracy_long", BASELINE),
        "long, untrained": ("accuracy_long", UNTRAINED),
    }
    _bare(ax, {name: at for at, name in enumerate(shown)}, len(FAILURES))
    for y, failure in enumerate(FAILURES):
        for x, (column, stage) in enumerate(shown.values()):
            values = table[(table.failure == failure) & (table.stage == stage)][column]
            if len(values):
                deviation = f"±{_share(values.std())}" if len(values) > 1 else ""
                _filled(ax, x, y, SHADES(0.6 * values.mean()), _share(values.mean()), deviation)
            else:
                _box(ax, x, y, **NOT_RUN)
    ax.set_yticks(range(len(FAILURES)), [_row(failure, table) for failure in FAILURES], fontsize=7)
    _group(ax, "baseline", 0, len(shown) - 1)


def _row(failure: str, table: pd.DataFrame) -> str:
    """Its name, and how much longer the long texts are."""
    rows = table[(table.failure == failure) & (table.stage == BASELINE)]
    if not len(rows):
        return failure
    return f"{failure}\n{rows.tokens_in.iloc[0]} to {rows.tokens_long.iloc[0]} tokens"


def _changes(ax: Axes, result: Result, found: pd.DataFrame) -> None:
    _bare(ax, PLACES, len(FAILURES))
    applies = result.arrays["applies (failure, remedy)"]
    measured = found.set_index(["failure", "remedy"])
    for y, failure in enumerate(FAILURES):
        for column, (remedy, x) in enumerate(PLACES.items()):
            if (failure, remedy) in measured.index:
                one = measured.loc[(failure, remedy)]
                star = "*" if one.adjusted < LEVEL else ""
                deviation = f"±{_share(one.deviation)}" if one.n > 1 else ""
                _filled(ax, x, y, COLOURS(0.5 + 0.42 * one.change), _signed(one.change) + star, deviation)
            elif applies[y, column]:
                _box(ax, x, y, **NOT_RUN)
            else:
                ax.text(x, y, "n/a", fontsize=LARGE, color="0.6", ha="center", va="center")
    for title, names in ((TRAINED, WITH), (AT_TEST, AT)):
        _group(ax, title, PLACES[names[0]], PLACES[names[-1]])


def _group(ax: Axes, title: str, first: float, last: float) -> None:
    """A line below the columns that belong together, and their name."""
    low = len(FAILURES) - 0.42
    ax.plot([first - 0.45, last + 0.45], [low, low], color="0.3", linewidth=0.8, clip_on=False)
    ax.annotate(title, ((first + last) / 2, low), (0, -2), textcoords="offset points", ha="center", va="top",
                fontsize=7.5, fontweight="bold", annotation_clip=False)  # fmt: skip


def _ceiling(ax: Axes) -> None:
    _bare(ax, {"ceiling": 0, "theory": 1}, len(FAILURES))
    ax.set_xlim(-0.5, 2.7)
    for y, verdict in enumerate(FAILURES.values()):
        _filled(ax, 0, y, SHADES(0.6), "1")
        ax.text(0.65, y, verdict, fontsize=6, va="center")


def _costs(ax: Axes, table: pd.DataFrame, found: pd.DataFrame) -> None:
    """Means over the failures: the change on trained lengths; parameters and operations over the baseline's."""
    _bare(ax, PLACES, len(COSTS))
    ax.set_xticks([])
    over = overheads(table)
    for remedy, x in PLACES.items():
        rows = found[found.remedy == remedy]
        if not len(rows):
            for y in range(len(COSTS)):
                _box(ax, x, y, **NOT_RUN)
            continue
        change = rows.change_in.mean()
        _filled(ax, x, 0, COLOURS(0.5 + 0.42 * change), _signed(change))
        for y, column in enumerate(COSTS[1:], 1):
            ax.text(x, y, _times(over.loc[remedy, column]), fontsize=LARGE, ha="center", va="center")


def _names_of_costs(ax: Axes) -> None:
    """In an axes of their own: beside the table they would push it away from the column to its left."""
    ax.set(xlim=(0, 1), ylim=(len(COSTS) - 0.5, -0.5))
    ax.axis("off")
    for y, name in enumerate(COSTS):
        ax.text(1, y, name, fontsize=7, ha="right", va="center")


def overheads(table: pd.DataFrame) -> pd.DataFrame:
    """Parameters and operations of each remedy over those of the baseline (1: equal), mean over the failures."""
    tested = table[table.stage.isin((BASELINE, TRAINED, AT_TEST))]
    each = tested.groupby(["failure", "remedy"])[["parameters", "operations"]].first()
    plain = each.xs(BASELINE, level="remedy")
    return each.div(plain, level="failure").groupby("remedy").mean()


def _legend(figure: Figure, ax: Axes) -> None:
    bar = ScalarMappable(Normalize(-1, 1), mpl.colors.ListedColormap(COLOURS(np.linspace(0.08, 0.92, 256))))
    place = {"location": "bottom", "aspect": 50, "shrink": 0.8, "ticks": (-1, -0.5, 0, 0.5, 1)}
    scale = figure.colorbar(bar, ax=ax, **place)
    scale.set_label("change of accuracy on long texts: mean ± deviation of seeds", fontsize=7)
    scale.ax.tick_params(labelsize=7)
    entries = [
        Patch(**NOT_RUN, label="not run"),
        Patch(facecolor="none", edgecolor="none", label="n/a  the texts have no such variant"),
        Patch(facecolor="none", edgecolor="none", label=f"*  p < {LEVEL:g} after Holm"),
    ]
    figure.legend(handles=entries, loc="outside lower center", ncols=3, fontsize=7, handlelength=1.4)


def _share(value: float) -> str:
    """Two decimals, without the zero before the point."""
    rounded = round(value, 2)
    return f"{rounded:.0f}" if rounded in (0, 1) else f"{rounded:.2f}".removeprefix("0")


def _signed(value: float) -> str:
    share = _share(abs(value))
    return share if share == "0" else ("+" if value > 0 else "−") + share


def _times(ratio: float) -> str:
    return f"×{ratio:.2g}"


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["prescription"]
    table, config = result.table, result.run["config"]
    found, over = cells(result.table), overheads(result.table)
    seeds = table[table.stage == BASELINE].seed.nunique()
    told = [_told(failure, found[found.failure == failure]) for failure in FAILURES if failure in set(found.failure)]
    rates = ", ".join(f"{rate:g}" for rate in config["rates"])
    tuning = f"the better of {rates} on one other seed" if len(config["rates"]) > 1 else rates
    rounded = found[found.remedy == "bfloat16"].change
    precision = f" bfloat16 moves no row by more than {rounded.abs().max():.2g}." if len(rounded) else ""
    dearest = over.operations.drop(BASELINE)
    code = str(config["model"]["position"]["kind"]).lower()
    return (
        f"Small transformers trained on short texts, asked on long ones: accuracy with a remedy less that of the "
        f"baseline (softmax, {code}), {seeds} "
        f"seed{'s' if seeds > 1 else ''}, {config['texts']} texts each; stars: Holm-adjusted p below {LEVEL:g} within "
        f"a row (Welch's t for nets trained with a remedy, paired t for one applied at test). Lengths at which the "
        f"baseline fails were chosen on other seeds. Equal updates in a row; "
        f"learning rate per trained cell: {tuning}. " + " ".join(told) + precision + f" The dearest remedy is "
        f"{dearest.idxmax()}: {_times(dearest.max())} operations. Below: means over the rows; trained lengths: change "
        f"of accuracy there. n/a: the task has no such variant. All tasks are exact, so that the ceiling is 1; theory: "
        f"what is said of softmax on ever longer texts; hard max: all weight to the largest of the trained scores."
    )


def _told(failure: str, rows: pd.DataFrame) -> str:
    best = rows.loc[rows.change.idxmax()]
    starred = rows[(rows.adjusted < LEVEL) & (rows.change > 0)].remedy.tolist()
    marked = f"; starred gains: {', '.join(starred)}" if starred else "; no starred gain"
    return f"{failure.capitalize()}: at best {_signed(best.change)} ({best.remedy}){marked}."
