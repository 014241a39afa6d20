"""Position codes, one file each.  A code is a frozen spec; `build(config)` makes its module, a
`PositionCode` that overrides one of `embed`, `embed_attention`, `rotation`, `bias`."""

import pkgutil

from toy_models.positions.code import PositionSpec

__all__ = ["NAMES", "PositionSpec", "find"]

# One line per code.
NAMES = {
    "none": "toy_models.positions.none:NoPosition",
    "learned": "toy_models.positions.learned:Learned",
    "sinusoidal": "toy_models.positions.sinusoidal:Sinusoidal",
    "shortformer": "toy_models.positions.shortformer:Shortformer",
    "rope": "toy_models.positions.rope:Rope",
    "alibi": "toy_models.positions.alibi:Alibi",
    "relative": "toy_models.positions.relative:Relative",
}


def find(name: str):
    """The spec class called `name`; ValueError lists the known ones."""
    if name not in NAMES:
        raise ValueError(f"unknown position code {name!r}: choose one of {', '.join(NAMES)}")
    return pkgutil.resolve_name(NAMES[name])
