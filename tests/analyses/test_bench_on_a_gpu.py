"""The benchmark's way on a GPU, with a clock that the tests move: what is timed, in which turns, and what is left out.

No GPU takes part: the calls run on the processor, and only `Gpu`, which speaks to the device, is replaced.
"""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from analyses.attention import bench_attention as subject
from analyses.attention.cost import gpu as on
from analyses.attention.cost import rates, variants
from analyses.attention.cost.variants import (
    CAUSAL,
    CUDNN,
    EAGER,
    FLASH,
    FUSED,
    FUSED_STATISTICS,
    MATH,
    MODEL,
    SDPA,
    WINDOW,
    Case,
)
from analyses.core import results
from analyses.core.config import plain
from toy_models.attention import attend
from toy_models.attention.masks import visible_keys

CASE = Case(CAUSAL, FUSED, n=40, window=7, n_heads=2, d_head=8, backend="tiled", dtype="float32", device="cpu")


class Clock:
    """A device whose time is that of its calls: each adds to `time` what it takes."""

    def __init__(self):
        self.time, self.waited, self.occupied, self.stamps = 0.0, 0, 0.0, 0

    def now(self):
        self.stamps += 1
        return self.time

    def between(self, begin, end):
        assert self.waited, "read before the device was done"
        return end - begin

    def wait(self):
        self.waited += 1

    def busy(self, seconds):
        self.occupied += seconds
        self.time += 1.0

    def held(self, call):
        self.kept = call()
        return 3_000_000

    def name(self):
        return "a clock"


@pytest.fixture
def clock(monkeypatch) -> Clock:
    monkeypatch.setattr(on, "ROTATED", 0.0)  # two sets of inputs: the processor's time is for the tests
    return Clock()


def taking(clock: Clock, log: list, name: str, seconds):
    """A call that takes as many seconds as the iterator says next."""
    seconds = iter(seconds)

    def call():
        log.append(name)
        clock.time += next(seconds)

    return call


def test_the_device_is_spoken_to_in_words_that_torch_has(monkeypatch):
    said = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            said.append("recorded")

        def elapsed_time(self, end):
            return 500.0  # ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: said.append("done"))
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: said.append(cycles))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 5)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: said.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: said.append("read") or 12)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a name")
    device = on.Gpu()
    assert device.between(device.now(), device.now()) == 0.5
    device.wait()
    device.busy(0.25)
    assert device.held(lambda: said.append("called")) == 7
    assert device.name() == "a name"
    assert said == ["recorded", "recorded", "done", 500_000_000, "reset", "called", "read"]


def test_a_gpu_is_measured_by_its_own_clock_where_there_is_one(monkeypatch):
    assert subject._gpu(subject.Config()) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert isinstance(subject._gpu(subject.Config(device="cuda")), on.Gpu)


# One repetition -----------------------------------------------------------------------------------


def test_calls_take_turns_over_rotating_inputs_and_a_repetition_is_the_median(clock):
    log = []
    a = [taking(clock, log, f"a{i}", [1.0 + i] * 4) for i in range(3)]
    b = [taking(clock, log, f"b{i}", [10.0, 99.0, 10.0]) for i in range(2)]  # one round is disturbed: nobody minds
    found = on.in_turns(clock, {"a": a, "b": b}, rounds=5)
    assert log[:2] == ["a2", "b1"]  # once each before it counts
    assert log[2:] == ["a0", "b0", "a1", "b1", "a2", "b0", "a0", "b1", "a1", "b0"]
    assert (found["a"][1], found["b"][1]) == (2.0, 10.0)
    assert found["a"][0] >= 0
    assert clock.stamps == 2 * 2 * 5  # every call between two events of its own
    assert clock.occupied == on.AHEAD


def test_a_call_of_seconds_is_made_once(clock):
    log = []
    on.in_turns(clock, {"a": [taking(clock, log, "a", [5.0, 5.0])]}, rounds=1)
    assert log == ["a"]


@pytest.mark.parametrize(("seconds", "rounds"), [(2**-16, 20), (2**-4, 20), (2**-3, 16), (0.5, 4), (1.5, 1), (30.0, 1)])
def test_a_repetition_has_as_many_calls_as_fit_into_its_time(monkeypatch, clock, seconds, rounds):
    monkeypatch.setattr(on, "prepare", lambda *of: taking(clock, [], "", [60.0, seconds]))  # the first call compiles
    assert on.settle(clock, replace(CASE, variant=SDPA)) == rounds


def test_kernels_are_tuned_on_a_long_text_and_called_at_the_length_itself_before_anything_is_timed(monkeypatch, clock):
    asked = []
    monkeypatch.setattr(on, "prepare", lambda case, seed, role: asked.append((case.variant, case.n)) or (lambda: None))
    for case in (CASE, replace(CASE, n=2**20), replace(CASE, variant=EAGER), replace(CASE, workload=MODEL)):
        on.settle(clock, case)
    assert asked == [(FUSED, 16384), (FUSED, 40), (FUSED, 2**20), (FUSED, 2**20), (EAGER, 40), (FUSED, 40)]


def test_a_case_and_the_one_beside_it_alternate_and_take_turns_in_going_first(monkeypatch, clock):
    log, seconds = [], {SDPA: 2.0, FUSED: 2.5, FUSED_STATISTICS: 3.0}

    def prepare(case, seed, role):
        return taking(clock, log, case.variant, [seconds[case.variant]] * 99)

    monkeypatch.setattr(on, "prepare", prepare)
    case = replace(CASE, variant=FUSED_STATISTICS)
    even, odd = (on.paired(clock, case, seed, 3) for seed in (0, 1))
    assert log == [SDPA, FUSED_STATISTICS] * 4 + [FUSED_STATISTICS, SDPA] * 4
    assert (even["wall_s"], even["sdpa_wall_s"], even["ratio"], odd["ratio"]) == (3.0, 2.0, 1.5, 1.5)
    done = on.measure(clock, [case, replace(case, workload=WINDOW)], [0, 1])
    assert done.over_output_only == {40: [1.2, 1.2]}  # beside the same kernel without statistics
    assert [row["ratio"] for row in done.rows] == [1.5] * 4


def test_every_set_of_inputs_is_drawn_anew_and_none_is_both_the_cases_and_the_others(monkeypatch, clock):
    drawn = []
    real = variants.prepare
    monkeypatch.setattr(on, "prepare", lambda *of: drawn.append(real(*of)) or drawn[-1])
    monkeypatch.setattr(on, "ROTATED", 5 * 3 * 40 * 2 * 8 * 4)
    with pytest.raises(ZeroDivisionError):  # no call moves the clock
        on.paired(clock, replace(CASE, variant=SDPA), 0, 2)
    outputs = [call() for call in drawn]
    assert len(outputs) == 2 * 5
    assert not any(torch.equal(a, b) for at, a in enumerate(outputs) for b in outputs[:at])


@pytest.mark.parametrize("n", [1024, 16384, 131072, 2**20])
def test_inputs_of_a_repetition_exceed_the_cache_and_leave_the_memory_to_the_call(n):
    case = replace(CASE, n=n, n_heads=8, d_head=128, dtype="bfloat16")
    one = 3 * n * 8 * 128 * 2
    assert on.sets(case) * one >= 4 * 60e6
    assert on.sets(case) * one <= max(2e9, one)
    assert on.sets(case) >= 2 or one >= 1e9
    assert on.sets(replace(case, dtype="float32", n=2**12)) >= 2


# What cannot run ----------------------------------------------------------------------------------


def test_a_kernel_that_torch_does_not_have_here_is_left_out_with_the_reason(clock):
    with pytest.raises(on.CannotRun, match="No viable backend"):  # a processor has no cuDNN
        on.settle(clock, replace(CASE, variant=CUDNN))


def test_the_reason_is_what_torch_warned_of_without_the_kernels_that_were_not_asked_for(monkeypatch, clock):
    def refuse():
        for said in (
            "Flash attention kernel not used because: (Triggered internally at /somewhere/sdp_utils.cpp:1.)",
            "Expected query, key and value to all be of dtype: {Half, BFloat16}. (Triggered internally at /x:2.)",
            "CuDNN attention has been runtime disabled. (Triggered internally at /somewhere/sdp_utils.cpp:3.)",
        ):
            warnings.warn(said, stacklevel=1)
        raise RuntimeError("No available kernel. Aborting execution.\nand more")

    monkeypatch.setattr(on, "prepare", lambda *of: refuse)
    with pytest.raises(on.CannotRun) as told:
        on.settle(clock, replace(CASE, variant=FLASH))
    assert str(told.value) == "Expected query, key and value to all be of dtype: {Half, BFloat16}."


@pytest.mark.parametrize("variant", [FUSED, EAGER])
def test_an_error_of_our_own_is_no_reason_to_leave_a_case_out(monkeypatch, clock, variant):
    def fail():
        raise RuntimeError("a bug")

    monkeypatch.setattr(on, "prepare", lambda *of: fail)
    with pytest.raises(RuntimeError, match="a bug"):
        on.measure(clock, [replace(CASE, variant=variant)], [0])


@pytest.mark.parametrize("variant", [FUSED, MATH])
def test_what_does_not_fit_into_memory_is_left_out_and_the_others_are_measured(monkeypatch, clock, variant):
    def exhaust():
        raise torch.OutOfMemoryError("too much")

    def prepare(case, seed, role):
        return exhaust if case.variant == variant else taking(clock, [], "", [1.0] * 99)

    monkeypatch.setattr(on, "prepare", prepare)
    done = on.measure(clock, [replace(CASE, variant=variant), replace(CASE, variant=SDPA)], [0, 1])
    assert done.left_out == {f"causal, {variant}, 40": "needs more memory than is free"}
    assert [(row["variant"], row["seed"], row["ratio"]) for row in done.rows] == [(SDPA, 0, 1.0), (SDPA, 1, 1.0)]


# A whole run --------------------------------------------------------------------------------------


@pytest.fixture
def ran(monkeypatch):
    """A run of every workload with the clock in the GPU's place; each stamp comes a millisecond after the last."""

    class Ticking(Clock):
        def now(self):
            self.time += 1e-3
            return super().now()

    monkeypatch.setattr(subject, "_gpu", lambda config: Ticking())
    for name, value in {"TUNED": 64, "CALLS": 2, "MATMUL": 16, "ROTATED": 0.0}.items():
        monkeypatch.setattr(on, name, value)
    shape = {"n": (24, 48), "n_eager": 24, "n_window": (32,), "window": 5, "n_model": (16,), "n_heads": 2, "d_head": 8}
    config = subject.Config(**shape, seeds=(0, 3))
    return config, subject.run(config)


def test_a_run_measures_torchs_kernels_by_name_and_those_that_hold_the_pattern_only_as_far_as_told(ran):
    _, result = ran
    table = result.table
    assert list(table.columns) == list(subject.COLUMNS)
    at = {key: set(rows.variant) for key, rows in table.groupby(["workload", "n"])}
    assert at[CAUSAL, 24] == {*variants.ON_A_GPU} - {CUDNN}
    assert at[CAUSAL, 48] == {SDPA, FLASH, FUSED, FUSED_STATISTICS}
    assert at[WINDOW, 32] == {SDPA, FUSED_STATISTICS}
    assert (CAUSAL, 24) in at
    assert table.groupby(["workload", "variant", "n"]).seed.apply(list).map(lambda seeds: seeds == [0, 3]).all()
    np.testing.assert_allclose(table.wall_s, 1e-3)
    np.testing.assert_allclose(table.ratio, 1.0)
    assert (table.peak_mb == 3.0).all()


def test_a_run_tells_what_was_left_out_and_why_and_keeps_what_the_figure_needs(ran, tmp_path):
    config, result = ran
    assert set(result.measured_with["left_out"]) == {f"causal, {CUDNN}, 24", f"causal, {CUDNN}, 48"}
    assert result.measured_with["gpu"] == "a clock"
    assert result.measured_with["matmul"] == "float32"
    np.testing.assert_array_equal(result.arrays[rates.LENGTHS], [24, 48])
    np.testing.assert_allclose(result.arrays[rates.OVER_OUTPUT_ONLY], np.ones((2, 2)))
    np.testing.assert_allclose(result.arrays[rates.MATMUL], [2 * 16**3 / 1e-3 / 1e12] * 2)
    run = {"study": "bench_attention", "config": plain(config), "columns": subject.COLUMNS, "profile": "custom"}
    kept = results.save(result, tmp_path / "kept", run)
    assert rates.over_fastest(kept, 48).tolist() == [1.0, 1.0]
    assert rates.over_output_only(kept).loc[48].tolist() == [1.0, 1.0]


def test_a_run_on_a_processor_knows_nothing_of_this():
    cases = subject._cases(subject.Config(), variants.IN)
    assert not {case.variant for case in cases} & set(variants.BY_NAME)


# Operations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5, 64])
def test_the_operations_are_those_of_the_visible_pairs_but_for_half_the_diagonal(n):
    heads, width = 3, 8
    pairs = int(visible_keys(n, n).sum())
    counted = pairs * 2 * (2 * width) * heads  # q k^T and p v, a product and a sum per number of a head
    assert counted == rates.causal_flops(n, heads, width) * (1 + 1 / n)


def test_the_product_is_timed_in_the_type_that_was_asked_for_and_the_global_precision_comes_back(monkeypatch, clock):
    seen = []
    monkeypatch.setattr(on, "MATMUL", 4)

    def in_turns(gpu, ways, rounds):
        (calls,) = ways.values()
        seen.append((torch.get_float32_matmul_precision(), {call().dtype for call in calls}, len(calls), rounds))
        assert not torch.equal(calls[0](), calls[1]())
        return {"matmul": (0.0, 0.5)}

    monkeypatch.setattr(on, "in_turns", in_turns)
    before = torch.get_float32_matmul_precision()
    for dtype, tf32 in (("bfloat16", False), ("float32", True)):
        assert on.matmul_rate(clock, 0, dtype, "cpu", tf32) == 2 * 4**3 / 0.5 / 1e12
    assert seen == [("highest", {torch.bfloat16}, 2, on.CALLS), ("high", {torch.float32}, 2, on.CALLS)]
    assert torch.get_float32_matmul_precision() == before


def test_the_names_in_the_rates_are_those_of_the_variants():
    assert (rates.SDPA, *variants.BY_NAME) == rates.TORCH_KERNELS
    assert rates.STATISTICS == FUSED_STATISTICS


@pytest.mark.parametrize("variant", [FLASH, MATH])
def test_a_kernel_by_name_computes_the_same_attention(variant):
    source = variants.generator(5, "bench_attention", "test", CASE.n)
    q, k, v = (torch.randn(1, CASE.n, 2, 8, generator=source) for _ in "qkv")
    found = variants.prepare(replace(CASE, variant=variant), 5, "test")()
    torch.testing.assert_close(found.transpose(1, 2), attend(q, k, v, backend="reference").z)
