"""show draws any dataclass of arrays by the shapes of its fields."""

from dataclasses import dataclass, field, make_dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from jaxtyping import Bool, Float

from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from figures import draw, parts
from figures.show import show

RANDOM = np.random.default_rng(0)


@dataclass(frozen=True)
class Heads:
    prefix: Float[np.ndarray, "layer head"]
    entropy: Float[np.ndarray, "batch head query"] = field(metadata={"unit": "nats"})
    n_visible: Float[np.ndarray, " query"]
    visible: Bool[np.ndarray, "query key"]
    loss: Float[np.ndarray, ""]
    steps: int
    pattern: Float[np.ndarray, "batch head query key"]
    note: str


@pytest.fixture(scope="module")
def heads() -> Heads:
    pattern = np.tril(RANDOM.random((3, 20, 12, 12)))
    visible = np.tril(np.ones((12, 12), bool))
    return Heads(
        RANDOM.random((2, 8)), RANDOM.random((3, 4, 12)), np.arange(1.0, 13), visible, np.array(2.5), 100, pattern, "x"
    )


def panel(figure, label: str):
    """The axes whose quantity is this, by its y label or the label of its colour bar."""
    (found,) = [ax for ax in figure.axes if ax.get_ylabel() == label and ax.get_label() != "<colorbar>"] or [
        ax._colorbar.mappable.axes for ax in figure.axes if ax.get_ylabel() == label
    ]
    return found


def test_every_shape_is_drawn_and_legible(heads, legible):
    figure = show(heads, title="Heads of a toy")
    assert figure.get_suptitle() == "Heads of a toy\nnot drawn: note"
    legible(figure)


def test_a_matrix_is_a_heat_map_with_its_axes_named(heads):
    ax = panel(show(heads), "prefix")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("head", "layer")
    np.testing.assert_array_equal(ax.images[0].get_array(), heads.prefix)


def test_a_statistic_is_its_mean_over_the_batch_per_head_in_its_unit(heads):
    ax = panel(show(heads), "entropy (nats)")
    np.testing.assert_allclose([line.get_ydata() for line in ax.lines], heads.entropy.mean(0))
    assert ax.get_title() == "mean over 3 of batch"


def test_patterns_are_the_first_sixteen_heads_of_the_first_item_and_say_so(heads):
    figure = show(heads)
    grid = [ax for ax in figure.axes if ax.get_title().startswith("head ")]
    assert [ax.get_title() for ax in grid] == [f"head {head}" for head in range(16)]
    np.testing.assert_array_equal([ax.images[0].get_array() for ax in grid], heads.pattern[0, :16])
    titles = [part.get_suptitle() for band in figure.subfigs for part in band.subfigs]
    assert "pattern: head 0 to 15 of 20, batch item 0 of 3" in titles


def one(annotation: object, value: object):
    return show(make_dataclass("Thing", [("value", annotation)], frozen=True)(value))


@pytest.mark.parametrize(
    ("annotation", "named"),
    [
        (Float[np.ndarray, "layer head"], ("layer", "head")),
        (Float[np.ndarray, "#layer n_heads=8"], ("layer", "8")),
        (Float[np.ndarray, "layer head"] | None, ("layer", "head")),
        ('Float[Tensor, "layer head"]', ("layer", "head")),
        ("Float[Tensor, 'layer head'] | None", ("layer", "head")),
        (Float[np.ndarray, "*rest"], ("axis 0", "axis 1")),
        (np.ndarray, ("axis 0", "axis 1")),
    ],
)
def test_axes_are_named_by_the_annotation_as_far_as_it_names_them(annotation, named):
    ax = panel(one(annotation, np.eye(3)), "value")
    assert (ax.get_ylabel(), ax.get_xlabel()) == named


@pytest.mark.parametrize(
    "shape", [(), (1,), (200,), (1, 1), (3, 60), (2, 9, 5), (1, 1, 1), (2, 3, 4, 5), (1, 17, 1, 1)]
)
def test_unnamed_arrays_of_up_to_four_axes_are_drawn_legibly(shape, legible):
    legible(one(np.ndarray, RANDOM.normal(size=shape)))


@pytest.mark.parametrize("names", ["layer head query", "head query key"])
def test_three_axes_without_a_batch_are_a_grid(names, legible):
    figure = one(Float[np.ndarray, names], RANDOM.random((5, 6, 6)))
    assert [len(ax.images) for ax in figure.axes if ax.get_title()] == [1] * 5
    legible(figure)


def test_tensors_that_carry_gradients_and_bfloat16_are_drawn_and_left_alone():
    import torch

    tensor = torch.eye(3, dtype=torch.bfloat16, requires_grad=True)
    ax = panel(one("Tensor", tensor), "value")
    np.testing.assert_array_equal(ax.images[0].get_array(), np.eye(3))
    assert tensor.requires_grad
    assert tensor.dtype == torch.bfloat16


def test_missing_values_leave_gaps(legible):
    values = np.full((2, 3, 4), np.nan)
    values[..., 1:] = -np.inf
    legible(one(np.ndarray, values))
    legible(one(np.ndarray, values[0]))


def test_a_result_is_drawn_as_its_studys_figure(inside, kept, monkeypatch, legible):
    def losses(tables):
        figure, axes = parts.sheet()
        axes[0, 0].plot(tables["loss_vs_step"].table.loss)
        return figure

    own = SimpleNamespace(__name__="figures.toy.loss_vs_step", NEEDS=("loss_vs_step",), draw=losses)
    monkeypatch.setattr(draw, "_module", {"loss_vs_step": own}.get)
    figure = show(kept, title="Loss of a toy")
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), kept.table.loss)
    assert figure.get_suptitle() == "Loss of a toy"
    legible(figure)
    own.NEEDS = ("loss_vs_step", "peak_vs_length")
    with pytest.raises(WorkbenchError, match="needs the results of peak_vs_length too"):
        show(kept)


@pytest.mark.parametrize("saved", [True, False])
def test_a_result_without_a_figure_of_its_own_is_drawn_column_by_column(inside, kept, saved, legible):
    figure = show(kept if saved else Result(kept.table))
    assert [ax.get_title() for ax in figure.axes] == (["loss", "score"] if saved else ["", ""])
    legible(figure)


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (np.eye(2), "show draws an instance of a dataclass"),
        (Heads, "show draws an instance of a dataclass"),
        (make_dataclass("Empty", ["name"])("x"), "Empty has no arrays to draw; its fields are name"),
        (make_dataclass("Deep", ["a"])(np.zeros((1,) * 5)), r"cannot draw a of shape \(1, 1, 1, 1, 1\)"),
        (make_dataclass("Hollow", ["a"])(np.zeros((2, 0))), r"cannot draw a of shape \(2, 0\)"),
        (make_dataclass("Phases", ["a"])(np.ones(2, complex)), "type complex128: slice or convert it"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(thing, said):
    with pytest.raises(WorkbenchError, match=said) as refusal:
        show(thing)
    assert "\n" not in str(refusal.value)
