"""One progress bar for the floor: on a terminal or in a notebook, nowhere else."""

import sys
import threading
from collections.abc import Iterable

from tqdm import tqdm


def progress(items: Iterable, label: str, show: bool | None = None, **options) -> tqdm:
    """`items` with a bar on stderr.  `show=None` decides by whether somebody is there to look."""
    if show is None:
        show = sys.stderr.isatty() or _in_notebook()
    if not hasattr(tqdm, "_lock"):  # tqdm's own is a semaphore, which a worker that is ended would leave behind
        tqdm.set_lock(threading.RLock())
    return tqdm(items, desc=label, disable=not show, leave=False, **options)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None
