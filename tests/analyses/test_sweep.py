import importlib
import math
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from analyses.core.errors import WorkbenchError
from analyses.core.sweep import run_jobs

JOBS = """
import os, signal, time

def slow_first(job):
    time.sleep(0.3 if job == 0 else 0)
    return job, os.getpid()

def threads(_):
    import torch
    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]

def fail_or_wait(job):
    if job == 0:
        raise ZeroDivisionError("job 0")
    time.sleep(60)

def hears_interrupt(_):
    return signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """A module that worker processes can import: they get the parent's sys.path."""
    (tmp_path / "made_up_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("made_up_jobs")
    del sys.modules["made_up_jobs"]


def test_answers_come_in_the_order_of_the_jobs_from_other_processes(jobs):
    found = run_jobs(jobs.slow_first, range(4), workers=2)
    assert [job for job, _ in found] == [0, 1, 2, 3]
    assert os.getpid() not in {pid for _, pid in found}


def test_a_worker_has_one_thread(jobs, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert run_jobs(jobs.threads, [None], workers=1) == [(1, "1", "1")]
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_the_first_exception_comes_out_as_it_was_and_the_rest_is_ended(jobs):
    start = time.perf_counter()
    with pytest.raises(ZeroDivisionError, match=r"^job 0$"):
        run_jobs(jobs.fail_or_wait, [1, 0, 2, 3], workers=2)
    assert time.perf_counter() - start < 30


def test_a_worker_does_not_hear_ctrl_c(jobs):
    assert run_jobs(jobs.hears_interrupt, [0], workers=1) == [False]


def test_a_worker_that_dies_is_one_line():
    with pytest.raises(WorkbenchError, match="a worker process died"):
        run_jobs(os._exit, [1])


def test_no_jobs_give_no_answers_and_start_nothing():
    assert run_jobs(math.sqrt, []) == []


def test_any_executor_serves_and_stays_open():
    with ThreadPoolExecutor(2) as executor:
        assert run_jobs(math.sqrt, [4.0, 9.0], executor=executor) == [2.0, 3.0]
        assert executor.submit(math.sqrt, 16.0).result() == 4.0


def test_jobs_that_wait_on_a_given_executor_are_cancelled_when_one_fails():
    started, gate = [], threading.Event()

    def job(number):
        started.append(number)
        if number == 0:
            raise ZeroDivisionError
        gate.wait(10)

    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(ZeroDivisionError):
            run_jobs(job, list(range(50)), executor=executor)
        gate.set()
    assert len(started) <= 3


def test_a_log_gets_a_line_at_the_start_and_one_at_the_end(capsys):
    with ThreadPoolExecutor(1) as executor:
        run_jobs(math.sqrt, [1.0, 4.0, 9.0], executor=executor, label="roots")
    assert capsys.readouterr() == ("", "roots: 3 jobs\nroots: done\n")


def test_sweeps_are_imported_without_torch():
    code = "import sys; import analyses.core.sweep; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
