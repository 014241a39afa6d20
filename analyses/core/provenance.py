"""Provenance: from which code, with which versions, and at what cost a result was made.

No dates, no user or host names, no absolute paths: the same run on the same code says the same, its cost apart.
"""

import hashlib
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "transformer-lens", "transformers", "numpy", "scipy", "pandas", "einops", "safetensors")
# Kept results and their pictures come out of studies; a diff that held them would hold older diffs.
NOT_SOURCE = (":(exclude)figures/data", ":(exclude)figures/gallery")
MEGABYTE = 1e6
# getrusage counts kilobytes on Linux and bytes on macOS.
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@contextmanager
def recorded(root: Path) -> Iterator[dict[str, object]]:
    """Record a run: gives a dict that is whole once the block is left.

    Keys:
        commit, diff, untracked: see `source`, taken before the block runs.
        versions, platform: of python and the packages; of the machine.
        seconds, cpu_seconds: wall time; processor time of this process and of the children that it has waited for.
        peak_memory_mb: most memory that this process held since it started, plus that of its largest child.
    """
    run = {**source(root), "versions": versions(), "platform": machine()}
    start, cpu = time.perf_counter(), _cpu_seconds()
    yield run
    run["seconds"] = round(time.perf_counter() - start, 3)
    run["cpu_seconds"] = round(_cpu_seconds() - cpu, 3)
    run["peak_memory_mb"] = round(sum(usage.ru_maxrss for usage in _usage()) * MAXRSS_UNIT / MEGABYTE, 1)


def source(root: Path) -> dict[str, object]:
    """The code as git knows it.

    Returns:
        commit: null outside git.
        diff: tracked files against the commit; null when nothing differs or outside git.
        untracked: Python files that git does not know, with their sha256; empty outside git.
    """
    # A project that merely lies inside somebody's repository is not that repository's commit.
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top.strip()).resolve() != root.resolve():
        return {"commit": None, "diff": None, "untracked": {}}
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    diff = _git(root, "diff", "--no-color", "--no-ext-diff", "HEAD", "--", ".", *NOT_SOURCE)
    others = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", "*.py")
    return {
        "commit": commit.strip() if commit else None,
        "diff": diff or None,
        "untracked": {name: _sum(root / name) for name in (others or "").split("\0") if name},
    }


def versions() -> dict[str, str | None]:
    """Versions of python and the packages that numbers depend on; null for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def machine() -> str:
    """System, processor architecture and number of cores; neither the host's name nor its kernel's."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def _git(root: Path, *arguments: str) -> str | None:
    """What git answers; None when it has no answer: outside a repository, before the first commit, not installed."""
    try:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode(errors="replace")


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _usage() -> tuple[resource.struct_rusage, resource.struct_rusage]:
    return resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)


def _cpu_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in _usage())
