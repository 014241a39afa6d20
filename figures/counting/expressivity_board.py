"""The board: theory's verdict on every task and architecture, what trained nets did, and where the two part."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from analyses.core.results import Result
from analyses.core.statistics import bootstrap_interval
from figures import parts

NEEDS = ("expressivity_board",)
TASKS = (
    "majority", "a^n b^n", "Dyck-1", "count to 8", "copy first", "copy last", "even pairs", "induction",
    "copy unique", "copy repeated", "parity", "sum mod 5", "parity pad behind",
    "parity pad between",
)  # fmt: skip
ARCHITECTURES = {"none": "no\npositions", "learned": "learned", "rope": "rotary", "alibi": "ALiBi", "lstm": "LSTM"}
CODES = tuple(ARCHITECTURES)[:4]
YES, SILENT, NO = range(3)
MARKS = {YES: "✓", SILENT: "·", NO: "✗"}
OUTCOMES = ("solved", "short only", "not learned")
TELLING = {"majority": "C0", "a^n b^n": "C4", "even pairs": "C2", "parity": "C1"}  # rows drawn against length
COLOURS = mpl.colormaps["Blues"]
APART, UNMET = "#D55E00", "0.45"


def draw(tables: Mapping[str, Result]) -> Figure:
    """The board; beside it the confusion matrix, and accuracy against length without positions and for the LSTM."""
    result = tables["expressivity_board"]
    figure, axes = parts.sheet(1, 2, height=6.9, width_ratios=(1.8, 1))
    axes[0, 1].remove()
    grid = axes[0, 1].get_subplotspec().subgridspec(3, 1)
    side = [figure.add_subplot(grid[i]) for i in range(3)]
    _board(axes[0, 0], result)
    _confusion(side[0], result)
    for ax, architecture in zip(side[1:], ("none", "lstm"), strict=True):
        _lengths(ax, result, architecture)
    for ax, letter in zip((axes[0, 0], *side), "abcd", strict=True):
        parts.panel_letter(ax, letter)
    _legend(figure, result)
    return figure


def _runs(result: Result) -> pd.DataFrame:
    """One row per net: accuracy at the training lengths, and the mean of those beyond."""
    by, table = ["task", "architecture", "seed"], result.table
    short = table[table.multiple == 1].set_index(by).accuracy
    long = table[table.multiple > 1].groupby(by).accuracy.mean()
    return pd.DataFrame({"short": short, "long": long}).reset_index()


def _board(ax: Axes, result: Result) -> None:
    said, solved = result.arrays["verdicts (task, architecture)"], result.run["config"]["solved"]
    groups = _runs(result).groupby(["task", "architecture"])[["short", "long"]]
    median, best = groups.median(), groups.max()
    for row, task in enumerate(TASKS):
        for column, architecture in enumerate(ARCHITECTURES):
            verdict, at = said[row, column], (task, architecture)
            if at not in median.index:
                _cell(ax, row, column, facecolor="white", edgecolor="0.75", hatch="/////", linewidth=0)
                ax.text(column, row, MARKS[verdict], ha="center", va="center", backgroundcolor="white", fontsize=7)
                continue
            short, long = median.loc[at]
            _cell(ax, row, column, facecolor=_shade(long), edgecolor="white", linewidth=1.2)
            fits = max(short, long) >= solved
            mark = MARKS[verdict] if fits or verdict == SILENT else f"({MARKS[verdict]})"
            ax.text(column - 0.31, row, mark, ha="center", va="center", fontsize=8, color="black" if fits else UNMET)
            ax.text(column + 0.03, row, _two(long), ha="center", va="center", fontsize=7)
            ax.text(column + 0.33, row, _two(best.long[at]), ha="center", va="center", fontsize=5.5, color="0.3")
            if fits and verdict != SILENT and (verdict == YES) != (long >= solved):
                _cell(ax, row, column, facecolor="none", edgecolor=APART, linewidth=1.8, zorder=4, inside=0.05)
    ax.set(xlim=(-0.5, len(ARCHITECTURES) - 0.5), ylim=(len(TASKS) - 0.5, -0.5))
    ax.set_xticks(range(len(ARCHITECTURES)), list(ARCHITECTURES.values()))
    ax.set_yticks(range(len(TASKS)), TASKS)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)


def _shade(accuracy: float) -> tuple[float, ...]:
    return COLOURS(0.05 + 0.5 * accuracy)  # light enough for black text everywhere


def _two(accuracy: float) -> str:
    text = f"{accuracy:.2f}"
    return "1" if text == "1.00" else text.removeprefix("0")


def _cell(ax: Axes, row: int, column: int, inside: float = 0.0, **style) -> None:
    size = 1 - 2 * inside
    ax.add_patch(Rectangle((column - 0.5 + inside, row - 0.5 + inside), size, size, **style))


def _confusion(ax: Axes, result: Result) -> None:
    """Counts of cells: by their median, and by their best seed in small."""
    median, best = (result.arrays[f"{name}: cells (verdict, outcome)"] for name in ("median", "best"))
    agree, apart = {(YES, 0), (NO, 1)}, {(YES, 1), (NO, 0)}
    for at in np.ndindex(median.shape):
        colour = COLOURS(0.35) if at in agree else (*mpl.colors.to_rgb(APART), 0.35) if at in apart else "0.95"
        _cell(ax, *at, facecolor=colour, edgecolor="white", linewidth=1.2)
        ax.text(at[1] - 0.12, at[0], f"{median[at]}", ha="center", va="center", fontsize=9)
        ax.text(at[1] + 0.26, at[0], f"{best[at]}", ha="center", va="center", fontsize=6, color="0.3")
    ax.set(xlim=(-0.5, 2.5), ylim=(2.5, -0.5), ylabel="theory says", xlabel="cells: median, best seed")
    ax.set_xticks(range(3), [name.replace(" ", "\n") for name in OUTCOMES])
    ax.set_yticks(range(3), ["yes", "silent", "no"])
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)


def _lengths(ax: Axes, result: Result, architecture: str) -> None:
    """Accuracy against length for the telling tasks: solid where theory says yes, dashed no, dotted silent."""
    table, styles = result.table, {YES: "-", SILENT: (0, (1, 1.2)), NO: (0, (4, 2))}
    said = result.arrays["verdicts (task, architecture)"]
    for i, (task, colour) in enumerate(TELLING.items()):
        rows = table[(table.task == task) & (table.architecture == architecture)]
        if rows.empty:
            continue
        wide = rows.pivot(index="seed", columns="multiple", values="accuracy")
        x, mean = wide.columns.to_numpy() * 1.025 ** (i - 1.5), wide.to_numpy().mean(0)
        style = styles[said[TASKS.index(task), list(ARCHITECTURES).index(architecture)]]
        ax.plot(x, mean, color=colour, linestyle=style, marker="o", clip_on=False, zorder=3)
        if len(wide) > 1:
            ends = np.array([_interval(values) for values in wide.to_numpy().T]).T
            ax.vlines(x, *ends, color=colour, linewidth=1.0, zorder=2)
    multiples = sorted(table.multiple.unique())
    ax.set(xscale="log", ylim=(0, 1.03), ylabel=f"accuracy, {ARCHITECTURES[architecture]}".replace("\n", " "))
    ax.set_xticks(multiples, [f"{k}x" for k in multiples])
    ax.minorticks_off()
    ax.axhline(0.5, color="0.6", linewidth=0.8, linestyle=(0, (1, 1.2)), zorder=0)
    ax.set_xlabel("length over that in training")


def _interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds; the value itself where all are equal."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    return bootstrap_interval(values, np.mean, 0.95, np.random.default_rng(0))


def _legend(figure: Figure, result: Result) -> None:
    blank = {"linestyle": "none"}
    entries = [
        Line2D([], [], marker="$✓$", color="black", markersize=6, label="theory: right at all lengths", **blank),
        Line2D([], [], marker="$✗$", color="black", markersize=6, label="theory: not so", **blank),
        Line2D([], [], marker=".", color="black", markersize=4, label="theory silent", **blank),
        Line2D([], [], marker="$(✓)$", color=UNMET, markersize=11, label="short texts not learned: no test", **blank),
        Patch(facecolor="white", edgecolor=APART, linewidth=1.8, label="theory and median disagree"),
        Patch(facecolor=_shade(1.0), label="median at 2x to 10x; small: best seed"),
    ]
    if len(_runs(result).groupby(["task", "architecture"])) < len(TASKS) * len(ARCHITECTURES):
        entries.append(Patch(facecolor="white", edgecolor="0.75", hatch="/////", label="not run"))
    entries += [Line2D([], [], color=colour, marker="o", label=f"{task} (c, d)") for task, colour in TELLING.items()]
    figure.legend(handles=entries, loc="outside lower center", ncols=3)


def caption(tables: Mapping[str, Result]) -> str:
    """What the figure shows; the numbers are computed from the table."""
    result = tables["expressivity_board"]
    runs, config = _runs(result), result.run["config"]
    n, shown = runs.seed.nunique(), runs.groupby(["task", "architecture"]).long.median()
    median, best = (result.arrays[f"{name}: agree, tested (yes and no, count)"] for name in ("median", "best"))
    longer = [f"{k}" for k in config["multiples"][1:]]
    missing = len(TASKS) * len(ARCHITECTURES) - len(shown)

    def parity(form: str) -> str:
        return f"{_range(shown, form, CODES)} and {_range(shown, form, ('lstm',))}"

    return (
        f"Small nets trained on short texts (up to 4 to 16 symbols) and tested on texts {', '.join(longer[:-1])} and "
        f"{longer[-1]} times as long (where tokens must differ, up to 4 times), {n} seed{'s' if n > 1 else ''}, "
        f"{config['test_texts']} texts a length. (a) Median accuracy over the longer tests, in small the best seed's, "
        f"and the verdict that theory gave before; solved is {config['solved']:g} on average."
        + (f" {missing} cells were not run." if missing else "")
        + f" (b) Where the nets learned the short texts, theory's yes comes out in {median[0, 0]} of {median[0, 1]} "
        f"cells by their median ({best[0, 0]} of {best[0, 1]} by their best seed), its no in {median[1, 0]} of "
        f"{median[1, 1]} ({best[1, 0]} of {best[1, 1]}). Parity on longer texts: "
        f"transformers and LSTM {parity('parity')}; with all parities written out behind the bits "
        f"{parity('parity pad behind')}, between them {parity('parity pad between')}. (c, d) Accuracy against "
        f"length, means and 95% bootstrap intervals over seeds; solid where theory says yes, dashed no, dotted silent; "
        f"grey: a guess between two."
    )


def _range(shown: pd.Series, task: str, architectures: Sequence[str]) -> str:
    found = [shown[task, one] for one in architectures if (task, one) in shown.index]
    if not found:
        return "(not run)"
    low, high = f"{min(found):.2f}", f"{max(found):.2f}"
    return low if low == high else f"{low} to {high}"
