"""Settings of a study: frozen dataclasses, changed by dotted keys and written down as plain JSON."""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from analyses.core.errors import WorkbenchError
from toy_models import canonical

WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}


def configure(Config: type, overrides: Mapping[str, object]) -> Any:
    """Build a config from its defaults and some dotted keys.

    Args:
        Config: a frozen dataclass whose fields all have defaults.
        overrides: "model.position.base" -> value. A string is read as what the field's annotation asks for:
            "5e5", "true", "null", "0,1,2". Other fields are left as they are and not checked, save that a field whose
            default is None and which its dataclass filled in (d_head from d_model, say) is filled in anew.

    Raises:
        WorkbenchError: an unknown key (with the nearest known one), a value of the wrong type, or a combination that
            a dataclass of the config refuses.
    """
    config = _built(Config)
    tree: dict[str, dict] = {}
    for key, value in overrides.items():
        node = tree
        *parents, last = key.split(".")
        for name in parents:
            node = node.setdefault(name, {}).setdefault("parts", {})
        node.setdefault(last, {})["value"] = value
    return _rebuilt(config, tree, prefix="")


def plain(config: object) -> dict[str, object]:
    """Write a config as what JSON can hold; see `toy_models.canonical.plain`.

    Raises:
        WorkbenchError: a value has no plain form; the message names its field.
    """
    try:
        return canonical.plain(config, annotation=type(config))
    except ValueError as error:
        raise WorkbenchError(str(error)) from error


def keys(config: object, prefix: str = "") -> list[str]:
    """Every dotted key that can be set, groups as well as their parts."""
    found = []
    for name in _settable(config):
        found.append(prefix + name)
        value = getattr(config, name)
        if _is_dataclass(value):
            found += keys(value, f"{prefix}{name}.")
    return found


def _is_dataclass(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _settable(config: object) -> list[str]:
    return [field.name for field in dataclasses.fields(config) if field.init]


def _built(make: Any, *args: object, **changes: object) -> Any:
    try:
        return make(*args, **changes)
    except ValueError as error:
        raise WorkbenchError(" ".join(str(error).split())) from error


def _rebuilt(config: Any, tree: Mapping[str, Mapping], prefix: str) -> Any:
    """Replace along the paths of `tree` only, all fields of one dataclass at once so that it sees no half-way state."""
    hints = get_type_hints(type(config), include_extras=True)
    for name in tree:
        if name not in _settable(config):
            raise _unknown(config, name, prefix)
    changes = {
        name: _checked(prefix + name, node["value"], hints[name]) for name, node in tree.items() if "value" in node
    }
    with_values = _built(dataclasses.replace, config, **{**_derived(config), **changes})
    for name, node in tree.items():
        if "parts" in node:
            part = getattr(with_values, name)
            if not _is_dataclass(part):
                wanted = f"{prefix}{name}.{next(iter(node['parts']))}"
                raise WorkbenchError(f"cannot set {wanted}: {prefix}{name} is {part!r}, which has no parts")
            changes[name] = _rebuilt(part, node["parts"], f"{prefix}{name}.")
    return _built(dataclasses.replace, config, **{**_derived(config), **changes})


def _derived(config: Any) -> dict[str, None]:
    """The fields that None would fill in with what they hold now: they follow the others, so None is their value."""
    found = {}
    for field in dataclasses.fields(config):
        if field.init and field.default is None and getattr(config, field.name) is not None:
            try:
                same = dataclasses.replace(config, **{field.name: None}) == config
            except ValueError:  # the dataclass refuses None here: somebody chose the value
                same = False
            if same:
                found[field.name] = None
    return found


def _unknown(config: object, name: str, prefix: str) -> WorkbenchError:
    known = keys(config, prefix)
    if not known:
        return WorkbenchError(f"unknown key '{prefix}{name}': {prefix.rstrip('.')} is {config!r}, which has no parts")
    nearest = difflib.get_close_matches(prefix + name, known, n=1, cutoff=0)[0]
    return WorkbenchError(f"unknown key '{prefix}{name}': the nearest known one is '{nearest}'")


def _checked(key: str, value: object, annotation: Any) -> object:
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    # pydantic has no rules for foreign types such as torch.dtype, and takes no rules for dataclasses.
    rules = None if dataclasses.is_dataclass(annotation) else ConfigDict(arbitrary_types_allowed=True)
    checker = TypeAdapter(_shallow(annotation), config=rules)
    refusals = []
    for reading in _readings(value):
        try:
            return checker.validate_python(reading, strict=True)
        except ValidationError as error:
            refusals.append(error.errors(include_url=False)[0]["msg"])
    reason = f" ({refusals[0]})" if get_origin(annotation) is Annotated else ""
    raise WorkbenchError(f"{key}={value}: expected {_spoken(annotation)}{reason}")


def _shallow(annotation: Any) -> Any:
    """The annotation with dataclasses as "an instance of": their own fields are not pydantic's to read."""
    from pydantic import InstanceOf

    if dataclasses.is_dataclass(annotation):
        return InstanceOf[annotation]
    if get_origin(annotation) in (Union, UnionType):
        return Union[tuple(_shallow(one) for one in get_args(annotation))]  # noqa: UP007  (a computed union)
    return annotation


def _spoken(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if annotation is NoneType:
        return "None"
    text = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    return re.sub(r"\b[A-Za-z_]\w*\.(?=[A-Za-z_])", "", text)


def _readings(value: object) -> Iterator[object]:
    """What a value may mean, the most literal reading first; the annotation chooses."""
    if isinstance(value, list):
        value = tuple(value)
    if not isinstance(value, str):
        yield value
        return
    yield _literal(value)
    yield _whole(_literal(value))
    yield value
    inner = value.strip().removeprefix("(").removesuffix(")").removeprefix("[").removesuffix("]")
    parts = [part.strip() for part in inner.split(",") if part.strip()]
    yield tuple(_literal(part) for part in parts)
    yield tuple(_whole(_literal(part)) for part in parts)
    yield tuple(parts)
    if value == "none":
        yield None


def _literal(text: str) -> object:
    if text in WORDS:
        return WORDS[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value
