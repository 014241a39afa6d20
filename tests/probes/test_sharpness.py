import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from probes import names
from probes.errors import ProbeInputError
from probes.sharpness import causal, entropy_bound, peak_bound, sharpness, spread
from tests import oracles
from toy_models import Transformer, TransformerConfig, constructed
from toy_models.seeding import generator

N = 48
UNIT_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def decoder_pattern(spread: float, n: int = N, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    """Random scores in [0, spread], batch 2, head 3."""
    scores = spread * torch.rand(2, 3, n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scores.masked_fill(~causal(n), -torch.inf).softmax(-1).to(dtype)


def one_large_score(spread: float, n: int) -> torch.Tensor:
    """One row: the first key scores `spread`, the n - 1 others zero."""
    scores = torch.zeros(1, 1, 1, n, dtype=torch.float64)
    scores[..., 0] = spread
    return scores.softmax(-1)


def all_visible(n: int) -> torch.Tensor:
    return torch.ones(1, n, dtype=torch.bool)


# Closed forms -------------------------------------------------------------------------------------


def test_uniform_attention_has_entropy_ln_n_and_peak_one_over_n():
    n = torch.arange(1, N + 1, dtype=torch.float64)
    found = sharpness((causal(N) / n[:, None])[None, None], causal(N))
    torch.testing.assert_close(found.entropy[0, 0], n.log(), rtol=0, atol=1e-13)
    torch.testing.assert_close(found.peak[0, 0], 1 / n, rtol=0, atol=1e-15)
    torch.testing.assert_close(found.sum_squares[0, 0], 1 / n, rtol=0, atol=1e-14)
    assert found.n_visible.tolist() == list(range(1, N + 1))


def test_attention_to_one_key_has_entropy_zero_and_peak_one():
    found = sharpness(torch.eye(N, dtype=torch.float64)[None, None], causal(N))
    assert (found.entropy == 0).all()
    assert (found.peak == 1).all()
    assert (found.sum_squares == 1).all()


def test_the_uniform_head_is_measured_as_uniform():
    model = constructed.uniform_head(n_ctx=24).double()
    _, cache = model.run_with_cache(torch.randint(16, (2, 24), generator=generator(0)))
    found = sharpness(cache[names.pattern(0)], causal(24))
    expected = torch.arange(1, 25, dtype=torch.float64).log().expand(2, 1, 24)
    torch.testing.assert_close(found.entropy, expected, rtol=0, atol=1e-13)


@given(p=st.floats(0.0, 1.0))
def test_two_keys_give_the_binary_entropy(p):
    found = sharpness(torch.tensor([[[[p, 1 - p]]]], dtype=torch.float64), all_visible(2))
    expected = -sum(x * math.log(x) for x in (p, 1 - p) if x > 0)
    assert found.entropy.item() == pytest.approx(expected, abs=1e-14)
    assert found.peak.item() == max(p, 1 - p)
    assert found.sum_squares.item() == pytest.approx(p * p + (1 - p) ** 2, abs=1e-15)


# Lemma 2.1 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0])
def test_peak_obeys_the_dispersion_bound(spread):
    found = sharpness(decoder_pattern(spread), causal(N))
    n = found.n_visible.double()
    assert (found.peak <= math.exp(spread) / n + 1e-12).all()
    assert (found.peak <= peak_bound(spread, found.n_visible) + 1e-12).all()
    # The entropy in turn: ln n >= H >= -ln sum p^2 >= -ln peak >= ln n - spread.
    chain = [n.log().expand_as(found.entropy), found.entropy, -found.sum_squares.log(), -found.peak.log()]
    chain.append(n.log() - spread)
    for larger, smaller in itertools.pairwise(chain):
        assert (larger >= smaller - 1e-12).all()


@given(scores=arrays("float64", st.integers(1, 40), elements=st.floats(-20, 20)))
def test_peak_obeys_the_dispersion_bound_for_any_scores(scores):
    row = torch.tensor(scores).softmax(-1)[None, None, None]
    found = sharpness(row, all_visible(len(scores)))
    bound = peak_bound(float(scores.max() - scores.min()), found.n_visible)
    assert (found.peak <= bound * (1 + 1e-12)).all()
    assert (row >= torch.exp(torch.tensor(scores.min() - scores.max())) / len(scores) * (1 - 1e-12)).all()


@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_the_bound_is_approached_by_one_larger_score_among_many(spread):
    for n in (2, 100, 10_000):
        found = sharpness(one_large_score(spread, n), all_visible(n))
        share_of_bound = (found.peak / peak_bound(spread, found.n_visible)).item()
        assert share_of_bound == pytest.approx(max(n, math.exp(spread)) / (math.exp(spread) + n - 1), rel=1e-12)
    assert share_of_bound > 0.99


def test_n_times_the_peak_of_independent_scores_tends_to_its_constant():
    spread, n = 3.0, 100_000
    scores = spread * torch.rand(n, generator=generator(0, "scores"), dtype=torch.float64)
    found = sharpness(scores.softmax(-1)[None, None, None], all_visible(n))
    mean = math.expm1(spread) / spread  # of exp(score)
    sd = math.sqrt(math.expm1(2 * spread) / (2 * spread) - mean**2)
    five_standard_errors = 5 * sd / mean / math.sqrt(n)
    limit = spread / (1 - math.exp(-spread))
    assert n * found.peak.item() == pytest.approx(limit, rel=five_standard_errors)
    assert 1.01 < limit < math.exp(spread) - 1  # neither uniform nor at the bound


def test_peak_bound_is_exp_spread_over_n_and_never_above_one():
    found = peak_bound(1.5, torch.tensor([1, 4, 5, 100]))
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([1.0, 1.0, math.exp(1.5) / 5, math.exp(1.5) / 100], rel=1e-15)


def test_the_bound_holds_in_a_real_forward_pass():
    model = Transformer(TransformerConfig(n_layers=2, n_heads=4, d_model=32, d_vocab=20, n_ctx=N), seed=3)
    _, cache = model.run_with_cache(torch.randint(20, (2, N), generator=generator(0)))
    for layer in range(2):
        scores = cache[names.scores(layer)].double()
        hidden = ~causal(N)
        largest = scores.masked_fill(hidden, -torch.inf).amax(-1)
        spread = largest - scores.masked_fill(hidden, torch.inf).amin(-1)
        found = sharpness(cache[names.pattern(layer)], causal(N))
        # Rowwise, and for the worst row of the layer.  The pattern is rounded to float32.
        assert (found.peak <= torch.exp(spread) / found.n_visible * (1 + 1e-5)).all()
        assert (found.peak <= peak_bound(spread.max().item(), found.n_visible) * (1 + 1e-5)).all()
        assert (torch.exp(spread) / found.n_visible < 1).any()  # it says something


# The spread without the pattern -------------------------------------------------------------------


def two_passes(scores: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What fused attention tells of rows of scores, and of the same rows with their signs turned."""
    return tuple(x for s in (scores, -scores) for x in (s.logsumexp(-1), s.softmax(-1).amax(-1)))


@given(scores=arrays("float64", st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=st.floats(-300, 300)))
def test_two_passes_tell_the_spread_and_it_bounds_every_row(scores):
    rows = torch.tensor(scores)
    found = spread(*two_passes(rows))
    expected = scores.max(-1) - scores.min(-1)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-12 * (1 + abs(scores).max()))
    pattern, n = rows.softmax(-1)[:, None, None], torch.tensor([scores.shape[1]])
    measured = sharpness(pattern, all_visible(scores.shape[1]))
    assert (measured.peak[:, 0] <= peak_bound(found[:, None], n) * (1 + 1e-9)).all()
    assert (measured.entropy[:, 0] >= entropy_bound(found[:, None], n) - 1e-9).all()


def test_a_row_with_one_larger_score_has_the_entropy_bound_of_its_spread():
    scores = torch.zeros(1, 1000, dtype=torch.float64)
    scores[0, 3] = 2.5
    found = spread(*two_passes(scores))
    n = torch.tensor([1000])
    assert found.item() == pytest.approx(2.5, abs=1e-12)
    assert entropy_bound(found, n).item() == pytest.approx(math.log(1000) - 2.5, abs=1e-12)
    assert entropy_bound(8.0, n).item() == 0.0
    assert peak_bound(found, n).item() == pytest.approx(math.exp(2.5) / 1000, rel=1e-12)


def test_equal_scores_have_no_spread_whatever_the_rounding():
    found = spread(*two_passes(torch.full((50, 77), 0.3)))
    assert found.dtype == torch.float32
    assert (found >= 0).all()
    assert found.max() <= 16 * 2.0**-24 * math.log(77)


@pytest.mark.parametrize("peak", [0.0, -0.1, 1.1, math.nan])
def test_a_row_without_a_peak_is_refused_with_its_value(peak):
    numbers = list(two_passes(torch.zeros(3, 5)))
    numbers[3] = torch.tensor([0.2, peak, 0.2])
    with pytest.raises(ProbeInputError, match=rf"negated_peak has a row of {peak:.3g}, not in \(0, 1\]"):
        spread(*numbers)


# Agreement and invariance -------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31), n=st.integers(1, 12), spread=st.floats(0, 30))
@settings(max_examples=40)
def test_every_row_agrees_with_the_plain_definition(seed, n, spread):
    pattern = decoder_pattern(spread, n, seed)
    found = sharpness(pattern, causal(n))
    rows = pattern.reshape(-1, n).tolist()
    for measured, oracle in (
        (found.entropy, oracles.entropy),
        (found.peak, oracles.peak),
        (found.sum_squares, oracles.sum_squares),
    ):
        assert measured.dtype == torch.float64
        assert measured.flatten().tolist() == pytest.approx([oracle(row) for row in rows], abs=1e-12)


@given(weights=arrays("float64", st.integers(1, 30), elements=st.floats(1e-6, 1)), seed=st.integers(0, 2**31))
def test_measures_stay_in_range_and_ignore_the_order_of_keys(weights, seed):
    n = len(weights)
    row = torch.tensor(weights / weights.sum())[None, None, None]
    found = sharpness(row, all_visible(n))
    assert -1e-12 <= found.entropy.item() <= math.log(n) + 1e-12
    assert 1 / n - 1e-12 <= found.peak.item() <= 1 + 1e-12
    assert found.peak.item() ** 2 - 1e-12 <= found.sum_squares.item() <= found.peak.item() + 1e-12
    shuffled = sharpness(row[..., torch.randperm(n, generator=generator(seed))], all_visible(n))
    for name in ("entropy", "peak", "sum_squares"):
        assert getattr(shuffled, name).item() == pytest.approx(getattr(found, name).item(), abs=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_patterns_cost_no_more_than_their_own_rounding(dtype):
    exact = decoder_pattern(3.0)
    found, expected = sharpness(exact.to(dtype), causal(N)), sharpness(exact, causal(N))
    assert found.entropy.dtype == torch.float32
    # Each weight moves by a share u of itself: H by at most u (H + 1), the peak by u, the squares by 2 u; float32 adds
    # what is small beside that.
    u = 1.1 * UNIT_ROUNDOFF[dtype]
    assert ((found.entropy - expected.entropy).abs() <= u * (expected.entropy + 1)).all()
    assert ((found.peak - expected.peak).abs() <= u * expected.peak).all()
    assert ((found.sum_squares - expected.sum_squares).abs() <= 2 * u * expected.sum_squares).all()


def test_a_window_is_measured_with_its_own_visible_keys():
    visible = causal(N) & ~causal(N).tril(-4)
    found = sharpness((visible.double() / visible.sum(-1, keepdim=True))[None, None], visible)
    assert found.n_visible.tolist() == [1, 2, 3, *[4] * (N - 3)]
    torch.testing.assert_close(found.entropy[0, 0], found.n_visible.double().log(), rtol=0, atol=1e-13)


def test_the_pattern_is_left_as_it_was():
    pattern = decoder_pattern(1.0)
    copy = pattern.clone()
    sharpness(pattern, causal(N))
    assert torch.equal(pattern, copy)


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_row_that_does_not_sum_to_one_is_refused_with_the_excess(dtype):
    pattern = decoder_pattern(1.0, dtype=dtype)
    pattern[1, 2, 5] *= 1.25
    with pytest.raises(ProbeInputError, match=r"sum to 1 within .*; off by 0\.2"):
        sharpness(pattern, causal(N))


def test_a_row_that_is_masked_out_whole_is_refused():
    pattern = decoder_pattern(1.0)
    pattern[0, 0, 7] = 0.0
    with pytest.raises(ProbeInputError, match="off by 1"):
        sharpness(pattern, causal(N))


def test_weight_on_a_hidden_key_is_refused_with_the_weight():
    pattern = torch.full((1, 1, 4, 4), 0.25, dtype=torch.float64)
    with pytest.raises(ProbeInputError, match=r"weight 0\.25 on a hidden key"):
        sharpness(pattern, causal(4))


@pytest.mark.parametrize("where", [(1, 1, 3, 2), (0, 0, 3, 9)], ids=["visible key", "hidden key"])
def test_nan_is_refused(where):
    pattern = decoder_pattern(1.0)
    pattern[where] = math.nan
    with pytest.raises(ProbeInputError, match="nan"):
        sharpness(pattern, causal(N))


def test_a_negative_weight_is_refused():
    pattern = torch.tensor([[[[-0.5, 1.5]]]], dtype=torch.float64)
    with pytest.raises(ProbeInputError, match=r"-0\.5"):
        sharpness(pattern, all_visible(2))
