"""Which attention backends can serve a call here: the tests of all backends ask, so that a new one meets them all."""

import importlib

from toy_models.attention import NAMES, Options


def serving(q, k, **options) -> list[str]:
    """The names, in order; what each refuses is tested where it is."""
    options = Options(**{"scale": 1.0, **{name: value for name, value in options.items() if value is not None}})
    return [name for name in NAMES if importlib.import_module(NAMES[name]).refuses(q, k, options) is None]
