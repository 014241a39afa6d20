"""What a call costs on a processor: time beside that of another call, and the most memory it held.

Time is that of the process, so that a busy machine shows less.  Memory is measured in a fresh process,
`python -m analyses.attention.cost.measure CASE`.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch

from analyses.attention.cost.variants import SDPA, Case, prepare
from analyses.core.errors import WorkbenchError

MEGABYTE = 1e6
TINY = 256  # tokens of the call that loads kernels and libraries before anything is measured
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Every block of 64 kB or more comes from the system and goes back at once: what is resident is what is in use.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@contextmanager
def one_thread() -> Iterator[None]:
    """One intra-op thread of torch inside; as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Run a call; gives (processor seconds of this process, elapsed seconds)."""
    cpu, wall = time.process_time(), time.perf_counter()
    kept = call()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    del kept  # given back after the clock has stopped, as its user would
    return cpu, wall


def paired(case: Case, seed: int) -> dict[str, float]:
    """Time a case next to SDPA, each on inputs of its own; even seeds run SDPA first, odd ones last.

    Returns:
        `cpu_s`, `wall_s` of the case;  `sdpa_cpu_s`, `sdpa_wall_s`;  `ratio` of the processor times.
    """
    calls = {"": prepare(case, seed, "case"), "sdpa_": prepare(replace(case, variant=SDPA), seed, "beside")}
    found = {}
    for name in sorted(calls, reverse=seed % 2 == 0):
        found[f"{name}cpu_s"], found[f"{name}wall_s"] = timed(calls[name])
    return found | {"ratio": found["cpu_s"] / found["sdpa_cpu_s"]}


def warm(case: Case) -> None:
    """Call a short version of the case once: kernels are chosen and libraries loaded on the first call."""
    prepare(replace(case, n=min(case.n, TINY)), 0, "warm-up")()


def peak_mb(case: Case) -> float:
    """The most memory that one call held at a time, its outputs included and its inputs not (MB = 1e6 bytes).

    Resident memory of a fresh process, see `growth`.

    Raises:
        WorkbenchError: the process ended without an answer, perhaps for want of memory.
    """
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-m", "analyses.attention.cost.measure", json.dumps(asdict(case))],
        env={**os.environ, **ALLOCATOR, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise WorkbenchError(f"no memory measured for {case.variant} at n={case.n}: {said}; try a smaller n")
    return float(done.stdout) / MEGABYTE


def growth(call: Callable[[], object]) -> int:
    """By how many bytes the peak of this process's resident memory rises over what it holds before the call.

    Pages are of 4 kB or 2 MB, and Linux keeps its count to within some hundred kB: nothing below 1 MB is to be read
    off.  Where the kernel cannot reset the peak (not Linux), memory that the process held before and gave back hides
    as much of the call's.
    """
    if os.access(RESET, os.W_OK):
        RESET.write_text("5")  # the peak is what is resident now
    before = _peak()
    kept = call()
    after = _peak()
    del kept
    return after - before


def _peak() -> int:
    """Bytes; read from /proc where there is one, since Linux hands getrusage's peak down from parent to child."""
    if STATUS.exists():
        (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _answer(text: str) -> int:
    """Measure the case that another process asked for."""
    case = Case(**json.loads(text))
    with one_thread():
        warm(case)
        return growth(prepare(case, 0, "memory"))


if __name__ == "__main__":
    print(_answer(sys.argv[1]))
