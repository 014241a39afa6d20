"""Many small jobs on the threads that torch would use for one large operation."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def share(jobs: list[Callable[[], None]], device: torch.device) -> None:
    """Run every job without recording gradients; on a CPU on `torch.get_num_threads()` workers.

    Each worker computes with one thread: operations on one block are too small to share, and the results do not
    hang on the number of workers.  torch's setting, which is a global default besides, is put back.
    """
    if device.type != "cpu":
        with torch.no_grad():
            for job in jobs:
                job()
        return
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()

    def run(job: Callable[[], None]) -> None:
        torch.set_num_threads(1)
        # A new thread has neither the caller's inference mode nor its no_grad.
        with torch.inference_mode(inference), torch.no_grad():
            job()

    try:
        if threads == 1 or len(jobs) == 1:
            for job in jobs:
                run(job)
        else:
            with ThreadPoolExecutor(min(threads, len(jobs))) as pool:
                list(pool.map(run, jobs))
    finally:
        torch.set_num_threads(threads)
