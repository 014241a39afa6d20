import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from toy_models import normalisers
from toy_models.errors import ConfigError
from toy_models.normalisers.adaptive import COEFFICIENTS, Adaptive, beta
from toy_models.normalisers.entmax15 import Entmax15
from toy_models.normalisers.linear import Linear
from toy_models.normalisers.log_n import LogN
from toy_models.normalisers.off_by_one import OffByOne
from toy_models.normalisers.relu import Relu
from toy_models.normalisers.sigmoid import Sigmoid
from toy_models.normalisers.sink_logit import SinkLogit
from toy_models.normalisers.softmax import Softmax
from toy_models.seeding import generator

NAMES = list(normalisers.NAMES)
SPECS = [normalisers.find(name)() for name in NAMES] + [
    LogN(s=0.4),
    Sigmoid(bias=-1.5),
    SinkLogit(start=1.3),
    Relu(uncounted=1),
]
SUM_TO_ONE = [spec for spec in SPECS if spec.sums_to_one]
by_repr = pytest.mark.parametrize("spec", SPECS, ids=repr)
ROW = arrays("float64", st.integers(1, 30), elements=st.floats(-30, 30))


def weigh(spec, row, dtype=torch.float64) -> torch.Tensor:
    """The weights of one row, all of whose keys are visible."""
    return spec(*one_row(row, dtype))[0, 0, 0]


def one_row(row, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and visible keys, as a normaliser takes them."""
    scores = torch.as_tensor(row, dtype=dtype)[None, None, None]
    return scores, torch.ones(1, 1, 1, scores.shape[-1], dtype=torch.bool)


def masked(seed: int = 0, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of batch 2, head 3, 6 queries and 9 keys with arbitrary holes; query 0 sees no key, query 1 one."""
    visible = torch.rand(2, 1, 6, 9, generator=generator(seed, "visible")) < 0.6
    visible[:, :, 0] = False
    visible[:, :, 1] = torch.arange(9) == 4
    scores = 3 * torch.randn(2, 3, 6, 9, generator=generator(seed, "scores"), dtype=torch.float64)
    return scores.to(dtype).masked_fill(~visible, -torch.inf), visible


# Every one from its definition, in plain Python ---------------------------------------------------


def exponentials(row: list[float]) -> list[float]:
    terms = [math.exp(s - max(row)) for s in row]
    return [x / math.fsum(terms) for x in terms]


def adaptive(row: list[float]) -> list[float]:
    entropy = -math.fsum(p * math.log(p + 1e-9) for p in exponentials(row))
    factor = max(float(np.polyval([-0.037, 0.481, -2.3, 4.917, -1.791], entropy)), 1.0) if entropy > 0.5 else 1.0
    return exponentials([factor * s for s in row])


def entmax(row: list[float]) -> list[float]:
    """The threshold by bisection."""

    def weights(tau):
        return [max(0.0, (s - max(row)) / 2 - tau) ** 2 for s in row]

    low, high = -1.0, 0.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if math.fsum(weights(middle)) > 1 else (low, middle)
    return weights(low)


DEFINITIONS = {
    Softmax: lambda row, spec: exponentials(row),
    LogN: lambda row, spec: exponentials([spec.s * math.log(len(row)) * s for s in row]),
    Adaptive: lambda row, spec: adaptive(row),
    OffByOne: lambda row, spec: [1 / (math.exp(-s) + math.fsum(math.exp(t - s) for t in row)) for s in row],
    SinkLogit: lambda row, spec: [1 / (math.exp(spec.start - s) + sum(math.exp(t - s) for t in row)) for s in row],
    Sigmoid: lambda row, spec: [
        1 / (1 + math.exp(-s) * (len(row) if spec.bias is None else math.exp(-spec.bias))) for s in row
    ],
    Relu: lambda row, spec: [max(0.0, s) / max(1, len(row) - spec.uncounted) for s in row],
    Entmax15: lambda row, spec: entmax(row),
    Linear: lambda row, spec: [s / len(row) for s in row],
}


@by_repr
@given(row=ROW)
def test_each_row_agrees_with_the_definition(spec, row):
    expected = DEFINITIONS[type(spec)](row.tolist(), spec)
    assert weigh(spec, row).tolist() == pytest.approx(expected, rel=1e-11, abs=1e-13)


@by_repr
def test_hidden_keys_weigh_nothing_and_the_visible_ones_what_they_would_weigh_alone(spec):
    scores, visible = masked()
    found = spec(scores, visible)
    assert (found.masked_fill(visible, 0) == 0).all()
    for b, h, i in np.ndindex(2, 3, 6):
        alone = visible[b, 0, i]
        if alone.any():
            expected = weigh(spec, scores[b, h, i][alone])
            torch.testing.assert_close(found[b, h, i][alone], expected, rtol=1e-13, atol=1e-15)


@by_repr
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rows_without_a_key_are_zeros_and_gradients_are_finite(spec, dtype):
    scores, visible = masked(dtype=dtype)
    scores.requires_grad_()
    found = spec(scores, visible)
    assert found.dtype == dtype
    assert (found[:, :, 0] == 0).all()
    (found * torch.randn(found.shape, generator=generator(1))).sum().backward()
    assert scores.grad.isfinite().all()
    assert (scores.grad.masked_fill(visible, 0) == 0).all()
    assert scores.grad.abs().max() > 1e-3


@by_repr
def test_gradients_agree_with_differences(spec):
    visible = torch.ones(1, 1, 3, 6, dtype=torch.bool)
    scores = 1.5 * torch.randn(1, 1, 3, 6, generator=generator(3), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: spec(s, visible), (scores.requires_grad_(),), atol=1e-6)


@by_repr
@given(row=ROW)
def test_a_spec_tells_whether_its_rows_sum_to_one(spec, row):
    found = weigh(spec, row)
    if spec.sums_to_one:
        assert found.sum().item() == pytest.approx(1, abs=1e-12)
        assert found.min() >= 0
    else:  # a row of scores -3 shows that it does not
        assert weigh(spec, [-3.0, -3.0]).sum().item() < 0.5


@by_repr
@given(row=ROW, seed=st.integers(0, 2**31))
def test_the_order_of_the_keys_does_not_matter(spec, row, seed):
    order = torch.randperm(len(row), generator=generator(seed))
    torch.testing.assert_close(weigh(spec, row)[order], weigh(spec, row[order.numpy()]), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("spec", SUM_TO_ONE, ids=repr)
@given(row=ROW, constant=st.floats(-50, 50))
def test_a_constant_added_to_all_scores_changes_no_weight_that_sums_to_one(spec, row, constant):
    torch.testing.assert_close(weigh(spec, row + constant), weigh(spec, row), rtol=0, atol=1e-10)


@pytest.mark.parametrize("spec", [s for s in SPECS if not s.sums_to_one], ids=repr)
def test_a_constant_added_to_all_scores_changes_the_weights_of_the_others(spec):
    assert (weigh(spec, [1.5, 2.5, 3.5]) - weigh(spec, [0.5, 1.5, 2.5])).abs().min() > 1e-3


@by_repr
def test_float32_is_off_by_its_rounding(spec):
    scores = 4 * torch.randn(2000, generator=generator(5), dtype=torch.float64)
    found, exact = weigh(spec, scores.float(), torch.float32), weigh(spec, scores.float().double())
    # A weight moves by its exponent's rounding: |score| up to 16, times ln(2000) = 7.6 for log_n.
    torch.testing.assert_close(found.double(), exact, rtol=128 * 2.0**-23, atol=2.0**-23)


# What each one is for -----------------------------------------------------------------------------


@pytest.mark.parametrize(("s", "limit"), [(0.1, 0.0), (0.2, 0.5), (0.43, 1.0)])
def test_log_n_keeps_a_margin_of_five_nats_in_long_rows_if_s_is_above_a_fifth(s, limit):
    """The scores of figure 1 of arXiv:2501.19399, which has s = 0.43: all -2 but one of +3."""
    for n in (1, 2, 10, 1000, 100_000):
        row = torch.full((n,), -2.0)
        row[-1] = 3.0
        kept = weigh(LogN(s=s), row)[-1].item()
        assert kept == pytest.approx(n ** (5 * s) / (n ** (5 * s) + n - 1), rel=1e-12)
    assert kept == pytest.approx(limit, abs=0.01)


@given(row=ROW)
def test_log_n_is_softmax_at_the_length_that_s_names_and_sharper_beyond(row):
    n = len(row)
    if n > 1:
        at_this_length = weigh(LogN(s=1 / math.log(n)), row)
        torch.testing.assert_close(at_this_length, weigh(Softmax(), row), rtol=1e-12, atol=1e-15)
    assert weigh(LogN(s=2.0), row).max() >= weigh(LogN(s=1.0), row).max() - 1e-12


def test_the_adaptive_polynomial_is_the_published_one_the_highest_power_first():
    at = torch.tensor([0.4, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 6.0, 9.0], dtype=torch.float64)
    expected = [1.0, 1.0, 1.27, 1.8455625, 2.099, 2.25, 2.294, 1.0, 1.0]  # by hand from the coefficients
    assert beta(at).tolist() == pytest.approx(expected, rel=1e-12)
    everywhere = beta(torch.linspace(0, 12, 10_001, dtype=torch.float64))
    assert everywhere.min() == 1.0
    assert everywhere.max().item() == pytest.approx(2.4214, abs=1e-4)


def dead_zones() -> tuple[float, float]:
    roots = np.roots([*COEFFICIENTS[:-1], COEFFICIENTS[-1] - 1])
    low, high = sorted(roots[abs(roots.imag) < 1e-9].real)
    return low, high


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(seed=st.integers(0, 2**31), scale=st.floats(0, 12), n=st.sampled_from([2, 5, 40, 300, 1000]))
def test_in_its_dead_zones_adaptive_is_softmax_to_the_bit_and_elsewhere_sharper(dtype, seed, scale, n):
    low, high = dead_zones()
    row = (scale * torch.randn(n, generator=generator(seed), dtype=torch.float64)).to(dtype)
    plain, found = weigh(Softmax(), row, dtype), weigh(Adaptive(), row, dtype)
    entropy = torch.special.entr(plain.double()).sum().item()
    if entropy < low - 1e-4 or entropy > high + 1e-4:
        assert torch.equal(found, plain)
    elif low + 1e-4 < entropy < high - 1e-4:
        assert torch.special.entr(found.double()).sum().item() <= entropy + 1e-6


@pytest.mark.parametrize(("n", "sharper"), [(2, False), (3, True), (380, True), (382, False)])
def test_the_dead_zones_begin_where_the_polynomial_crosses_one(n, sharper):
    """Nearly uniform rows of n keys: entropy ln(n), to 1e-3 and less."""
    row = torch.linspace(0, 0.05, n, dtype=torch.float64)
    assert torch.equal(weigh(Adaptive(), row), weigh(Softmax(), row)) != sharper


@given(row=ROW)
def test_off_by_one_keeps_what_a_virtual_key_of_score_zero_would_take(row):
    with_virtual = weigh(Softmax(), np.append(row, 0.0))
    torch.testing.assert_close(weigh(OffByOne(), row), with_virtual[:-1], rtol=1e-12, atol=1e-15)


def test_off_by_one_is_softmax_for_large_scores_and_nothing_for_low_ones():
    row = torch.tensor([1.0, 2.0, 0.5])
    torch.testing.assert_close(weigh(OffByOne(), row + 60), weigh(Softmax(), row), rtol=1e-12, atol=0)
    assert weigh(OffByOne(), row - 60).max() < 1e-24


@pytest.mark.parametrize("n", [1, 7, 300])
def test_sigmoid_weighs_keys_of_score_zero_about_as_softmax_does(n):
    assert weigh(Sigmoid(), [0.0] * n).tolist() == pytest.approx([1 / (n + 1)] * n, rel=1e-14)
    assert weigh(Sigmoid(bias=0.0), [0.0] * n).tolist() == [0.5] * n


@given(d=st.floats(0, 6))
def test_entmax_of_two_keys_is_its_closed_form(d):
    expected = [1.0, 0.0] if d >= 2 else [(math.sqrt(0.5 - d * d / 16) + sign * d / 4) ** 2 for sign in (1, -1)]
    assert weigh(Entmax15(), [d, 0.0]).tolist() == pytest.approx(expected, abs=1e-13)


@given(row=ROW)
def test_entmax_gives_exact_zeros_two_nats_below_the_largest_and_rises_with_the_score(row):
    found = weigh(Entmax15(), row).numpy()
    assert (found[row - row.max() <= -2] == 0).all()
    assert (np.diff(found[np.argsort(row)]) >= -1e-13).all()


def test_entmax_of_equal_scores_is_uniform_and_a_long_row_with_one_winner_is_one_hot():
    torch.testing.assert_close(weigh(Entmax15(), [3.0] * 4000), torch.full((4000,), 1 / 4000, dtype=torch.float64))
    row = torch.zeros(4000)
    row[17] = 2.5
    assert weigh(Entmax15(), row, torch.float32).tolist() == [0.0] * 17 + [1.0] + [0.0] * 3982


def test_entmax_of_a_long_row_sums_to_one_in_float32():
    row = torch.full((20_000,), -1.999)  # each of the many weighs a little
    row[0] = 0.0
    assert weigh(Entmax15(), row, torch.float32).double().sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogN(s=0.0), "log_n needs a positive and finite s, not s=0.0"),
        (lambda: LogN(s=math.nan), "not s=nan"),
        (lambda: Sigmoid(bias=math.inf), "sigmoid needs a finite bias, not bias=inf"),
        (lambda: SinkLogit(start=math.nan), "sink_logit needs a finite start, not start=nan"),
        (lambda: Relu(uncounted=-1), "whole number of at least 0, not -1"),
    ],
    ids=["s=0", "s=nan", "bias=inf", "start=nan", "uncounted=-1"],
)
def test_an_option_that_cannot_work_is_refused_with_its_value(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
