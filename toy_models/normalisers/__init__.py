"""Ways to turn attention scores into weights.  A normaliser is a frozen spec that is called
`(scores, visible) -> weights`; one with `fused = True` may also run inside a fused backend."""

import pkgutil

# One line per normaliser.
NAMES = {"softmax": "toy_models.normalisers.softmax:Softmax"}


def find(name: str):
    """The spec class called `name`; ValueError lists the known ones."""
    if name not in NAMES:
        raise ValueError(f"unknown normaliser {name!r}: choose one of {', '.join(NAMES)}")
    return pkgutil.resolve_name(NAMES[name])
