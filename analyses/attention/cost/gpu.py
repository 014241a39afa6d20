"""What a call costs on a GPU, on the device's own clock.

Every call stands between two device events of its own.  A call and the one beside it take turns within a repetition,
each over several sets of inputs that no cache holds at once, and the repetition is the median of each.  Before that the
device is kept busy, so that the processor runs ahead: what is timed is the device, not the wait for the next launch.
What compiles, tunes and loads is called before, at the same length.
"""

import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from analyses.attention.cost.variants import BY_NAME, CAUSAL, FUSED, FUSED_STATISTICS, MODEL, SDPA, Case, prepare
from analyses.core.errors import WorkbenchError
from toy_models.seeding import generator

MEGABYTE = 1e6
ROTATED = 4 * 60e6  # bytes of inputs: four times the L2 cache of the GPUs of 2024
PLENTY = 1e9  # bytes of one set: more than any cache, it needs no second
CALLS, SECONDS = 20, 2.0  # of each kind in a repetition: as many calls as fit into that time, at least one
AHEAD = 0.03  # seconds that the processor has for sending the first calls
CYCLES = 2e9  # a second's, at the highest clock there is: the device is busy for at least as long as it is told
TUNED = 16384  # tokens of the first call: the tuner chooses once per family, and shall not choose by a short one
MATMUL = 8192  # rows and columns


class CannotRun(WorkbenchError):
    """A way of attention that this GPU or this torch does not have for these inputs, and why."""


class Gpu:
    """The only lines that speak to the device: its stream, its clock, its memory."""

    def now(self):
        """A point in the stream of calls."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, begin, end) -> float:
        """Seconds from one point to another, both passed."""
        return begin.elapsed_time(end) / 1000

    def wait(self) -> None:
        """Return when all that was sent is done."""
        torch.cuda.synchronize()

    def busy(self, seconds: float) -> None:
        """Keep the stream occupied for at least so long."""
        torch.cuda._sleep(int(seconds * CYCLES))

    def held(self, call: Callable[[], object]) -> int:
        """The most bytes that one call held at a time, to the byte, its outputs included and its inputs not."""
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before

    def name(self) -> str:
        """The device in its maker's words."""
        return torch.cuda.get_device_name()


@dataclass
class Measured:
    """What the cases gave: a row per case and seed; by number of tokens, per seed, the time of the fused kernel with
    statistics over its time without; and why a case is left out, by what it is."""

    rows: list[dict] = field(default_factory=list)
    over_output_only: dict[int, list[float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def measure(gpu: Gpu, cases: Iterable[Case], seeds: Sequence[int]) -> Measured:
    """Every case that can run here, a repetition per seed."""
    done = Measured()
    for case in cases:
        what = {"workload": case.workload, "variant": case.variant, "n": case.n}
        try:
            rounds = settle(gpu, case)
            peak = {"peak_mb": gpu.held(prepare(case, 0, "memory")) / MEGABYTE}
            found = [paired(gpu, case, seed, rounds) for seed in seeds]
            if (case.workload, case.variant) == (CAUSAL, FUSED_STATISTICS):
                pairs = [paired(gpu, case, seed, rounds, beside=FUSED) for seed in seeds]
                done.over_output_only[case.n] = [pair["ratio"] for pair in pairs]
        except CannotRun as reason:
            done.left_out[", ".join(map(str, what.values()))] = str(reason)
        except torch.OutOfMemoryError:
            done.left_out[", ".join(map(str, what.values()))] = "needs more memory than is free"
        else:
            done.rows += [what | {"seed": seed} | times | peak for seed, times in zip(seeds, found, strict=True)]
    return done


def settle(gpu: Gpu, case: Case) -> int:
    """Call a case until nothing is left to compile, tune or load; gives the calls that a repetition has.

    Raises:
        CannotRun: torch has no such kernel for these inputs.
    """
    if case.workload != MODEL and case.variant in (FUSED, FUSED_STATISTICS):
        prepare(replace(case, n=max(case.n, TUNED)), 0, "warm-up")()
    call = prepare(case, 0, "warm-up")
    with _told(case):
        call()
    begin = gpu.now()
    call()
    end = gpu.now()
    gpu.wait()
    seconds = gpu.between(begin, end)
    return CALLS if CALLS * seconds <= SECONDS else max(1, int(SECONDS / seconds))


@contextmanager
def _told(case: Case) -> Iterator[None]:
    """Where torch has no kernel of that name for a case, its warnings say why."""
    if case.variant not in BY_NAME:
        yield
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reasons = [str(one.message).split(" (Triggered")[0].strip() for one in said]
            reasons = [one for one in reasons if not one.endswith(("because:", "runtime disabled."))]
            raise CannotRun(" ".join(reasons) or str(error).splitlines()[0]) from None


def paired(gpu: Gpu, case: Case, seed: int, rounds: int, beside: str = SDPA) -> dict[str, float]:
    """Time a case next to another variant, call by call, each on inputs of its own; even seeds begin with the other.

    Returns:
        `cpu_s`, `wall_s` of a call of the case, to send it and to have it done;  `sdpa_cpu_s`, `sdpa_wall_s` of what
        ran beside it;  `ratio` of the latter times.
    """
    ways = {"": (case, "case"), "sdpa_": (replace(case, variant=beside), "beside")}
    calls = {
        name: [prepare(one, seed, f"{role}, set {at}") for at in range(sets(one))]
        for name, (one, role) in sorted(ways.items(), reverse=seed % 2 == 0)
    }
    found = {}
    for name, seconds in in_turns(gpu, calls, rounds).items():
        found[f"{name}cpu_s"], found[f"{name}wall_s"] = seconds
    return found | {"ratio": found["wall_s"] / found["sdpa_wall_s"]}


def sets(case: Case) -> int:
    """How many sets of inputs a case goes through: so many that no cache holds them, two or more unless one is huge."""
    size = 3 * case.n * case.n_heads * case.d_head * getattr(torch, case.dtype).itemsize
    return 1 if size >= PLENTY else max(2, math.ceil(ROTATED / size))


def in_turns(gpu: Gpu, ways: dict[str, list[Callable[[], object]]], rounds: int) -> dict[str, tuple[float, float]]:
    """Each round calls each way once, in the order given, on the inputs that it has not used for longest.

    Returns:
        per way (processor seconds to send a call, device seconds of the call), medians over the rounds.
    """
    stamps = {name: [] for name in ways}
    if rounds > 1:  # the first call after new inputs looks for memory; one of seconds does not notice
        for calls in ways.values():
            calls[-1]()
    gpu.wait()
    gpu.busy(AHEAD)
    for at in range(rounds):
        for name, calls in ways.items():
            cpu, begin = time.process_time(), gpu.now()
            calls[at % len(calls)]()
            stamps[name].append((begin, gpu.now(), time.process_time() - cpu))
    gpu.wait()
    return {
        name: (
            statistics.median(cpu for _, _, cpu in each),
            statistics.median(gpu.between(begin, end) for begin, end, _ in each),
        )
        for name, each in stamps.items()
    }


def matmul_rate(gpu: Gpu, seed: int, dtype: str, device: str, tf32: bool) -> float:
    """TFLOP/s of a large square product of random matrices, timed as the calls are; 2 size^3 operations.

    Args:
        tf32: multiply float32 in the fast way.
    """
    source = generator(seed, "bench_attention", "matmul")
    there = torch.Generator(device).manual_seed(source.initial_seed())
    drawn = {"size": (2, 2, MATMUL, MATMUL), "generator": there, "device": device, "dtype": getattr(torch, dtype)}
    pairs, before = torch.randn(**drawn), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        calls = [lambda a=a, b=b: a @ b for a, b in pairs]
        _, seconds = in_turns(gpu, {"matmul": calls}, CALLS)["matmul"]
    finally:
        torch.set_float32_matmul_precision(before)
    return 2 * MATMUL**3 / seconds / 1e12
