import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from probes.errors import ProbeInputError
from probes.position_law import limit_density, path_counts, position_law, random_position_law, uniform_powers


def uniform(n: int) -> np.ndarray:
    """Causal attention to all keys alike."""
    return np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None]


# Against the matrix product -----------------------------------------------------------------------


@given(n=st.integers(1, 60), depth=st.integers(1, 12))
def test_the_powers_of_uniform_attention_are_symmetric_polynomials(n, depth):
    found = uniform_powers(n, depth)
    for k in range(depth + 1):
        assert np.abs(np.linalg.matrix_power(uniform(n), k)[-1] - found[k].numpy()).max() <= 1e-12


@given(n=st.integers(1, 60), depth=st.integers(1, 32), share=st.floats(0, 1))
def test_the_law_is_the_matrix_product_and_sums_to_one(n, depth, share):
    product = np.linalg.matrix_power((1 - share) * np.eye(n) + share * uniform(n), depth)[-1]
    found = position_law(n, depth, share)
    assert np.abs(product - found.numpy()).max() <= 1e-12
    assert found.sum().item() == pytest.approx(1, abs=1e-12)


@given(n=st.integers(2, 8), gains=st.lists(st.floats(0.1, 3), min_size=1, max_size=6))
def test_the_random_law_is_the_mean_square_over_random_signs(n, gains):
    squares = []
    for signs in itertools.product([-1, 1], repeat=len(gains)):  # every draw of W = +-gain: the mean is exact
        product = np.eye(n)
        for sign, gain in zip(signs, gains, strict=True):
            product = (np.eye(n) + sign * gain * uniform(n)) @ product
        squares.append(product[-1] ** 2)
    expected = np.mean(squares, 0)
    found = random_position_law(n, gains).square().numpy()
    assert np.abs(found - expected).max() <= 1e-12 * math.prod(1 + gain for gain in gains) ** 2


@given(n=st.integers(1, 20), depth=st.integers(1, 8))
def test_paths_are_counted_as_the_power_of_a_triangle_of_ones_counts_them(n, depth):
    counts = np.linalg.matrix_power(np.tril(np.ones((n, n), dtype=np.int64)), depth)[-1]
    assert path_counts(n, depth).tolist() == counts.tolist()
    assert path_counts(n, depth)[-1] == 1


# What the law says --------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "first"), [(8, 0.565), (16, 0.915), (32, 0.999)])
def test_with_depth_the_first_position_takes_all(depth, first):
    """Proposition 5.2 for 16 tokens; the values of the matrix product, to three digits."""
    assert position_law(16, depth)[0].item() == pytest.approx(first, abs=5e-4)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_inside_falls_and_the_residual_path_is_an_atom_at_the_end(share):
    n, depth = 64, 5
    found = position_law(n, depth, share)
    attended = found.clone()
    attended[-1] -= (1 - share) ** depth
    assert (attended.diff() <= 1e-15).all()


@pytest.mark.parametrize("share", [0.3, 0.5])
@pytest.mark.parametrize("depth", [1, 2, 6])
def test_long_texts_follow_the_density(depth, share):
    x = torch.tensor([0.1, 0.3, 0.7, 0.95], dtype=torch.float64)
    off = []
    for n in (1000, 2000, 4000):
        law = n * position_law(n, depth, share)
        off.append((law[(x * n).long()] / limit_density(x, depth, share) - 1).abs().max().item())
    assert off[-1] <= 60 / 4000  # sums for integrals: an error of order depth / (n x)
    if depth > 1:
        assert off[0] / off[1] == pytest.approx(2, rel=0.05)
        assert off[1] / off[2] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("depth", [1, 3, 8])
def test_density_and_atom_hold_all_the_mass(depth):
    mass, error = quad(lambda x: limit_density(torch.tensor([x], dtype=torch.float64), depth, 0.4).item(), 0, 1)
    assert mass + 0.6**depth == pytest.approx(1, abs=max(10 * error, 1e-12))


def test_it_stays_exact_for_long_texts_and_many_layers():
    found = position_law(4096, 64)
    assert found.sum().item() == pytest.approx(1, abs=1e-12)
    assert (found >= 0).all()
    assert math.isfinite(random_position_law(4096, [1.0] * 64).sum().item())


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: position_law(0, 2), "n=0 must be at least 1"),
        (lambda: uniform_powers(4, 0), "depth=0 must be at least 1"),
        (lambda: path_counts(4, -1), "depth=-1 must be at least 1"),
        (lambda: position_law(4, 2, 1.5), r"share=1\.5 must lie in \[0, 1\]"),
        (lambda: random_position_law(4, []), "depth=0 must be at least 1"),
        (lambda: limit_density(torch.tensor([0.5, 0.0]), 2), r"x=0 must lie in \(0, 1\)"),
    ],
)
def test_what_is_out_of_range_is_refused_by_its_value(call, message):
    with pytest.raises(ProbeInputError, match=message):
        call()
