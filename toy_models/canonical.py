"""Configurations as plain data: the same options give the same text, hence the same hash.

Standard library only, so that every floor above may use it.
"""

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, get_args, get_type_hints


def plain(value: Any, key: str = "", annotation: Any = None) -> Any:
    """Write a value as what JSON can hold: nested dicts, lists, numbers, strings, true, false and null.

    A dataclass becomes a dict of its init fields; unless its field's annotation settles the class, the
    class name stands under "kind", so that two specs with equal fields stay apart.  A torch.dtype becomes
    "float32", a float that is not finite its name.

    Raises:
        ValueError: something has no plain form; the message names its key.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value))
        kind = {} if _settled(annotation) is type(value) else {"kind": type(value).__name__}
        fields = {name: getattr(value, name) for name in _written(value)}
        return kind | {name: plain(one, f"{key}.{name}".lstrip("."), hints[name]) for name, one in fields.items()}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(one, f"{key}.{name}") for name, one in value.items()}
    if isinstance(value, tuple | list | range):
        return [plain(one, f"{key}[{index}]") for index, one in enumerate(value)]
    if isinstance(value, PurePath):
        return value.as_posix()
    if type(value).__module__.partition(".")[0] == "torch":  # torch.dtype, torch.device
        return str(value).removeprefix("torch.")
    raise ValueError(f"{key or 'the value'} is a {type(value).__name__}, which has no plain form: use a plain value")


def added(default: Any) -> Any:
    """A dataclass field that came after results had been kept: at its default it is left out of `plain`.

    What was configured before the field was there then keeps its text, and its hash.
    """
    return dataclasses.field(default=default, metadata={"written": "unless default"})


def _settled(annotation: Any) -> Any:
    """The only dataclass that the annotation admits: alone, or in a union with what is none; None: there is no such."""
    found = [one for one in (get_args(annotation) or (annotation,)) if dataclasses.is_dataclass(one)]
    return found[0] if len(found) == 1 else None


def _written(value: Any) -> list[str]:
    fields = [field for field in dataclasses.fields(value) if field.init]
    late = {field.name for field in fields if field.metadata.get("written") == "unless default"}
    unset = {field.name for field in fields if field.name in late and getattr(value, field.name) == field.default}
    return [field.name for field in fields if field.name not in unset]


def digest(value: Any, length: int = 12) -> str:
    """Hexadecimal digits of the SHA-256 of the canonical JSON text of `value`."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
