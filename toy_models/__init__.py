"""Small hackable transformers on TransformerLens hooks.

`Transformer`, `TransformerConfig` and `load` are fetched when first asked for, so that
`import toy_models.attention` and `import toy_models.tasks` stay free of transformer_lens.
"""

import pkgutil

_EXPORTS = {
    "Transformer": "toy_models.transformer:Transformer",
    "TransformerConfig": "toy_models.config:TransformerConfig",
    "load": "toy_models.hub:load",
}
__all__ = ["Transformer", "TransformerConfig", "load"]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"toy_models has no {name!r}; it exports {', '.join(_EXPORTS)}")
    return pkgutil.resolve_name(_EXPORTS[name])


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
