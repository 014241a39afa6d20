"""Configurations as plain data: the same options give the same text, hence the same hash.

Standard library only, so that anybody may import it.
"""

import dataclasses
import hashlib
import json
from typing import Any


def plain(value: Any) -> Any:
    """Nested dicts, lists and scalars that JSON can hold.

    A dataclass becomes a dict of its init fields; its class name is kept under `kind`, so that two
    specs with equal fields stay apart.  Other objects (a torch dtype, a path) become their text.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | range | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [plain(v) for v in items]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value).removeprefix("torch.")


def digest(value: Any, length: int = 12) -> str:
    """Hexadecimal digits of the SHA-256 of the canonical JSON text of `value`."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
