"""The closed forms: normal equations, the constrained minimum, and their limits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probes.currying.solving import kl, reading_direction, ridge_solve
from probes.errors import ProbeInputError
from toy_models.seeding import generator


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, "solving", *shape), dtype=torch.float64)


@given(st.integers(0, 1000), st.integers(1, 6), st.floats(0, 10))
def test_a_ridge_solution_makes_the_gradient_zero(seed, width, ridge):
    features, targets = drawn(seed, 2, 9, width), drawn(seed + 1, 2, 9, 3)
    found = ridge_solve(features, targets, ridge)
    damping = ridge * features.square().sum(1).mean(-1)[:, None, None]
    gradient = features.transpose(1, 2) @ (features @ found - targets) + damping * found
    assert gradient.abs().max() < 1e-10 * (1 + damping.max())


def test_of_many_solutions_without_a_ridge_the_shortest_is_taken():
    features = torch.ones(4, 2, dtype=torch.float64)
    torch.testing.assert_close(
        ridge_solve(features, 6 * features[:, :1], 0.0), torch.full((2, 1), 3.0, dtype=torch.float64)
    )
    assert not ridge_solve(torch.zeros(4, 2), torch.ones(4, 1), 1e-3).any()


@given(st.integers(0, 1000), st.floats(1e-6, 10))
def test_no_other_direction_that_reads_bos_the_same_is_blinder(seed, damping):
    own, others, aside = drawn(seed, 5), drawn(seed + 1, 12, 5), drawn(seed + 2, 5)
    u = reading_direction(own, others, damping)

    spread = others.T @ others / len(others)
    spread = spread + damping * spread.diagonal().mean() * torch.eye(5, dtype=torch.float64)
    other = u + 0.1 * (aside - own * (aside @ own) / (own @ own))
    assert (u @ own).item() == pytest.approx(1, abs=1e-9)
    assert (other @ own).item() == pytest.approx(1, abs=1e-9)
    assert u @ spread @ u <= other @ spread @ other + 1e-12
    assert (spread @ u - (u @ spread @ u) * own).abs().max() < 1e-10  # where the constraint holds, the slope is zero


def test_a_direction_that_nothing_else_has_is_found_whole():
    own = torch.tensor([1.0, 2.0, 2.0])
    others = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    u = reading_direction(own, others, 1e-14)
    torch.testing.assert_close(u, torch.tensor([0.0, 0.0, 0.5], dtype=torch.float64), atol=1e-12, rtol=0)


def test_divergence_of_two_coins_is_the_sum_written_out():
    p, q = torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 0.5]])
    expected = (p * (p / q).log()).sum().item()
    assert kl(p.log() + 3, q.log() - 1).item() == pytest.approx(expected, abs=1e-7)


def test_what_cannot_be_solved_is_refused():
    with pytest.raises(ProbeInputError, match="3 query rows cannot fix 4 numbers"):
        ridge_solve(torch.ones(3, 4), torch.ones(3, 1), 1.0)
    with pytest.raises(ProbeInputError, match=r"ridge=-1\.0 must be 0 or more"):
        ridge_solve(torch.ones(3, 2), torch.ones(3, 1), -1.0)
    with pytest.raises(ProbeInputError, match="attention reads zeros from BOS"):
        reading_direction(torch.zeros(3), torch.ones(2, 3), 1e-3)
