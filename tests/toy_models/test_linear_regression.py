"""Linear regression as a task: what is drawn, what is asked, and what tells the answer."""

import math

import pytest
import torch

from toy_models.errors import ConfigError
from toy_models.seeding import generator
from toy_models.tasks.linear_regression import INPUTS, LinearRegression

SMALL = LinearRegression(d_in=3, d_out=2, n_examples=5)


def batch(task: LinearRegression, n: int = 40, seed: int = 0):
    return task.sample(n, generator(seed, "data"))


def test_one_map_explains_every_label_and_the_answer_of_a_sequence():
    found = batch(SMALL).to(torch.float64)
    weight = torch.linalg.lstsq(found.x, found.y).solution  # 5 examples, 3 unknowns: exact
    assert (found.x @ weight - found.y).abs().max() <= 1e-5
    assert ((found.query[:, None] @ weight)[:, 0] - found.answer).abs().max() <= 1e-4
    assert (weight[0] - weight[1]).abs().max() > 0.1  # and every sequence has its own


def test_the_query_stands_last_without_its_answer_and_alone_is_scored():
    found = batch(SMALL)
    assert found.tokens.shape == (40, SMALL.n_ctx, SMALL.d_model) == (40, 6, 5)
    assert (found.tokens[:, -1, 3:] == 0).all()
    assert (found.answer != 0).all()
    assert found.scored.sum(-1).tolist() == [1] * 40
    assert found.scored[:, -1].all()
    assert torch.equal(found.examples, ~found.scored)
    assert torch.equal(found.targets[:, :-1], found.y)


@pytest.mark.parametrize("inputs", INPUTS)
def test_inputs_have_the_moments_that_the_task_tells(inputs):
    task, n = LinearRegression(d_in=4, n_examples=50, inputs=inputs), 400
    x = batch(task, n).x.double()
    for order in (2, 4):
        powers = x.pow(order)
        error = powers.std() / powers.numel() ** 0.5
        assert abs(powers.mean() - task.moment(order)) <= 5 * error
    assert abs(x.mean()) <= 5 * x.std() / x.numel() ** 0.5


def test_the_two_ranges_are_those_of_the_code_and_of_the_text():
    assert 0.49 < batch(LinearRegression()).x.abs().max() <= 0.5
    assert 0.98 < batch(LinearRegression(inputs="text")).x.abs().max() <= 1.0
    assert LinearRegression().moment(2) == pytest.approx(1 / 12)
    assert LinearRegression(inputs="text").moment(4) == pytest.approx(1 / 5)
    assert LinearRegression(inputs="gaussian").moment(6) == 15


def test_scales_stretch_their_coordinate_alone():
    plain = LinearRegression(d_in=3, inputs="gaussian")
    stretched = LinearRegression(d_in=3, inputs="gaussian", scales=(2.0, 1.0, 0.5))
    assert torch.equal(batch(stretched).x, batch(plain).x * torch.tensor([2.0, 1.0, 0.5]))


def test_noise_is_on_the_examples_and_not_on_the_answer():
    clean, noisy = (batch(LinearRegression(noise=sigma), 2000) for sigma in (0.0, 0.3))
    off = noisy.y - (noisy.x @ torch.linalg.lstsq(clean.x.double(), clean.y.double()).solution.float())
    assert off.std().item() == pytest.approx(0.3, rel=0.05)  # 20000 draws
    assert torch.equal(clean.answer, noisy.answer)


def test_other_labels_are_the_next_sequences_and_tell_nothing():
    found = batch(SMALL, 4000)
    other = found.relabelled()
    assert torch.equal(other.y, found.y.roll(1, 0))
    for kept in ("x", "query", "answer"):
        assert torch.equal(getattr(other, kept), getattr(found, kept))
    product = ((other.y * other.x[..., :1]).mean(1) * found.query[:, :1] * found.answer).double()
    assert (product.mean(0).abs() <= 5 * product.std(0) / math.sqrt(4000)).all()
    told = ((found.y * found.x[..., :1]).mean(1) * found.query[:, :1] * found.answer).double()
    assert (told.mean(0) > 5 * told.std(0) / math.sqrt(4000)).all()


def test_the_loss_is_half_the_squared_error_or_all_of_it():
    said, asked = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2)
    assert LinearRegression().loss(said, asked).item() == 1.25
    assert LinearRegression(loss_kind="mse").loss(said, asked).item() == 2.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_in": 0}, "d_in=0 must be a whole number of at least 1"),
        ({"n_examples": -3}, "n_examples=-3"),
        ({"inputs": "paper"}, "inputs='paper' must be one of code, text, gaussian"),
        ({"loss_kind": "mae"}, "loss_kind='mae' must be one of half_mse, mse"),
        ({"d_in": 3, "scales": (1.0, 2.0)}, "scales has 2 entries: give one for each of d_in=3"),
        ({"d_in": 2, "scales": (1.0, 0.0)}, "must be positive and finite"),
        ({"noise": -1.0}, r"noise=-1\.0 must be finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        LinearRegression(**options)
    assert "\n" not in str(caught.value)


def test_one_sequence_has_no_other_labels():
    with pytest.raises(ConfigError, match="1 sequence has no other"):
        batch(SMALL, 1).relabelled()
