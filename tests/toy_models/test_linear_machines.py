"""Linear attention set by hand: layers are steps, and a context is a change of weights."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probes.gradient_steps import gradient_steps, in_context_update, nearest_cubic
from toy_models.errors import ConfigError, InputError
from toy_models.linear_machines import (
    asked,
    cubic,
    examples,
    gradient_descent,
    linear_attention,
    sinks,
    slow_slot,
    slow_weights,
    with_sinks,
)
from toy_models.seeding import generator
from toy_models.tasks.linear_regression import LinearRegression

EXACT = 1e-12
D_IN, D_OUT, N = 4, 2, 6
SEEDS = st.integers(0, 50)


def draw(seed: int, *shapes):
    stream = generator(seed, "machines")
    return [torch.randn(*shape, generator=stream, dtype=torch.float64) for shape in shapes]


def regressions(seed: int = 0, n: int = 7):
    return LinearRegression(D_IN, D_OUT, N, inputs="text").sample(n, generator(seed, "data")).to(torch.float64)


# Steps --------------------------------------------------------------------------------------------


@given(seed=SEEDS, depth=st.integers(1, 4), plus=st.booleans())
def test_layers_are_steps(seed, depth, plus):
    batch, (rates, gammas) = regressions(seed), draw(seed, (depth,), (depth,))
    rates, gammas = rates.tolist(), (0.05 * gammas).tolist() if plus else []
    model = gradient_descent(D_IN, D_OUT, N, rates, gammas)
    steps = gradient_steps(batch.x, batch.y, rates, gammas)
    said = model(residual=batch.tokens, attention_mask=batch.examples)[:, -1]
    expected = (steps @ batch.query[..., None])[..., 0]
    assert (said - expected).abs().max() <= EXACT * (1 + expected.abs().max())


@given(seed=SEEDS)
def test_steps_from_a_weight_start_at_its_answer(seed):
    batch, (weight,) = regressions(seed), draw(seed, (D_OUT, D_IN))
    tokens = batch.tokens.clone()
    tokens[:, -1, D_IN:] = -batch.query @ weight.T
    model = gradient_descent(D_IN, D_OUT, N, [0.8, 0.5], weight=weight)
    said = model(residual=tokens, attention_mask=batch.examples)[:, -1]
    expected = (gradient_steps(batch.x, batch.y, [0.8, 0.5], weight=weight) @ batch.query[..., None])[..., 0]
    assert (said - expected).abs().max() <= EXACT


def test_a_query_that_is_read_as_an_example_spoils_gd_plus_plus():
    """What the mask is for."""
    batch = regressions()
    model = gradient_descent(D_IN, D_OUT, N, [0.8, 0.5], [0.1, 0.1])
    masked, bare = (model(residual=batch.tokens, attention_mask=mask)[:, -1] for mask in (batch.examples, None))
    assert (masked - bare).abs().max() > 1e-3


def test_the_order_of_the_examples_does_not_matter():
    batch = regressions()
    order = torch.tensor([3, 0, 5, 1, 4, 2, 6])
    model = gradient_descent(D_IN, D_OUT, N, [0.8, 0.5, 0.3], [0.1, 0.1, 0.1])
    one, other = (model(residual=tokens, attention_mask=batch.examples)[:, -1]
                  for tokens in (batch.tokens, batch.tokens[:, order]))  # fmt: skip
    assert (one - other).abs().max() <= 1e-14


# Slow weights -------------------------------------------------------------------------------------


@given(seed=SEEDS)
def test_a_context_is_a_change_of_the_slow_weights(seed):
    weight, x, y, query = draw(seed, (D_OUT, D_IN), (N, D_IN), (N, D_OUT), (5, D_IN))
    model = slow_weights(weight, 0.9, N, n_ctx=N + 1)
    context = examples(x, y).expand(5, -1, -1)
    target = model(residual=torch.cat([context, asked(query, D_OUT)], 1), stop_at_layer=1)[:, -1]
    alone = model(residual=asked(query, D_OUT))[:, 0]
    assert (alone - query @ weight.T).abs().max() <= EXACT
    update = in_context_update(x, y, weight, 0.9)
    with torch.no_grad():
        slow_slot(model).add_(update.T)
    size = 1 + target.abs().max()
    assert (model(residual=asked(query, D_OUT), stop_at_layer=1)[:, 0] - target).abs().max() <= EXACT * size


def test_the_context_stays_as_it_was():
    weight, x, y, query = draw(1, (D_OUT, D_IN), (N, D_IN), (N, D_OUT), (D_IN,))
    tokens = torch.cat([examples(x, y), asked(query, D_OUT)])[None]
    left = slow_weights(weight, 0.9, N, n_ctx=N + 1)(residual=tokens, stop_at_layer=1)
    assert torch.equal(left[:, :-1], tokens[:, :-1])


# Sinks, and no constant at all --------------------------------------------------------------------


@given(seed=SEEDS, n_sinks=st.integers(1, 3), n_heads=st.integers(1, 3))
def test_sinks_and_heads_carry_as_many_singular_pairs_as_their_product(seed, n_sinks, n_heads):
    (update,) = draw(seed, (3, 5))
    if n_sinks * n_heads > 3:
        with pytest.raises(ConfigError, match=f"n_sinks={n_sinks} times n_heads={n_heads} is more than the 3"):
            sinks(update, n_sinks, n_heads)
        return
    model = sinks(update, n_sinks, n_heads)
    carried = model(residual=with_sinks(model, torch.eye(5, dtype=torch.float64)))[:, -1].T
    left, size, right = torch.linalg.svd(update, full_matrices=False)
    r = n_sinks * n_heads
    assert (carried - left[:, :r] @ size[:r].diag() @ right[:r]).abs().max() <= EXACT


def test_a_query_of_another_width_is_refused():
    model = sinks(torch.ones(2, 5, dtype=torch.float64))
    with pytest.raises(InputError, match="x has 4 entries: this model's queries have 5"):
        with_sinks(model, torch.ones(1, 4, dtype=torch.float64))


@given(seed=SEEDS)
def test_the_cubic_machine_says_its_cubic(seed):
    weight, x = draw(seed, (D_OUT, D_IN), (6, D_IN))
    model = cubic(weight, 0.7, 0.3)
    said = model(residual=torch.nn.functional.pad(x, (0, D_OUT))[:, None])[:, 0]
    others = x.square().sum(-1, keepdim=True) - x.square()
    expected = (0.7 * x**3 + 0.3 * x * others) @ weight.T
    assert (said - expected).abs().max() <= EXACT * (1 + expected.abs().max())


@given(seed=SEEDS, heads=st.integers(1, 4))
def test_without_a_constant_a_lone_query_hears_itself_to_the_third_power(seed, heads):
    """Any weights: twice the query, eight times the answer. So no weights are linear in it."""
    model = linear_attention(1, heads, D_IN + D_OUT, 3, D_OUT, 1, mean=False)
    shapes = [tuple(one.shape) for one in model.parameters()]
    with torch.no_grad():
        for weight, drawn in zip(model.parameters(), draw(seed, *shapes), strict=True):
            if weight.ndim == 3:
                weight.copy_(drawn)
    (x,) = draw(seed, (4, D_IN))
    once, twice = (
        model(residual=torch.nn.functional.pad(s * x, (0, D_OUT))[:, None], stop_at_layer=1)[:, 0, D_IN:]
        for s in (1, 2)
    )
    assert (twice - 8 * once).abs().max() <= 1e-10 * (1 + once.abs().max())
    assert nearest_cubic(D_IN, 1.0, 3.0, 15.0).error > 0.05


# Options ------------------------------------------------------------------------------------------


def test_a_sum_is_the_mean_times_the_number_of_visible_keys():
    batch = regressions()
    said = []
    for mean in (True, False):
        model = linear_attention(1, 1, D_IN + D_OUT, D_IN, D_OUT, N + 1, mean=mean)
        with torch.no_grad():
            for name, drawn in zip(("W_Q", "W_K", "W_V", "W_O"), draw(2, *[(1, 6, 4)] * 3, (1, 4, 6)), strict=True):
                getattr(model.blocks[0].attn, name).copy_(drawn)
        left = model(residual=batch.tokens, attention_mask=batch.examples, stop_at_layer=1)
        said.append(left - batch.tokens)
    assert (said[1] - N * said[0]).abs().max() <= 1e-12 * said[1].abs().max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": [1.0], "gammas": [0.1, 0.2]}, "1 rates and 2 gammas"),
        ({"rates": []}, "0 rates and 0 gammas"),
        ({"rates": [1.0], "weight": torch.zeros(3, 3)}, r"weight has shape \(3, 3\): it must be \(d_out=2, d_in=4\)"),
        ({"rates": [1.0], "gammas": [0.1], "weight": torch.zeros(2, 4)}, "need weight=None"),
    ],
)
def test_steps_that_do_not_fit_are_refused_in_one_line(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        gradient_descent(D_IN, D_OUT, N, **options)
    assert "\n" not in str(caught.value)
