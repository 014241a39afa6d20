"""Sweeps: independent jobs side by side, in processes of one thread each or on any executor."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from analyses.core.errors import WorkbenchError

Job = TypeVar("Job")
Answer = TypeVar("Answer")


def run_jobs(
    function: Callable[[Job], Answer],
    jobs: Sequence[Job],
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    label: str = "",
) -> list[Answer]:
    """Call `function` on every job and give the answers in the order of the jobs.

    Args:
        function: importable by its name, and its jobs and answers picklable: they travel between processes.
        jobs: one argument each.
        workers: processes; as many as there are cores, and no more than jobs, by default.
        executor: any concurrent.futures executor, such as dask's `client.get_executor()`, in place of processes of
            our own; it is left open, and its number of threads is its owner's business.
        label: what the progress on stderr is called.

    Raises:
        Whatever a job raised first; the rest is cancelled. So it is on Ctrl-C.
        WorkbenchError: a worker process died.
    """
    jobs = list(jobs)
    if not jobs:
        return []
    with _progress(label or function.__name__, len(jobs)) as advance:
        if executor is not None:
            return _collect(executor, function, jobs, advance)
        with _processes(workers or min(_cores(), len(jobs))) as own:
            return _collect(own, function, jobs, advance)


def _collect(executor: Executor, function: Callable, jobs: list, advance: Callable[[], None]) -> list:
    futures: list[Future] = []
    try:
        with _interrupt_held():
            futures += [executor.submit(function, job) for job in jobs]
        for done in as_completed(futures):
            done.result()
            advance()
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise WorkbenchError("a worker process died, perhaps for want of memory: free some and run again") from error
    finally:
        for future in futures:
            future.cancel()


@contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    """Fresh processes, ended at once when the block is left by an exception."""
    before = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_one_thread)
    try:
        yield executor
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _one_thread() -> None:
    """Keep a worker to one thread; the variables are read when torch and numpy are first imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@contextmanager
def _interrupt_held() -> Iterator[None]:
    """Hold Ctrl-C back while workers start: they inherit the mask, so that it reaches the parent alone."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cores() -> int:
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal; in a log, a line at the start and one at the end."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"{label}: {total} jobs", highlight=False)
        yield lambda: None
        console.print(f"{label}: done", highlight=False)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)
