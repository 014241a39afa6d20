"""Gemma: gains 1 + w, scaled embeddings.  Gemma 2: caps, four norms a layer, windows in turn.  Gemma 3: norms on
queries and keys, two rotary bases.  Text models only."""

from math import sqrt

from toy_models.config import TransformerConfig
from toy_models.errors import ModelError
from toy_models.hf import decoder
from toy_models.hf.family import PLAIN, Biases, Family
from toy_models.hf.given import ACTIVATIONS, Given
from toy_models.hf.rope import read_rope, read_two_ropes, written_rope


def _common(given: Given, **defaults: int) -> tuple[dict, Biases]:
    given.only(use_bidirectional_attention=False)
    options = decoder.sizes_of(given, head_dim=256, **defaults)
    biased = given.flag("attention_bias", False)
    options |= {
        "tie_word_embeddings": given.flag("tie_word_embeddings", True),
        "embed_scale": sqrt(options["d_model"]),
        "rmsnorm_uses_offset": True,
    }
    return options, Biases(qkv=biased, output=biased)


def _gemma(given: Given) -> tuple[dict, Biases]:
    options, biases = _common(given, n_kv=16)
    # The first releases said "gelu" and meant the tanh approximation; a later option said so.
    meanings = {**ACTIVATIONS, "gelu": "gelu_new"}
    act_fn = given.one_of("hidden_act", meanings, "gelu_pytorch_tanh")
    if (later := given.one_of("hidden_activation", meanings, "gelu_pytorch_tanh")) != act_fn:
        raise ModelError(f"hidden_act and hidden_activation disagree: {act_fn} and {later}")
    return options | {"act_fn": act_fn, "position": read_rope(given, options["n_ctx"])}, biases


def _later(given: Given, caps: dict[str, float | None]) -> tuple[dict, Biases]:
    options, biases = _common(given, n_kv=4)
    found = {}
    for name, cap in caps.items():
        off = given.null(name)
        value = given.number(name, cap)
        found[name] = None if off else value
    options |= {
        "act_fn": given.one_of("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh"),
        "attn_scale": sqrt(given.number("query_pre_attn_scalar", 256)),
        "attn_scores_soft_cap": found["attn_logit_softcapping"],
        "output_logits_soft_cap": found["final_logit_softcapping"],
        "use_normalization_before_and_after": True,
    }
    return options, biases


def _windows(given: Given, n_layers: int, whole_every: int):
    """All layers but one in `whole_every` have a window, unless `layer_types` says otherwise."""
    window = decoder.sliding_window(given)
    given.only(sliding_window_size=window)  # what some releases say beside it
    kinds = ["sliding_attention" if (layer + 1) % whole_every else "full_attention" for layer in range(n_layers)]
    return decoder.windows(decoder.layer_types(given, n_layers, kinds), window)


def _gemma2(given: Given) -> tuple[dict, Biases]:
    options, biases = _later(given, {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0})
    # Some releases name the activation twice.
    given.only(hidden_act="gelu_pytorch_tanh")
    window, rope = _windows(given, options["n_layers"], 2), read_rope(given, options["n_ctx"])
    return options | {"window": window, "position": rope}, biases


def _gemma3(given: Given) -> tuple[dict, Biases]:
    options, biases = _later(given, {"attn_logit_softcapping": None, "final_logit_softcapping": None})
    older = given.whole("_sliding_window_pattern", 6)
    window = _windows(given, options["n_layers"], given.whole("sliding_window_pattern", older))
    rope = read_two_ropes(given, options["n_ctx"], windows=window is not None)
    return options | {"window": window, "position": rope, "use_qk_norm": True}, biases


def _refuses(config: TransformerConfig) -> str | None:
    if config.embed_scale != sqrt(config.d_model):
        return f"embed_scale={config.embed_scale} must be sqrt(d_model)={sqrt(config.d_model)}"
    return decoder.refuses(config)


def _refuses_gemma(config: TransformerConfig) -> str | None:
    return _refuses(config) or decoder.refuses_plain(config)


def _refuses_gemma2(config: TransformerConfig) -> str | None:
    if config.position.local_base is not None:
        return f"position={config.position} must turn all layers alike, local_base=None"
    return _refuses(config)


def _refuses_gemma3(config: TransformerConfig) -> str | None:
    if (config.position.local_base is None) != all(window is None for window in config.windows):
        return f"position={config.position} must have a local_base for the layers with a window"
    return _refuses(config)


def _written(config: TransformerConfig, biases: Biases) -> dict:
    act_fn = "gelu_pytorch_tanh" if config.act_fn == "gelu_new" else config.act_fn
    found = {"hidden_act": act_fn, "hidden_activation": act_fn, "attention_bias": biases.output}
    return {**decoder.written_sizes(config), **found, **written_rope(config.position)}


def _written_later(config: TransformerConfig, biases: Biases) -> dict:
    found = _written(config, biases)
    del found["hidden_act"]
    return {
        **found,
        "query_pre_attn_scalar": _whole_if_whole(config.attn_scale**2),
        "attn_logit_softcapping": config.attn_scores_soft_cap,
        "final_logit_softcapping": config.output_logits_soft_cap,
        "layer_types": decoder.written_layer_types(config),
        "sliding_window": decoder.the_window(config) or config.n_ctx,
    }


def _whole_if_whole(value: float) -> int | float:
    return round(value) if abs(value - round(value)) < 1e-9 * value else value


def _written_gemma3(config: TransformerConfig, biases: Biases) -> dict:
    local = config.position.local_base
    return {**_written_later(config, biases), **({"rope_local_base_freq": local} if local is not None else {})}


_SHARED = {"prefix": "model.", "entries": decoder.entries, "buffers": decoder.BUFFERS, "holds": decoder.both_or_none}
_ABLE = {
    **{name: values for name, values in PLAIN.items() if name not in ("embed_scale",)},
    **{"position": ("Rope",), "normalization_type": ("RMS",), "rmsnorm_uses_offset": (True,), "gated_mlp": (True,)},
    "act_fn": ("gelu_new", "relu", "silu"),
}
_LATER = {
    **{
        name: v for name, v in _ABLE.items() if name not in ("window", "attn_scores_soft_cap", "output_logits_soft_cap")
    },
    "use_normalization_before_and_after": (True,),
}


GEMMA = Family(
    "GemmaForCausalLM",
    "gemma",
    options=_gemma,
    able=_ABLE,
    refuses=_refuses_gemma,
    written=_written,
    **_SHARED,
)
GEMMA2 = Family(
    "Gemma2ForCausalLM",
    "gemma2",
    options=_gemma2,
    able=_LATER,
    refuses=_refuses_gemma2,
    written=_written_later,
    **_SHARED,
)
GEMMA3 = Family(
    "Gemma3ForCausalLM",
    "gemma3_text",
    options=_gemma3,
    able={**_LATER, "use_qk_norm": (True,), "attn_scores_soft_cap": (None,)},
    refuses=_refuses_gemma3,
    written=_written_gemma3,
    **_SHARED,
)
