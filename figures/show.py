"""Draw what a probe or a study measured: a result as its study's figure, any other dataclass of arrays field by field.

    ()                           a point, with the other scalars
    (position)                   a line
    (layer, head)                a heat map with its numbers
    (batch, head, query)         one line per head: the mean over the batch
    (batch, head, query, key)    one heat map per head, of the first batch item

The names of the axes come from the jaxtyping annotations of the fields, the units from `field(metadata={"unit": ...})`.
"""

import dataclasses
import math
import re
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from figures import parts
from figures.default import default_figure
from figures.draw import figure_for, names

MOST_PANELS, PANELS_IN_ROW = 16, 4  # of one field's grid
MOST_NAMED = 7  # lines told apart by the house colours; more take their colour from a scale
PANEL, SMALL_PANEL = 2.2, 1.65  # inches high


class ShowError(WorkbenchError):
    """A thing that `show` cannot draw."""


@dataclasses.dataclass(frozen=True)
class Quantity:
    """One field, ready to draw: numbers, the name of each axis, and the name with its unit."""

    values: np.ndarray
    axes: tuple[str, ...]
    label: str

    @property
    def is_grid(self) -> bool:
        """Whether it takes one heat map per item of an axis, rather than one panel."""
        if self.values.ndim != 3:
            return self.values.ndim == 4
        return self.axes[0] not in ("batch", "axis 0") or self.axes[1:] == ("query", "key")


def show(thing: object, title: str | None = None) -> Figure:
    """Draw a result of a study, or a dataclass of arrays or tensors.

    Args:
        thing: a Result, drawn as its study's figure, or column by column before it was saved; or an instance whose
            fields are numpy arrays, numbers, or tensors of up to four axes; other fields are left out, and named
            below the title.
        title: above the figure; by default the name of the class, or none for a result.

    Raises:
        ShowError: not a dataclass, nothing to draw in it, or a field that is empty, complex or of five axes or more.
        FigureError: the study's figure needs results of other studies too.
    """
    if isinstance(thing, Result):
        return _show_result(thing, title)
    if not dataclasses.is_dataclass(thing) or isinstance(thing, type):
        what = f"the class {thing.__name__}" if isinstance(thing, type) else f"of type {type(thing).__name__}"
        raise ShowError(f"show draws an instance of a dataclass of arrays; this is {what}: make it a field of one")
    fields = dataclasses.fields(thing)
    quantities = [_quantity(field, getattr(thing, field.name)) for field in fields]
    left_out = [field.name for field, quantity in zip(fields, quantities, strict=True) if quantity is None]
    drawable = [quantity for quantity in quantities if quantity is not None]
    if not drawable:
        raise ShowError(f"{type(thing).__name__} has no arrays to draw; its fields are {', '.join(left_out) or 'none'}")
    heading = title or type(thing).__name__
    if left_out:
        heading += f"\nnot drawn: {', '.join(left_out)}"
    with parts.house_style():
        figure = _draw(drawable)
        figure.suptitle(heading)
    return figure


def _show_result(result: Result, title: str | None) -> Figure:
    """A result that was not saved, or by a study that is not here, has no figure of its own."""
    study = result.run.get("study")
    figure = figure_for(study, {study: result}) if study in names() else default_figure(result)
    if title:
        with parts.house_style():
            figure.suptitle(title)
    return figure


def _quantity(field: dataclasses.Field, value: object) -> Quantity | None:
    """A field's numbers and names; None for what is no array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()  # numpy has no bfloat16
    if not isinstance(value, np.ndarray | np.generic | int | float):
        return None
    values = np.asarray(value)
    if values.dtype.kind not in "biuf" or values.ndim > 4 or not values.size:
        raise ShowError(
            f"cannot draw {field.name} of shape {values.shape} and type {values.dtype}: slice or convert it"
        )
    axes = _axes(field.type, values.ndim)
    unit = field.metadata.get("unit")
    return Quantity(values.astype(float), axes, f"{field.name} ({unit})" if unit else field.name)


def _axes(annotation: object, ndim: int) -> tuple[str, ...]:
    """Names of the axes from an annotation like Float[Tensor, "layer head"], also as one alternative of a union."""
    for option in (annotation, *getattr(annotation, "__args__", ())):
        quoted = re.search(r"""\[.*?["']([^"']*)["']\]""", option) if isinstance(option, str) else None
        text = quoted[1] if quoted else getattr(option, "dim_str", None)
        names = tuple(re.sub(r"^[*#?]+|^.*=", "", name) for name in (text or "").split())
        if len(names) == ndim:
            return tuple(f"axis {i}" if name in ("...", "_") else name for i, name in enumerate(names))
    return tuple(f"axis {i}" for i in range(ndim))


def _draw(quantities: list[Quantity]) -> Figure:
    """Lay the fields out: small panels two by two, the scalars in one of them, and grids in rows of their own."""
    scalars = [quantity for quantity in quantities if not quantity.values.ndim]
    small = [partial(_panel, quantity=one) for one in quantities if one.values.ndim and not one.is_grid]
    small += [partial(_scalars, quantities=scalars)] if scalars else []
    rows = [(PANEL, small[start : start + 2]) for start in range(0, len(small), 2)]
    if scalars and len(small) % 2:
        rows[-1] = (0.6 + 0.35 * len(scalars), small[-1:])
    for grid in (quantity for quantity in quantities if quantity.is_grid):
        rows.append((0.4 + SMALL_PANEL * _rows(grid), [partial(_grid, quantity=grid)]))
    heights = [height for height, _ in rows]
    figure = parts.Sheet(figsize=(parts.DOUBLE, 0.4 + sum(heights)))
    bands = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for band, (_, drawings) in zip(bands, rows, strict=True):
        for cell, draw in zip(band.subfigures(1, len(drawings), squeeze=False)[0], drawings, strict=True):
            draw(cell)
    return figure


def _panel(cell: SubFigure, quantity: Quantity) -> None:
    """A line, a heat map, or a line per head, by the number of axes."""
    ax, values = cell.subplots(), quantity.values
    if values.ndim == 1:
        ax.plot(values, marker="o" if len(values) <= 50 else None)
        ax.set(xlabel=quantity.axes[0], ylabel=quantity.label)
    elif values.ndim == 2:
        parts.heat(ax, values, quantity.label)
        ax.set(xlabel=quantity.axes[1], ylabel=quantity.axes[0])
    else:
        _lines(ax, values.mean(0), quantity.axes[1])
        ax.set(xlabel=quantity.axes[2], ylabel=quantity.label)
        ax.set_title(f"mean over {len(values)} of {quantity.axes[0]}", fontsize="medium")
    if values.ndim != 2:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def _lines(ax: Axes, values: np.ndarray, name: str) -> None:
    """One line per row; few rows are named in a legend, many take their colour from a scale."""
    if len(values) <= MOST_NAMED:
        ax.plot(values.T, label=[f"{name} {row}" for row in range(len(values))])
        ax.figure.legend(loc="outside right upper")
        return
    colours = ScalarMappable(Normalize(0, len(values) - 1), "viridis")
    for row, line in enumerate(values):
        ax.plot(line, color=colours.to_rgba(row), linewidth=1.0)
    ax.figure.colorbar(colours, ax=ax, label=name, ticks=MaxNLocator(6, integer=True))


def _scalars(cell: SubFigure, quantities: list[Quantity]) -> None:
    ax, rows = cell.subplots(), range(len(quantities))
    values = [quantity.values.item() for quantity in quantities]
    ax.plot(values, rows, "o")
    ax.set_yticks(rows, [f"{quantity.label}\n{value:.4g}" for quantity, value in zip(quantities, values, strict=True)])
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel="value")
    ax.xaxis.set_major_locator(MaxNLocator(4))


def _rows(quantity: Quantity) -> int:
    return math.ceil(min(quantity.values.shape[-3], MOST_PANELS) / PANELS_IN_ROW)


def _grid(cell: SubFigure, quantity: Quantity) -> None:
    """One heat map per item of the third axis from the end, on one scale of colours; the title says which are shown."""
    values, name = quantity.values, quantity.axes[-3]
    shown = f"{quantity.label}: {name} 0 to {min(values.shape[-3], MOST_PANELS) - 1} of {values.shape[-3]}"
    if values.ndim == 4:
        shown += f", {quantity.axes[0]} item 0 of {len(values)}"
        values = values[0]
    values = values[:MOST_PANELS]
    cmap, low, high = parts.colours(values)
    columns = min(len(values), PANELS_IN_ROW)
    panels = cell.subplots(_rows(quantity), columns, squeeze=False, sharex=True, sharey=True).ravel()
    for ax in panels[len(values) :]:
        ax.remove()
    for index, ax in enumerate(panels[: len(values)]):
        image = ax.imshow(values[index], cmap=cmap, vmin=low, vmax=high, aspect="auto")
        ax.set_title(f"{name} {index}", fontsize="medium")
        ax.tick_params(labelbottom=index + columns >= len(values))  # also above the gap in a last row that is not full
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    cell.supxlabel(quantity.axes[-1])
    cell.supylabel(quantity.axes[-2])
    cell.suptitle(shown)
    cell.colorbar(image, ax=panels[: len(values)], label=quantity.label)
