"""Algorithm weights: known mixtures come back, the end is an optimum, and bad references are refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.algorithm_weights import algorithm_weights
from probes.errors import ProbeInputError
from toy_models.seeding import generator

CLOSE = 1e-3  # a predictor without weight loses it geometrically, by its multiplier a step: never quite


def predictors(n: int, rows: int = 40, tokens: int = 5, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(n, rows, tokens, generator=generator(seed, "predictors"), dtype=torch.float64)
    return (2 * drawn).log_softmax(-1)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_model_that_is_one_predictor_has_all_its_weight(which):
    known = predictors(3)
    found = algorithm_weights(known[which] + 7.0, known)
    assert found.weights[which].item() == pytest.approx(1, abs=CLOSE)
    assert found.residual.item() == pytest.approx(0, abs=CLOSE)
    assert found.alone[which].item() == pytest.approx(0, abs=1e-12)
    assert found.alone.min() == found.alone[which]


@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=4), st.integers(0, 5))
@settings(max_examples=8, deadline=None)
def test_a_known_mixture_comes_back(shares, seed):
    weights = torch.tensor(shares, dtype=torch.float64)
    weights /= weights.sum()
    known = predictors(len(shares), seed=seed)
    mixed = torch.einsum("p,prt->rt", weights, known.exp()).log()
    found = algorithm_weights(mixed, known, steps=1500)
    torch.testing.assert_close(found.weights, weights, rtol=0, atol=2e-3)
    assert found.residual.item() < 1e-5


@given(st.integers(0, 20))
@settings(max_examples=6, deadline=None)
def test_at_the_end_no_predictor_could_gain(seed):
    """Karush-Kuhn-Tucker: the multiplier is 1 where there is weight, and at most 1 elsewhere."""
    known = predictors(3, seed=seed)
    said = torch.randn(40, 5, generator=generator(seed, "said"), dtype=torch.float64).log_softmax(-1)
    found = algorithm_weights(said, known, steps=1500)
    mixed = torch.einsum("p,prt->rt", found.weights, known.exp())
    multiplier = (said.exp() * known.exp() / mixed).sum(-1).mean(-1)
    assert multiplier.max().item() < 1 + 1e-3
    assert (multiplier - 1).abs().mul(found.weights).sum().item() < 1e-3


def test_rows_tokens_and_one_more_predictor():
    known, said = predictors(3), predictors(1, seed=9)[0]
    found = algorithm_weights(said, known)
    rows, tokens = torch.randperm(40, generator=generator(1)), torch.randperm(5, generator=generator(2))
    moved = algorithm_weights(said[rows][:, tokens], known[:, rows][:, :, tokens])
    torch.testing.assert_close(moved.weights, found.weights)
    shaped = algorithm_weights(said.unflatten(0, (8, 5)), known.unflatten(1, (8, 5)))
    torch.testing.assert_close(shaped.weights, found.weights)
    assert algorithm_weights(said, predictors(4)[:3]).residual >= algorithm_weights(said, predictors(4)).residual - 1e-9


def test_a_token_that_nobody_expects_is_nobodys_to_explain():
    known = predictors(2)
    barred = torch.cat([known, torch.full((2, 40, 1), -torch.inf, dtype=torch.float64)], -1)
    said = torch.cat([known[0], torch.full((40, 1), -3.0, dtype=torch.float64)], -1)
    assert algorithm_weights(said, barred).weights[0].item() == pytest.approx(1, abs=CLOSE)


def test_one_that_excludes_what_the_model_says_is_infinitely_far_alone():
    known = predictors(2)
    known[1, :, 0] = -torch.inf
    known[1] = known[1].log_softmax(-1)
    found = algorithm_weights(known[0], known)
    assert found.alone[1].item() == float("inf")
    assert found.residual.isfinite()


def test_references_that_are_no_distributions_or_exclude_everything_are_refused():
    with pytest.raises(ProbeInputError, match="must be log probabilities"):
        algorithm_weights(predictors(1)[0], 2 * predictors(2))
    barred = torch.full((1, 3, 4), -torch.inf)
    barred[..., 0] = 0
    with pytest.raises(ProbeInputError, match="all references exclude"):
        algorithm_weights(torch.tensor([0.0, 9, 9, 9]).expand(3, -1), barred)
