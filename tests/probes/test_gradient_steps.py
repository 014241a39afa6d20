"""Gradient steps: closed forms against autograd, steps taken one token at a time, exact sums and Monte Carlo."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probes.errors import ProbeInputError
from probes.gradient_steps import (
    agreement,
    best_preconditioner,
    best_step,
    gradient_steps,
    in_context_update,
    loss_of_step,
    nearest_cubic,
    residual_factors,
)

SIZES = {"n": st.integers(1, 7), "d_in": st.integers(1, 5), "d_out": st.integers(1, 3), "seed": st.integers(0, 99)}
UNIFORM = (1 / 3, 1 / 5, 1 / 7)  # E x^2, x^4, x^6 of U(-1, 1)
NORMAL = (1.0, 3.0, 15.0)


def draw(seed: int, *shapes):
    stream = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=stream, dtype=torch.float64) for shape in shapes]


# Steps --------------------------------------------------------------------------------------------


@given(**SIZES)
def test_an_update_is_minus_the_rate_times_the_gradient(n, d_in, d_out, seed):
    x, y, weight = draw(seed, (n, d_in), (n, d_out), (d_out, d_in))
    weight.requires_grad_()
    loss = (x @ weight.T - y).square().sum() / (2 * n)
    (gradient,) = torch.autograd.grad(loss, weight)
    found = in_context_update(x, y, weight.detach(), 0.7)
    assert (found + 0.7 * gradient).abs().max() <= 1e-12 * (1 + gradient.abs().max())


@given(depth=st.integers(0, 4), plus=st.booleans(), **SIZES)
def test_steps_are_those_of_tokens_that_are_moved_one_by_one(depth, plus, n, d_in, d_out, seed):
    x, y, query, rates, gammas = draw(seed, (n, d_in), (n, d_out), (d_in,), (depth,), (depth,))
    rates, gammas = (0.3 * rates).tolist(), (0.1 * gammas).tolist() if plus else []
    found = gradient_steps(x, y, rates, gammas) @ query
    tokens = [(a.clone(), b.clone()) for a, b in zip([*x, query], [*y, torch.zeros(d_out).double()], strict=True)]
    for rate, gamma in zip(rates, gammas or [0.0] * depth, strict=True):
        read = tokens[:-1]
        tokens = [
            (
                a - gamma * sum(xj * (xj @ a) for xj, _ in read),
                b - rate / n * sum(yj * (xj @ a) for xj, yj in read),
            )
            for a, b in tokens
        ]
    said = -tokens[-1][1]
    assert (found - said).abs().max() <= 1e-12 * (1 + said.abs().max())


def test_steps_start_from_a_weight_and_take_a_batch():
    x, y, weight = draw(0, (3, 4, 5), (3, 4, 2), (2, 5))
    found = gradient_steps(x, y, [0.5, 0.2], weight=weight)
    for one in range(3):
        expected = weight
        for rate in (0.5, 0.2):
            expected = expected + in_context_update(x[one], y[one], expected, rate)
        assert (found[one] - expected).abs().max() <= 1e-13


def test_many_small_steps_reach_least_squares():
    x, weight = draw(1, (12, 3), (1, 3))
    found = gradient_steps(x, x @ weight.T, [0.5] * 400)
    assert (found - weight).abs().max() <= 1e-9


@given(plus=st.booleans(), depth=st.integers(1, 5), seed=st.integers(0, 99))
def test_residual_factors_are_what_the_steps_leave_of_the_map(plus, depth, seed):
    x, weight = draw(seed, (6, 4), (1, 4))
    rates, gammas = [0.3] * depth, [0.02] * depth if plus else [0.0] * depth
    values, vectors = torch.linalg.eigh(x.T @ x)
    left = (weight - gradient_steps(x, x @ weight.T, rates, gammas)) @ vectors
    expected = weight @ vectors * residual_factors(values, rates, gammas, 6)
    assert (left - expected).abs().max() <= 1e-10 * (1 + expected.abs().max())


# What is best -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("half_width", "rate", "half_loss"), [(0.5, 6.061, 0.2062), (1.0, 1.515, 0.825)], ids=["code", "text"]
)
def test_the_two_data_ranges_have_the_published_optima(half_width, rate, half_loss):
    found = best_step(10, 10, half_width**2 / 3, half_width**4 / 5)
    assert found.rate == pytest.approx(rate, abs=5e-4)
    assert found.loss / 2 == pytest.approx(half_loss, abs=1e-4)


def test_without_examples_noise_or_spread_the_numbers_are_plain():
    """Coordinates +1 or -1, one of them: S = 1 always, so that one step of rate 1 leaves the noise alone."""
    assert best_step(1, 4, 1.0, 1.0).loss == pytest.approx(0, abs=1e-15)
    assert loss_of_step(1.0, 1, 4, 1.0, 1.0, noise=0.6) == pytest.approx(0.36 / 4, abs=1e-15)
    assert loss_of_step(0.0, 7, 4, 0.5, 1.0) == pytest.approx(3.5, abs=1e-15)


@pytest.mark.parametrize("noise", [0.0, 0.6])
def test_the_loss_is_the_exact_mean_over_all_signs(noise):
    """x in {-1, 1}^2, noise in {-0.6, 0.6}, two examples: 2^6 contexts, every one counted."""
    d, n, rate = 2, 2, 0.8
    losses = []
    for signs in itertools.product([-1.0, 1.0], repeat=d * n + n):
        x = torch.tensor(signs[: d * n], dtype=torch.float64).reshape(n, d)
        left = torch.eye(d, dtype=torch.float64) - rate / n * x.T @ x
        added = rate / n * x.T @ (noise * torch.tensor(signs[d * n :], dtype=torch.float64))
        losses.append((left.square().sum() + added.square().sum()).item())  # E over w and a query of covariance 1
    assert loss_of_step(rate, d, n, 1.0, 1.0, noise) == pytest.approx(sum(losses) / len(losses), abs=1e-13)


@given(
    d=st.integers(1, 20),
    n=st.integers(1, 50),
    second=st.floats(0.1, 3),
    excess=st.floats(1, 4),
    noise=st.floats(0, 2),
    off=st.floats(-0.5, 0.5),
)
def test_no_other_rate_is_better(d, n, second, excess, noise, off):
    moments = (d, n, second, excess * second**2, noise)
    best = best_step(*moments)
    assert loss_of_step(best.rate * (1 + off), *moments) >= best.loss - 1e-12 * d * second


@given(d=st.integers(1, 12), n=st.integers(1, 60), variance=st.floats(0.1, 4))
def test_equal_variances_need_no_preconditioner(d, n, variance):
    step = best_step(d, n, variance, 3 * variance**2)
    found = best_preconditioner(torch.full((d,), variance, dtype=torch.float64), n)
    assert found.rates.tolist() == pytest.approx([step.rate] * d, rel=1e-12)
    assert found.loss == pytest.approx(step.loss, rel=1e-10)


def test_least_squares_over_tasks_finds_the_preconditioner():
    variances, n, tasks = torch.tensor([3.0, 0.5]).double(), 4, 40000
    x, query, weight = draw(2, (tasks, n, 2), (tasks, 2), (tasks, 2))
    x, query = x * variances.sqrt(), query * variances.sqrt()
    score = ((x @ weight[..., None]) * x).mean(1)
    features, answer = (score[:, :, None] * query[:, None]).flatten(1), (weight * query).sum(-1)
    inverse = torch.linalg.inv(features.T @ features)
    found = inverse @ features.T @ answer
    left = answer - features @ found
    error = (inverse @ (features * left[:, None]).T @ (features * left[:, None]) @ inverse).diagonal().sqrt()
    best = best_preconditioner(variances, n)
    assert ((found - best.rates.diag().flatten()) / error).abs().max() <= 5
    losses = (answer - (score * best.rates * query).sum(-1)).square()
    assert abs(losses.mean().item() - best.loss) <= 5 * losses.std().item() / math.sqrt(tasks)


# A lone query -------------------------------------------------------------------------------------


def test_the_nearest_cubic_is_least_squares_over_all_cubic_monomials():
    """On a grid with the same points in every coordinate the moments are exact sums."""
    points = torch.tensor([-1.0, -0.4, 0.4, 1.0], dtype=torch.float64)
    d = 3
    x = torch.cartesian_prod(*[points] * d)
    found = nearest_cubic(d, *(points.pow(k).mean().item() for k in (2, 4, 6)))
    monomials = torch.stack([x[:, list(ix)].prod(-1) for ix in itertools.combinations_with_replacement(range(d), 3)], 1)
    (weight,) = draw(3, (d, 2))
    target = x @ weight
    best = monomials @ torch.linalg.lstsq(monomials, target).solution
    share = (best - target).square().sum() / target.square().sum()
    assert found.error == pytest.approx(share.item(), rel=1e-10)
    others = x.square().sum(-1, keepdim=True) - x.square()
    assert (best - (found.own * x**3 + found.others * x * others) @ weight).abs().max() <= 1e-10


@pytest.mark.parametrize("d", [2, 5, 11])
def test_known_values_of_the_nearest_cubic(d):
    normal = nearest_cubic(d, *NORMAL)
    assert normal.own == pytest.approx(normal.others, rel=1e-9)
    assert normal.error == pytest.approx(2 / (d + 4), rel=1e-9)
    if d == 5:
        assert nearest_cubic(d, *UNIFORM).error == pytest.approx(4 / 45, rel=1e-9)


# Two predictors -----------------------------------------------------------------------------------


def test_a_predictor_agrees_with_itself_and_opposes_its_negative():
    said, heard = draw(4, (50,), (50, 6))
    same, opposed = agreement(said, said, heard, heard), agreement(said, -said, heard, -heard)
    assert (same.prediction_difference, same.sensitivity_difference) == (0, 0)
    assert same.cosine == pytest.approx(1, abs=1e-12)
    assert opposed.cosine == pytest.approx(-1, abs=1e-12)
    assert opposed.prediction_difference == pytest.approx(2 * said.abs().mean().item())
    assert opposed.sensitivity_difference == pytest.approx(2 * heard.norm(dim=-1).mean().item())


def test_a_cosine_does_not_hear_size_and_a_stranger_has_none():
    said, heard, other = draw(5, (4000,), (4000, 6), (4000, 6))
    assert agreement(said, said, heard, 7 * heard).cosine == pytest.approx(1, abs=1e-12)
    assert abs(agreement(said, said, heard, other).cosine) <= 5 / math.sqrt(6 * 4000)


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: in_context_update(x, x[:2], x.T @ x, 1.0), r"x has shape \(3, 2\) and y \(2, 2\)"),
        (lambda x: in_context_update(x[:0], x[:0], x.T @ x, 1.0), "with an example or more"),
        (lambda x: gradient_steps(x, x, [1.0, 2.0], [0.1]), "2 rates and 1 gammas"),
        (lambda x: best_step(3, 4, 1.0, 0.5), "fourth at least second"),
        (lambda x: loss_of_step(1.0, 0, 4, 1.0, 3.0), "d=0"),
        (lambda x: best_preconditioner(torch.tensor([1.0, 0.0]), 4), "the variances positive: got 0"),
        (lambda x: nearest_cubic(1, *UNIFORM), "d=1 must be at least 2"),
        (lambda x: agreement(x[:, 0], x[:, 0], x, 0 * x), "3 of 3 sensitivities are 0"),
    ],
)
def test_what_the_formulas_do_not_cover_is_refused_by_its_value(call, message):
    with pytest.raises(ProbeInputError, match=message) as caught:
        call(torch.ones(3, 2, dtype=torch.float64))
    assert "\n" not in str(caught.value)
