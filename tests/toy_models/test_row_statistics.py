"""The statistics of every backend that has them, row by row, against an oracle in wider floats.

With u the rounding unit of the type that scores are held in (float32 for 16-bit inputs), the budget is

    |error| <= 16 u max(1, max |score|)     for logsumexp, entropy, masses, and z as a share of max |v|
                                            times n_key for mean_distance, times n_query for received_mass

and, where there are rows enough for a maximum to mean something, twice the reference's error plus a unit in the last
place of the largest score (an eighth of the budget): what it costs to hold scores in units of log 2.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from unittest import mock

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests import oracles
from tests.toy_models.serving import serving
from toy_models.attention import RowStatistics, attend, blocks, sums

UNITS = {torch.float64: 2.0**-53, torch.float32: 2.0**-24}


@contextmanager
def small_tiles(rows: int, keys: int):
    """Blocks and tiles that a test's few keys fill several times over."""
    with (
        mock.patch.object(blocks, "ROWS", rows),
        mock.patch.object(blocks, "STEP", (rows + 1) // 2),
        mock.patch.object(sums, "KEYS", keys),
    ):
        yield


def draw(seed, batch, n_query, n_key, heads, kv_heads, d_head, dtype, *, size=1.0, offset=0.0):
    """q, k, v; scores have a standard deviation of `size`, and every key has `offset` added."""
    noise = torch.Generator().manual_seed(seed)
    q = size * torch.randn(batch, n_query, heads, d_head, generator=noise, dtype=torch.float64)
    k, v = (torch.randn(batch, n_key, kv_heads, d_head, generator=noise, dtype=torch.float64) for _ in "kv")
    return q.to(dtype), (k + offset).to(dtype), v.to(dtype)


def exact_of(q, k, v, options):
    arrays = {
        name: value.double().numpy() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in options.items()
    }
    arrays = {name: value.numpy() if torch.is_tensor(value) else value for name, value in arrays.items()}
    arrays.setdefault("scale", q.shape[-1] ** -0.5)
    return oracles.attention(*(x.double().numpy() for x in (q, k, v)), **arrays)


def errors(found, exact, v) -> dict[str, float]:
    """The largest error of everything, dead rows of logsumexp compared exactly."""
    rows = found.statistics
    numbers = {f.name: getattr(rows, f.name) for f in fields(RowStatistics) if getattr(rows, f.name) is not None}
    dead = torch.isneginf(torch.from_numpy(exact["logsumexp"].astype(float)))
    assert torch.equal(rows.dead_rows, dead)
    numbers["logsumexp"] = numbers["logsumexp"].masked_fill(dead, 0.0)
    exact = exact | {"logsumexp": exact["logsumexp"].copy()}
    exact["logsumexp"][dead.numpy()] = 0
    worst = {name: float(abs(value.double().numpy() - exact[name]).max()) for name, value in numbers.items()}
    return worst | {"z": z_error(found.z, exact, v)}


def z_error(z, exact, v) -> float:
    """As a share of the largest value."""
    return float(abs(z.double().numpy() - exact["z"]).max()) / float(v.abs().max())


def allowances(q, k, exact) -> dict[str, float]:
    budget = 16 * UNITS[torch.promote_types(q.dtype, torch.float32)] * float(exact["largest"])
    z = budget if q.dtype in UNITS else budget + torch.finfo(q.dtype).eps  # which is stored in 16 bits
    return {"mean_distance": budget * k.shape[1], "received_mass": budget * q.shape[1], "z": z, "": budget}


def assert_within(worst, allowed):
    over = {name: error for name, error in worst.items() if not error <= allowed[name if name in allowed else ""]}
    assert not over, (over, allowed)


def assume_that_scores_show_their_size(exact, size):
    """A cap, or a lucky sum behind a single key, makes a small score of large products: the digits that these lost
    before, in any backend and in the reference, are no longer in proportion to the largest score."""
    assume(exact["largest"] >= size)


# Any shape, any mask, any option -------------------------------------------------------------------


@st.composite
def problems(draw_from):
    """(shape and size arguments of `draw`, options of `attend`)"""
    one = draw_from
    batch, kv_heads, group = one(st.integers(1, 2)), one(st.integers(1, 2)), one(st.integers(1, 2))
    n_query, n_key, causal = one(st.integers(1, 14)), one(st.integers(1, 14)), one(st.booleans())
    if causal and n_query > n_key:
        n_query, n_key = n_key, n_query
    heads, seed = kv_heads * group, one(st.integers(0, 2**16))
    noise = torch.Generator().manual_seed(seed + 1)
    d_head = one(st.sampled_from([16, 32, 64, 256]))
    shape = (seed, batch, n_query, n_key, heads, kv_heads, d_head)
    maybe = {
        "window": lambda: one(st.integers(1, 15)),
        "alibi_slopes": lambda: torch.rand(heads, generator=noise),
        "score_cap": lambda: one(st.floats(0.5, 50)),
        "key_padding": lambda: torch.rand(batch, n_key, generator=noise) < 0.7,
        "sink_logit": lambda: 3 * torch.randn(heads, generator=noise),
        "bias": lambda: 2 * torch.randn(heads, n_query, n_key, generator=noise),
        "targets": lambda: torch.randint(-1, n_key, (batch, heads, n_query), generator=noise),
    }
    options = {name: make() for name, make in maybe.items() if one(st.booleans())}
    return shape, {"size": one(st.sampled_from([0.0, 1.0, 30.0]))}, {"causal": causal, **options}


@torch.no_grad()
@settings(max_examples=60)
@given(
    problem=problems(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    tiles=st.sampled_from([(4, 3), (2, 5), (256, 1024)]),
    received=st.booleans(),
)
def test_every_statistic_is_within_the_budget_for_any_shape_and_mask(problem, dtype, tiles, received):
    shape, size, options = problem
    q, k, v = draw(*shape, dtype, **size)
    exact = exact_of(q, k, v, options)
    assume_that_scores_show_their_size(exact, **size)
    with small_tiles(*tiles):
        for backend in serving(q, k, statistics=True, bias=options.get("bias")):
            found = attend(q, k, v, statistics=True, received=received, backend=backend, **options)
            assert_within(errors(found, exact, v), allowances(q, k, exact))
            rows = found.statistics
            assert (rows.target_mass is None) == ("targets" not in options)
            assert (rows.unassigned_mass is None) == ("sink_logit" not in options)
            assert (rows.received_mass is None) == (not received)
            assert bool((rows.entropy >= 0).all())
            alone = {name: value for name, value in options.items() if name != "targets"}
            z = attend(q, k, v, backend=backend, **alone).z
            assert_within({"z": z_error(z, exact, v)}, allowances(q, k, exact))


# Enough rows to hold the backends against the reference -----------------------------------------------

HARD = {
    "plain": ({}, {}),
    "scores of 300": ({"size": 75.0}, {}),
    "a key offset of 30": ({"offset": 30.0}, {}),
    "a key offset of 30 before a cap": ({"offset": 30.0}, {"score_cap": 30.0}),
    "alibi": ({}, {"alibi_slopes": torch.tensor([0.5, 0.01])}),
    "alibi, both ways": ({}, {"alibi_slopes": torch.tensor([0.5, 0.01]), "causal": False}),
    "sink and window": ({"offset": 3.0}, {"sink_logit": torch.tensor([2.0, -1.0]), "window": 20}),
}


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", HARD)
def test_no_backend_is_worse_than_twice_the_reference(case, dtype):
    size, options = HARD[case]
    q, k, v = draw(0, 1, 70, 70, 2, 1, 64, dtype, **size)
    exact = exact_of(q, k, v, options)
    eager = errors(attend(q, k, v, statistics=True, received=True, backend="reference", **options), exact, v)
    units = {name: allowance / 8 for name, allowance in allowances(q, k, exact).items()}
    able = serving(q, k, statistics=True)
    for backend, tiles in [("tiled", (256, 1024)), ("tiled", (32, 16)), *((name, (1, 1)) for name in able[2:])]:
        with small_tiles(*tiles):
            found = attend(q, k, v, statistics=True, received=True, backend=backend, **options)
        worst = errors(found, exact, v)
        assert_within(worst, allowances(q, k, exact))
        assert_within(worst, {name: 2 * error + units.get(name, units[""]) for name, error in eager.items()})


@torch.no_grad()
@pytest.mark.parametrize("sink", [None, 0.5])
def test_a_dead_row_has_no_entropy_and_no_mass_and_no_nan(sink):
    q, k, v = draw(0, 2, 5, 5, 2, 1, 16, torch.float32)
    for backend in serving(q, k, statistics=True):
        _check_dead_rows(q, k, v, sink, backend)


def _check_dead_rows(q, k, v, sink, backend):
    real = torch.tensor([[False] * 5, [False, False, True, True, True]])
    logit = None if sink is None else torch.full((2,), sink)
    found = attend(q, k, v, key_padding=real, sink_logit=logit, statistics=True, received=True, backend=backend)
    rows, nothing = found.statistics, torch.zeros(2, 5)
    assert bool(rows.dead_rows[0].all()) == (sink is None)
    assert torch.equal(rows.dead_rows[1, :, :2], torch.full((2, 2), sink is None))
    assert not rows.dead_rows[1, :, 2:].any()
    assert torch.equal(found.z[0], torch.zeros_like(found.z[0]))
    for name in ("entropy", "mean_distance", "sink_mass", "self_mass", "previous_mass", "received_mass"):
        assert torch.equal(getattr(rows, name)[0], nothing), name
    share, everywhere = float(sink is not None), {"peak", "sum_squares"} | ({"unassigned_mass"} if sink else set())
    for name in everywhere:  # all of it is the virtual key's, if there is one
        assert torch.equal(getattr(rows, name)[0], nothing + share), name
    assert sink is None or torch.equal(rows.logsumexp[0], nothing + sink)


# Threads ----------------------------------------------------------------------------------------------


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@torch.no_grad()
def test_two_workers_give_the_bits_of_one_and_put_the_settings_back(two_threads):
    q, k, v = draw(0, 2, 300, 300, 2, 1, 16, torch.float32)
    random_state, grad_mode = torch.get_rng_state(), torch.is_grad_enabled()
    several = attend(q, k, v, statistics=True, received=True, backend="tiled")
    assert torch.get_num_threads() == 2
    assert in_a_new_thread(torch.get_num_threads) == 2
    torch.set_num_threads(1)
    alone = attend(q, k, v, statistics=True, received=True, backend="tiled")
    assert torch.get_num_threads() == 1
    assert torch.equal(several.z, alone.z)
    assert torch.equal(several.statistics.stacked(), alone.statistics.stacked())
    assert torch.equal(several.statistics.received_mass, alone.statistics.received_mass)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.is_grad_enabled() == grad_mode


def test_settings_come_back_after_an_error_too(two_threads):
    q, k, v = draw(0, 1, 8, 8, 2, 2, 16, torch.float32)
    with mock.patch.object(sums.Sums, "finish", side_effect=MemoryError), pytest.raises(MemoryError):
        attend(q, k, v, statistics=True, backend="tiled")
    assert torch.get_num_threads() == 2
    assert in_a_new_thread(torch.get_num_threads) == 2


def test_workers_serve_inference_mode(two_threads):
    q, k, v = draw(0, 1, 8, 8, 2, 2, 16, torch.float32)
    with torch.inference_mode():
        inside = attend(q, k, v, statistics=True, backend="tiled")
    assert torch.equal(inside.z, attend(q, k, v, statistics=True, backend="tiled").z)


def in_a_new_thread(ask):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask).result()


@pytest.mark.parametrize("common", [-50.0, 50.0])
def test_a_row_that_sees_nothing_of_the_first_tiles_starts_at_its_own_scores(common):
    q, k, v = draw(3, 1, 24, 24, 1, 1, 8, torch.float64)
    bias = torch.full((1, 24, 24), common, dtype=torch.float64)
    with small_tiles(8, 4):
        plain = attend(q, k, v, window=3, statistics=True, backend="tiled").statistics
        moved = attend(q, k, v, window=3, bias=bias, statistics=True, backend="tiled").statistics
    for name in ("entropy", "peak", "sum_squares", "self_mass", "mean_distance"):
        torch.testing.assert_close(getattr(moved, name), getattr(plain, name), rtol=0, atol=1e-12)
    torch.testing.assert_close(moved.logsumexp, plain.logsumexp + common, rtol=0, atol=1e-12)
