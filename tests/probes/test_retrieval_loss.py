"""Of `probes.sharpness`: the loss of a retrieval beside that of the hard-max of the same scores."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from probes.errors import ProbeInputError
from probes.sharpness import causal, hard_max, missed_mass, peak_bound, retrieval_loss
from toy_models.normalisers.log_n import LogN
from toy_models.seeding import generator

ROWS = arrays("float64", st.tuples(st.integers(1, 4), st.integers(1, 20)), elements=st.floats(-20, 20))
# Few different values, so that ties are common.
TIED = arrays("float64", st.tuples(st.integers(1, 4), st.integers(1, 8)), elements=st.sampled_from([-1.0, 0.0, 0.5]))


def needle(margin: float, n: int) -> torch.Tensor:
    """One row: the target, key 2, stands `margin` nats above n - 1 equal distractors."""
    scores = torch.full((1, n), 0.7, dtype=torch.float64)
    scores[0, 2] += margin
    return scores


def missing(target: int):
    return lambda weights: missed_mass(weights, torch.full(weights.shape[:-1], target))


# A needle with a fixed margin ---------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.1, 1.0, 7.5])
@pytest.mark.parametrize("n", [3, 100, 20_000])
def test_a_needle_loses_nothing_by_ranking_and_a_closed_form_by_dispersion(margin, n):
    found = retrieval_loss(needle(margin, n), missing(2))
    assert found.ranking.item() == 0.0
    assert found.dispersion.item() == pytest.approx((n - 1) / (math.exp(margin) + n - 1), rel=1e-12)
    assert found.total.item() == found.dispersion.item()
    assert found.dispersion.item() >= 1 - peak_bound(margin, torch.tensor([n])).item() - 1e-12


@pytest.mark.parametrize(("s_times_margin", "limit"), [(0.5, 1.0), (1.0, 0.5), (2.0, 0.0)])
def test_with_scores_times_ln_n_only_s_times_the_margin_decides_for_long_texts(s_times_margin, limit):
    n = 100_000
    found = []
    for margin in (0.25, 1.0):
        scores = needle(margin, n)
        pattern = LogN(s=s_times_margin / margin)(scores[None, None], torch.ones(1, 1, 1, n, dtype=torch.bool))
        found.append(retrieval_loss(scores, missing(2), pattern[0, 0]))
    closed = (n - 1) / (n**s_times_margin + n - 1)
    for one in found:
        assert one.ranking.item() == 0.0
        assert one.dispersion.item() == pytest.approx(closed, rel=1e-10)
        assert one.dispersion.item() == pytest.approx(limit, abs=2 / math.sqrt(n))


# Signs --------------------------------------------------------------------------------------------


@given(scores=st.one_of(ROWS, TIED), draw=st.data())
def test_spreading_costs_where_the_order_is_right_and_helps_where_it_is_wrong(scores, draw):
    target = draw.draw(st.integers(0, scores.shape[1] - 1))
    found = retrieval_loss(torch.tensor(scores), missing(target))
    for row, *losses in zip(scores, found.total, found.ranking, found.dispersion, strict=True):
        total, ranking, dispersion = (x.item() for x in losses)
        tied = int((row == row.max()).sum())
        assert total == pytest.approx(ranking + dispersion, abs=1e-15)
        if row[target] == row.max():
            assert ranking == pytest.approx(1 - 1 / tied, abs=1e-15)
            assert dispersion >= -1e-15
        else:
            assert ranking == 1.0
            assert dispersion <= 0
        if row[target] == row.max() and tied == 1:
            bound = math.exp(row.max() - row.min()) / len(row)
            assert dispersion >= 1 - bound - 1e-12 * bound


def test_a_wrong_order_by_little_is_better_spread_than_sharp():
    found = retrieval_loss(torch.tensor([[1.0, 0.9]], dtype=torch.float64), missing(1))
    assert found.ranking.item() == 1.0
    assert found.dispersion.item() == pytest.approx(-1 / (1 + math.exp(0.1)), abs=1e-15)


def test_a_mean_of_values_can_beat_the_right_one():
    # Wanted is 1, and the keys hold 0.5 and 1.5: the best key is off by 0.5, their mean by nothing.
    values = torch.tensor([0.5, 1.5], dtype=torch.float64)
    found = retrieval_loss(torch.tensor([[0.0, 0.0], [9.0, 0.0]], dtype=torch.float64), lambda w: (w @ values - 1) ** 2)
    assert found.total[0].item() == 0.0
    assert found.ranking.tolist() == [0.0, 0.25]
    assert found.dispersion[1].item() < 0


# Hard-max -----------------------------------------------------------------------------------------


@given(scores=st.one_of(ROWS, TIED))
def test_the_hard_max_is_the_limit_of_softmax_for_large_factors(scores):
    rows = torch.tensor(scores)
    below = rows.amax(-1, keepdim=True) - rows
    gaps = below[below > 0]
    assume(not len(gaps) or gaps.min() > 1e-3)
    # At a gap of 1e-3 the factor leaves exp(-100) to a key.
    torch.testing.assert_close(hard_max(rows), (1e5 * rows).softmax(-1), rtol=0, atol=1e-12)


def test_hard_max_keeps_to_the_visible_keys_and_shares_ties():
    scores = torch.zeros(2, 3, 5, 5).masked_fill(~causal(5), -torch.inf)
    expected = causal(5) / causal(5).sum(-1, keepdim=True)
    torch.testing.assert_close(hard_max(scores), expected.expand(2, 3, 5, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_scores_of_few_bits_are_measured_in_float32_and_left_as_they_were(dtype):
    scores = torch.randn(2, 3, 7, 7, generator=generator(0)).to(dtype)
    copy = scores.clone()
    targets = torch.randint(7, (2, 3, 7), generator=generator(1))
    found = retrieval_loss(scores, lambda weights: missed_mass(weights, targets))
    assert found.total.dtype == found.ranking.dtype == torch.float32
    assert found.total.shape == (2, 3, 7)
    assert torch.equal(scores, copy)
    right = (scores.argmax(-1) == targets).float()  # up to ties, which these draws do not put on a target
    torch.testing.assert_close(found.ranking, 1 - right)


def test_a_loss_over_all_rows_may_be_one_number():
    scores = torch.eye(4, dtype=torch.float64)
    found = retrieval_loss(scores, lambda w: (w.argmax(-1) != torch.arange(4)).double().mean())
    assert found.total.item() == found.ranking.item() == found.dispersion.item() == 0.0


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [-math.inf, math.nan, math.inf])
def test_a_row_without_a_finite_largest_score_is_refused_with_it(largest):
    scores = torch.zeros(3, 4)
    scores[1] = largest
    with pytest.raises(ProbeInputError, match=f"largest score is {largest}, not finite: leave out rows"):
        retrieval_loss(scores, missing(0))


@pytest.mark.parametrize("target", [-1, 4])
def test_a_target_that_is_no_key_is_refused_with_its_number(target):
    with pytest.raises(ProbeInputError, match=f"target {target} is no key: there are 4, from 0 to 3"):
        missed_mass(torch.full((2, 4), 0.25), torch.tensor([0, target]))
