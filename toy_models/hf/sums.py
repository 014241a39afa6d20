"""Which checkpoint is it?  A short sum over the files that loaders read, so that other weights have another name."""

import hashlib
from functools import cache
from pathlib import Path

READ_BY_LOADERS = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja")


def directory_sum(directory: str | Path) -> str | None:
    """12 hex digits of the SHA-256 over the names and contents of a directory's own files, as far as loaders read them.

    None: this is no directory here; a name on the Hugging Face hub, say.
    """
    folder = Path(directory).expanduser()
    if not folder.is_dir():
        return None
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in READ_BY_LOADERS:
            total.update(f"{path.name} {_file_sum(path, path.stat().st_size, path.stat().st_mtime_ns)}\n".encode())
    return total.hexdigest()[:12]


@cache
def _file_sum(path: Path, size: int, mtime_ns: int) -> str:
    """A config is built many times over; a file that has not changed is read once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
