"""The Triton kernels: on a GPU where there is one, else in Triton's interpreter, whose bits are not those of a GPU.

What every backend must keep, error budget, masks, dead rows, is tested with the others (test_backends,
test_row_statistics); here is what only blocks of 16 and more can get wrong.
"""

from contextlib import ExitStack, contextmanager
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toy_models import test_attention_gradients as gradients
from tests.toy_models.test_row_statistics import (
    allowances,
    assert_within,
    assume_that_scores_show_their_size,
    draw,
    errors,
    exact_of,
    z_error,
)
from toy_models.attention import attend

triton = pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
tl = pytest.importorskip("triton.language")
launch = pytest.importorskip("toy_models.attention.kernels.launch")
tile = pytest.importorskip("toy_models.attention.kernels.tile")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BLOCKS = [(16, 16), (32, 16), (16, 32), (64, 64)]


@contextmanager
def blocks(queries: int, keys: int):
    """Every kernel in blocks of this size."""
    with ExitStack() as stack:
        for kernel in (launch.FORWARD, launch.RECEIVED, launch.BY_QUERIES, launch.BY_KEYS):
            one = [launch.configuration(queries, keys, 4, 1)]
            stack.enter_context(mock.patch.object(kernel, "configs", one))
        yield


def on_device(*tensors):
    return [x.to(DEVICE) for x in tensors]


def found_by(q, k, v, **options):
    """Of the kernels, brought back."""
    options = {name: x.to(DEVICE) if torch.is_tensor(x) else x for name, x in options.items()}
    found = attend(*on_device(q, k, v), backend="triton", **options)
    rows = found.statistics
    if rows is not None:
        there = {name: x for name, x in vars(rows).items() if x is not None}
        rows = type(rows)(**{name: x.cpu() for name, x in there.items()})
    return found._replace(z=found.z.cpu(), statistics=rows)


# Forward --------------------------------------------------------------------------------------------


@st.composite
def problems(one):
    """(arguments of `draw`, options): lengths that fill blocks of 16 once, several times, and not quite."""
    n_query, n_key, causal = one(st.integers(1, 50)), one(st.integers(1, 50)), one(st.booleans())
    if causal and n_query > n_key:
        n_query, n_key = n_key, n_query
    batch, kv_heads, group, seed = *(one(st.integers(1, 2)) for _ in range(3)), one(st.integers(0, 2**16))
    heads, noise = kv_heads * group, torch.Generator().manual_seed(seed + 1)
    maybe = {
        "window": lambda: one(st.integers(1, 50)),
        "alibi_slopes": lambda: torch.rand(heads, generator=noise),
        "score_cap": lambda: one(st.floats(0.5, 50)),
        "key_padding": lambda: torch.rand(batch, n_key, generator=noise) < one(st.sampled_from([0.1, 0.7])),
        "sink_logit": lambda: 3 * torch.randn(heads, generator=noise),
        "targets": lambda: torch.randint(-1, n_key, (batch, heads, n_query), generator=noise),
    }
    options = {name: make() for name, make in maybe.items() if one(st.booleans())}
    return (seed, batch, n_query, n_key, heads, kv_heads, one(st.sampled_from([16, 40, 128]))), options | {
        "causal": causal
    }


@torch.no_grad()
@settings(max_examples=25)
@given(
    problem=problems(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    block=st.sampled_from(BLOCKS),
    size=st.sampled_from([1.0, 30.0]),
)
def test_every_statistic_is_within_the_budget_whatever_the_blocks(problem, dtype, block, size):
    shape, options = problem
    q, k, v = draw(*shape, dtype, size=size)
    exact = exact_of(q, k, v, options)
    assume_that_scores_show_their_size(exact, size)
    with blocks(*block):
        found = found_by(q, k, v, statistics=True, received=True, **options)
        assert_within(errors(found, exact, v), allowances(q, k, exact))
        assert bool((found.statistics.entropy >= 0).all())
        plain = {name: x for name, x in options.items() if name != "targets"}
        assert_within({"z": z_error(found_by(q, k, v, **plain).z, exact, v)}, allowances(q, k, exact))


@torch.no_grad()
@pytest.mark.parametrize("block", BLOCKS, ids=str)
@pytest.mark.parametrize("options", [{}, {"window": 40}, {"causal": False}], ids=str)
def test_single_keys_are_found_in_whichever_tile_they_are(block, options):
    q, k, v = draw(5, 1, 100, 100, 1, 1, 16, torch.float32)
    with blocks(*block):
        found = found_by(q, k, v, statistics=True, **options)
    exact = exact_of(q, k, v, options)
    assert_within(errors(found, exact, v), allowances(q, k, exact))
    for name in ("self_mass", "previous_mass"):
        assert getattr(found.statistics, name)[0, 0, 1:].min() > 0


@torch.no_grad()
@pytest.mark.parametrize("width", [1, 24, 80, 256])
def test_heads_of_any_width_up_to_256(width):
    q, k, v = draw(0, 1, 20, 20, 2, 1, width, torch.float32)
    exact = exact_of(q, k, v, {})
    assert_within(errors(found_by(q, k, v, statistics=True), exact, v), allowances(q, k, exact))


@torch.no_grad()
def test_targets_may_be_given_once_for_all_texts_and_heads():
    q, k, v = draw(0, 2, 9, 20, 4, 2, 16, torch.float32)
    targets = torch.randint(-1, 20, (1, 1, 9), generator=torch.Generator().manual_seed(0))
    once, each = (found_by(q, k, v, targets=x, statistics=True) for x in (targets, targets.expand(2, 4, 9).clone()))
    assert torch.equal(once.statistics.target_mass, each.statistics.target_mass)
    assert once.statistics.target_mass.amax() > 0
    unseen = (targets < 0) | (targets > torch.arange(11, 20))
    assert torch.equal(once.statistics.target_mass == 0, unseen.expand(2, 4, 9))


@torch.no_grad()
def test_one_key_that_takes_all_keeps_its_weight_to_the_last_digits():
    # Scores of hundreds: a weight from products computed once more would miss 1 by their rounding, some 1e-5.
    q, k, v = draw(0, 1, 40, 40, 1, 1, 64, torch.float32, size=75.0)
    with blocks(16, 16):
        rows = found_by(q, k, v, statistics=True).statistics
    alone = rows.peak > 1 - 1e-6
    assert alone[..., 1:].sum() >= 10
    masses = torch.stack([rows.sink_mass, rows.self_mass, rows.previous_mass]).amax(0)
    assert bool(((masses < 0.5) | (masses > 1 - 1e-5))[alone].all())
    assert bool((masses <= rows.peak + 1e-6).all())


@torch.no_grad()
@pytest.mark.parametrize("statistics", [False, True])
def test_a_layout_in_memory_changes_no_bit(statistics):
    q, k, v = draw(1, 2, 20, 30, 4, 2, 24, torch.float32)
    plain = found_by(q, k, v, statistics=statistics)
    heads_first = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    every_other = [torch.stack([x, x], dim=-1).flatten(-2)[..., ::2] for x in (q, k, v)]
    for others in (heads_first, every_other):
        found = found_by(*others, statistics=statistics)
        assert torch.equal(found.z, plain.z)
        if statistics:
            assert torch.equal(found.statistics.stacked(), plain.statistics.stacked())


@torch.no_grad()
def test_a_text_has_the_same_bits_alone_and_in_a_batch_and_every_time():
    q, k, v = draw(2, 3, 20, 20, 2, 1, 16, torch.float32)
    together, again = (found_by(q, k, v, statistics=True) for _ in range(2))
    alone = found_by(q[1:2], k[1:2], v[1:2], statistics=True)
    assert torch.equal(together.z, again.z)
    assert torch.equal(together.z[1:2], alone.z)
    assert torch.equal(together.statistics.stacked()[1:2], alone.statistics.stacked())


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_a_negative_scale_turns_the_order_of_the_keys_round(causal):
    q, k, v = draw(3, 1, 40, 40, 2, 1, 16, torch.float32, size=75.0)  # 2^score would be infinite
    options = {"statistics": True, "received": True, "causal": causal}
    with blocks(16, 16):
        turned, negated = found_by(q, k, v, scale=-0.5, **options), found_by(-q, k, v, scale=0.5, **options)
    assert torch.equal(turned.z, negated.z)
    assert torch.equal(turned.statistics.stacked(), negated.statistics.stacked())
    torch.testing.assert_close(turned.statistics.received_mass.sum(-1), torch.full((1, 2), 40.0))


@torch.no_grad()
def test_nan_stays_where_it_is_and_is_not_taken_for_a_dead_row():
    q, k, v = draw(4, 1, 20, 20, 1, 1, 16, torch.float32)
    q[0, 7] = torch.nan
    found = found_by(q, k, v, statistics=True)
    rows = found.statistics
    assert found.z[0, 7].isnan().all()
    for name in ("logsumexp", "entropy", "peak", "sum_squares", "mean_distance", "self_mass"):
        values = getattr(rows, name)[0, 0]
        assert values[7].isnan(), name
        assert values[torch.arange(20) != 7].isfinite().all(), name
    assert not rows.dead_rows.any()


# Which tiles ----------------------------------------------------------------------------------------


@triton.jit
def tell(into, first, last, offset, limit, window, BY_KEYS: tl.constexpr, STEP: tl.constexpr, CAUSAL: tl.constexpr,
         WINDOWED: tl.constexpr):  # fmt: skip
    """The four numbers of `query_ranges` for keys from `first` to `last`, or of `key_ranges` for queries."""
    if BY_KEYS:
        left, a, b, right = tile.query_ranges(first, last, offset, limit, window, STEP, CAUSAL, WINDOWED)
    else:
        left, a, b, right = tile.key_ranges(first + offset, last + offset, limit, window, STEP, CAUSAL, WINDOWED)
    tl.store(into, left)
    tl.store(into + 1, a)
    tl.store(into + 2, b)
    tl.store(into + 3, right)


@settings(max_examples=150)
@given(
    n_query=st.integers(1, 60),
    more=st.integers(-30, 60),
    block=st.integers(0, 3),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 70),
    by_keys=st.booleans(),
)
def test_every_tile_that_matters_is_visited_and_none_that_does_not(n_query, more, block, causal, window, by_keys):
    n_key = max(1, n_query + (max(more, 0) if causal else more))
    size, others = (n_key, n_query) if by_keys else (n_query, n_key)
    first = min(16 * block, (size - 1) // 16 * 16)
    last, offset = min(first + 16, size) - 1, n_key - n_query

    def sees(one, other):
        query, key = (other, one) if by_keys else (one, other)
        distance = query + offset - key
        return (distance >= 0 or not causal) and (window is None or abs(distance) < window)

    into = torch.zeros(4, dtype=torch.int32, device=DEVICE)
    tell[(1,)](into, first, last, offset, others, window or 0, BY_KEYS=by_keys, STEP=16, CAUSAL=causal,
               WINDOWED=window is not None)  # fmt: skip
    left, a, b, right = into.tolist()
    assert left % 16 == a % 16 == b % 16 == 0
    mine = range(first, last + 1)
    seen = [other for other in range(others) if any(sees(one, other) for one in mine)]
    visited = [*range(left, a, 16), *range(a, b, 16), *range(b, right, 16)]
    assert visited == sorted({other // 16 * 16 for other in seen})
    assert all(sees(one, other) for one in mine for other in range(a, b))


# Gradients ------------------------------------------------------------------------------------------


def gradients_of(case, backend, dtype, wanted, n=37):
    tensors, run = gradients.problem(case, n_query=n - 7, n_key=n, dtype=dtype)
    noise = torch.Generator().manual_seed(1)
    tensors = [x.detach().to(DEVICE).requires_grad_() for x in tensors]
    found = run(*tensors, backend=backend)
    value = 0.0
    for name, x in (("z", found.z), ("entropy", found.statistics.entropy)):
        pull = torch.randn(x.shape, generator=noise, dtype=torch.float64).to(x)
        value = value + ((pull * x).sum() if name in wanted else 0.0)
    return [x.double().cpu() for x in torch.autograd.grad(value, tensors, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("case", [name for name, options in gradients.CASES.items() if "bias" not in options])
@pytest.mark.parametrize("wanted", [("z",), ("entropy",), ("z", "entropy")], ids="+".join)
def test_gradients_are_as_exact_as_those_of_the_reference(case, wanted):
    # Twice the reference's error in float32, and four roundings of the largest: sums are taken in another order.
    exact = gradients_of(case, "reference", torch.float64, wanted)
    eager = gradients_of(case, "reference", torch.float32, wanted)
    with blocks(16, 16):
        found = gradients_of(case, "triton", torch.float32, wanted)
    for one, reference, right in zip(found, eager, exact, strict=True):
        allowed = 2 * (reference - right).abs().max() + 4 * 2.0**-24 * max(1.0, float(right.abs().max()))
        assert (one - right).abs().max() <= allowed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_gradients_are_close_to_exact_ones(dtype):
    # The rounding of z, of the incoming gradient, of the weights and of the slopes: a few units of the largest.
    tensors, _ = gradients.problem("causal", 30, 37, dtype=dtype)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    rounded = [x.detach().to(DEVICE).requires_grad_() for x in tensors]
    wanted = torch.autograd.grad(attend(*exact, backend="reference").z.sum(), exact)
    with blocks(16, 16):
        found = torch.autograd.grad(attend(*rounded, backend="triton").z.sum(), rounded)
    for one, right in zip(found, wanted, strict=True):
        assert one.dtype is dtype
        assert (one.double().cpu() - right).abs().max() <= 4 * torch.finfo(dtype).eps * right.abs().max()


def test_only_z_and_entropy_have_gradients_and_only_where_one_is_wanted():
    tensors, _ = gradients.problem("causal", 5, 5, dtype=torch.float32)
    tensors = [x.detach().to(DEVICE).requires_grad_() for x in tensors]
    found = attend(*tensors, statistics=True, backend="triton")
    assert found.z.requires_grad
    with_gradients = {name for name, x in vars(found.statistics).items() if x is not None and x.requires_grad}
    assert with_gradients == {"entropy"}
    with torch.no_grad():
        assert attend(*tensors, backend="triton").z.grad_fn is None
