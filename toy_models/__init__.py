"""Small hackable transformers on TransformerLens hooks.

`Transformer`, `TransformerConfig` and what loads and writes models are fetched when first asked for, so that
`import toy_models.attention` and `import toy_models.tasks` stay free of transformer_lens.
"""

import pkgutil

_EXPORTS = {
    "Transformer": "toy_models.transformer:Transformer",
    "TransformerConfig": "toy_models.config:TransformerConfig",
    "load": "toy_models.hub:load",
    "from_hf": "toy_models.hf.reading:from_hf",
    "from_state_dict": "toy_models.hf.reading:from_state_dict",
    "to_hf": "toy_models.hf.writing:to_hf",
}
__all__ = ["Transformer", "TransformerConfig", "from_hf", "from_state_dict", "load", "to_hf"]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"toy_models has no {name!r}; it exports {', '.join(_EXPORTS)}")
    return pkgutil.resolve_name(_EXPORTS[name])


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
