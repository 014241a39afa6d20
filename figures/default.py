"""The figure of a study that has no figure file: every numeric column against the first one.

Seeds are thin lines and their mean is a bold one; where rows of one seed share an x, they are points instead, as a
line would join what does not belong together.
"""

import math
import textwrap
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from figures import parts

MOST_GROUPS = 7  # colours in the house cycle
LABEL_WIDTH, LABEL_LINES = 26, 3  # what fits along a panel's side
SEED, ROW = "seed", "row"


def default_figure(result: Result) -> Figure:
    """Draw small multiples of each numeric column against the first one that is not the seed.

    Columns of strings or bools tell the colours, as far as there are colours; the legend names those that are not
    told apart. `run["columns"]` gives the axis labels. A lone numeric column is drawn against the row's number.

    Raises:
        WorkbenchError: the table has no rows or no numeric column.
    """
    table, meanings = result.table, result.run.get("columns", {})
    kinds = [name for name in table if is_bool_dtype(table[name]) or not is_numeric_dtype(table[name])]
    numeric = [name for name in table if name not in kinds and name != SEED]
    if table.empty or not numeric:
        whose = result.id if result.run else "this result"
        raise WorkbenchError(
            f"{whose} has {len(table)} rows and {len(numeric)} numeric columns: there is nothing to draw"
        )
    if len(numeric) == 1:
        table, numeric = table.assign(**{ROW: range(len(table))}), [ROW, *numeric]
    x, *quantities = numeric
    groups, merged = _groups(table, kinds)
    columns = 2 if len(quantities) == 4 else min(3, len(quantities))
    rows = math.ceil(len(quantities) / columns)
    legend_columns = 1 if columns == 1 else 3
    height = 0.35 + 2.0 * rows + 0.17 * math.ceil(len(groups) / legend_columns)
    figure, grid = parts.sheet(rows, columns, width=parts.SINGLE if columns == 1 else parts.DOUBLE, height=height)
    for ax, quantity in zip(grid.flat, quantities, strict=False):
        for name, rows_of_group in groups.items():
            _draw_group(ax, rows_of_group, x, quantity, name)
        ax.set(xlabel=_label(x, meanings), ylabel=_label(quantity, meanings))
        ax.set_title(quantity if quantity in meanings else "")
    for ax in grid.flat[len(quantities) :]:
        ax.remove()
    if len(groups) > 1 or merged or SEED in table:
        handles, labels = grid.flat[0].get_legend_handles_labels()
        title = f"not told apart: {', '.join(merged)}" if merged else None
        ncols = min(len(labels), legend_columns)
        figure.legend(handles, labels, loc="outside lower center", ncols=ncols, title=title)
    return figure


def _groups(table: pd.DataFrame, kinds: list[str]) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Rows by the label of their group, and the last columns of `kinds`, which had to be left out of the grouping."""
    for used in range(len(kinds), 0, -1):
        groups = list(table.groupby(kinds[:used], sort=False, dropna=False))
        if len(groups) <= MOST_GROUPS:
            return {_name(kinds, key): rows for key, rows in groups}, kinds[used:]
    return {"mean" if not kinds else "all rows": table}, kinds


def _name(kinds: list[str], key: tuple) -> str:
    """Values of a group in words: a string speaks for itself, a bool needs its column's name."""
    return ", ".join(
        value if isinstance(value, str) else f"{kind} {value}" for kind, value in zip(kinds, key, strict=False)
    )


def _draw_group(ax: Axes, table: pd.DataFrame, x: str, quantity: str, name: str) -> None:
    seeds = [rows for _, rows in table.groupby(SEED)] if SEED in table else [table]
    if x == ROW or any(rows[x].duplicated().any() for rows in seeds):
        ax.plot(table[x], table[quantity], "o", alpha=0.5, markeredgewidth=0, label=name)
    elif SEED in table:
        wide = pd.concat([rows.set_index(x)[quantity] for rows in seeds], axis=1).sort_index()
        parts.spread(ax, wide.index, wide.to_numpy().T, name)
    else:
        ordered = table.sort_values(x)
        ax.plot(ordered[x], ordered[quantity], label=name)


def _label(column: str, meanings: Mapping[str, str]) -> str:
    """The meaning of a column, broken into lines that fit beside a panel; its name where none is given."""
    if column == ROW and ROW not in meanings:
        return "row of the table"
    lines = textwrap.wrap(meanings.get(column, column), LABEL_WIDTH, max_lines=LABEL_LINES, placeholder=" …")
    return "\n".join(lines)
