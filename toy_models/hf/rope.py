"""Rotary options of a config.json: `rope_parameters`, or the older `rope_theta` and `rope_scaling`."""

from typing import Any

from toy_models.errors import ModelError
from toy_models.hf.given import Given
from toy_models.positions.rope import Rope
from toy_models.positions.rope_scaling import LinearScaling, Llama3Scaling, YarnScaling

_YARN = {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}
# What each kind may say beside its factor.
_OPTIONS = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {"factor", "original_max_position_embeddings", *_YARN},
}


def read_rope(given: Given, n_ctx: int, *, base_name: str = "rope_theta", base: float = 1e4) -> Rope:
    """The Rope of a model that turns whole heads, the same in all layers.

    Args:
        n_ctx: `max_position_embeddings`.
        base_name, base: the older name of the base, and its value where config.json has none.
    """
    parameters = _parameters(given)
    base = parameters.pop("rope_theta", given.number(base_name, base))
    if (fraction := parameters.pop("partial_rotary_factor", given.take("partial_rotary_factor", 1.0))) != 1:
        raise ModelError(f"partial_rotary_factor={fraction!r} is not supported in this architecture, only 1.0")
    return Rope(base=float(base), scaling=_scaling(parameters, given, n_ctx))


def read_partial_rope(given: Given, n_ctx: int) -> Rope:
    """The Rope of GPT-NeoX, which turns a quarter of a head unless told otherwise."""
    parameters = _parameters(given)
    base = parameters.pop("rope_theta", given.number("rotary_emb_base", 1e4))
    fraction = parameters.pop("partial_rotary_factor", given.number("rotary_pct", 0.25))
    return Rope(base=float(base), fraction=float(fraction), scaling=_scaling(parameters, given, n_ctx))


def read_two_ropes(given: Given, n_ctx: int, *, windows: bool) -> Rope:
    """The Rope of Gemma 3, with a base of their own for layers that have a window, if there are any."""
    nested = given.take("rope_parameters", {})
    whole, local = (dict(nested.get(kind) or {}) for kind in ("full_attention", "sliding_attention"))
    if unknown := sorted(set(nested) - {"full_attention", "sliding_attention"}):
        raise ModelError(f"rope_parameters.{unknown[0]}={nested[unknown[0]]!r} is not supported here")
    whole |= given.take("rope_scaling", {})
    base = whole.pop("rope_theta", given.number("rope_theta", 1e6))
    local_base = local.pop("rope_theta", given.number("rope_local_base_freq", 1e4))
    if _scaling(local, given, n_ctx) is not None:
        raise ModelError(
            f"rope_parameters.sliding_attention={local!r} is not supported: layers with a window are plain"
        )
    scaling = _scaling(whole, given, n_ctx)
    return Rope(base=float(base), local_base=float(local_base) if windows else None, scaling=scaling)


def written_rope(rope: Rope) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling`, which every version of transformers reads."""
    found: dict[str, Any] = {"rope_theta": rope.base}
    scaling = rope.scaling
    if isinstance(scaling, LinearScaling):
        found["rope_scaling"] = {"rope_type": "linear", "factor": scaling.factor}
    elif scaling is not None:
        kind = "llama3" if isinstance(scaling, Llama3Scaling) else "yarn"
        options = {name: value for name, value in vars(scaling).items() if value is not None}
        options["original_max_position_embeddings"] = options.pop("original_n_ctx")
        found["rope_scaling"] = {"rope_type": kind, **options}
    return found


def _parameters(given: Given) -> dict[str, Any]:
    new, old = given.take("rope_parameters", {}), given.take("rope_scaling", {})
    found = old or new
    if not isinstance(found, dict) or any(isinstance(value, dict) for value in found.values()):
        raise ModelError(f"rope_parameters={found!r} is not supported: one set of options for all layers is read")
    return dict(found)


def _scaling(parameters: dict[str, Any], given: Given, n_ctx: int):
    """The scaling that the options name; `parameters` no longer holds the base."""
    older = parameters.pop("type", "default")
    kind = parameters.pop("rope_type", older)
    if kind not in _OPTIONS:
        raise ModelError(f"rope_type={kind!r} is not supported: supported are {', '.join(_OPTIONS)}")
    options = {name: _as_float(name, value) for name, value in parameters.items() if value is not None}
    if unknown := sorted(set(options) - _OPTIONS[kind]):
        raise ModelError(f"{unknown[0]}={options[unknown[0]]!r} is not supported with rope_type={kind!r}")
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(factor=_factor(options, kind))
    original = given.whole("original_max_position_embeddings", options.pop("original_max_position_embeddings", n_ctx))
    if kind == "llama3":
        for name in ("low_freq_factor", "high_freq_factor"):
            if name not in options:
                raise ModelError(f"rope_type='llama3' names no {name}")
        return Llama3Scaling(original_n_ctx=original, **{"factor": _factor(options, kind), **options})
    return _yarn(options, original)


def _as_float(name: str, value: Any) -> Any:
    return float(value) if type(value) is int and name != "original_max_position_embeddings" else value


def _factor(options: dict[str, Any], kind: str) -> float:
    if not isinstance(factor := options.get("factor"), float):
        raise ModelError(f"rope_type={kind!r} needs a factor, not {factor!r}")
    return factor


def _yarn(options: dict[str, Any], original: int) -> YarnScaling:
    factor = _factor(options, "yarn")
    attention, up, down = (options.pop(name, None) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    if attention is None and up and down:  # DeepSeek's way to name it
        plain = YarnScaling(factor, original).amplitude - 1
        attention = (1 + up * plain) / (1 + down * plain)
    return YarnScaling(original_n_ctx=original, attention_factor=attention, **{**options, "factor": factor})
