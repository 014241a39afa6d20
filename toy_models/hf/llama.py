"""Llama, Mistral (a window), Qwen2 (biases on queries, keys and values) and Qwen3 (norms on queries and keys)."""

from toy_models.config import ACTIVATIONS as OURS
from toy_models.config import TransformerConfig
from toy_models.hf import decoder
from toy_models.hf.family import PLAIN, Biases, Family
from toy_models.hf.given import ACTIVATIONS, Given
from toy_models.hf.rope import read_rope, written_rope


def _common(given: Given, **defaults: int) -> dict:
    options = decoder.sizes_of(given, **defaults)
    return options | {
        "act_fn": given.one_of("hidden_act", ACTIVATIONS, "silu"),
        "tie_word_embeddings": given.flag("tie_word_embeddings", False),
        "position": read_rope(given, options["n_ctx"]),
    }


def _llama(given: Given) -> tuple[dict, Biases]:
    given.only(mlp_bias=False)
    biased = given.flag("attention_bias", False)
    return _common(given), Biases(qkv=biased, output=biased)


def _mistral(given: Given) -> tuple[dict, Biases]:
    return _common(given, n_kv=8) | {"window": decoder.sliding_window(given)}, Biases()


def _qwen_window(given: Given, n_layers: int):
    used, first = given.flag("use_sliding_window", False), given.whole("max_window_layers", 28, least=0)
    window = decoder.sliding_window(given)
    window = window if used else None
    kinds = ["sliding_attention" if window and layer >= first else "full_attention" for layer in range(n_layers)]
    return decoder.windows(decoder.layer_types(given, n_layers, kinds), window)


def _qwen2(given: Given) -> tuple[dict, Biases]:
    given.only(use_mrope=False)
    options = _common(given, n_kv=32)
    return options | {"window": _qwen_window(given, options["n_layers"])}, Biases(qkv=True)


def _qwen3(given: Given) -> tuple[dict, Biases]:
    biased = given.flag("attention_bias", False)
    options = _common(given, head_dim=128, n_kv=32) | {"use_qk_norm": True}
    return options | {"window": _qwen_window(given, options["n_layers"])}, Biases(qkv=biased, output=biased)


def _refuses_mistral(config: TransformerConfig) -> str | None:
    if len(set(config.windows)) > 1:
        return f"window={config.window} must be the same in all layers"
    return decoder.refuses_plain(config)


def _written(config: TransformerConfig, biases: Biases) -> dict:
    return {**decoder.written_sizes(config), "hidden_act": config.act_fn, **written_rope(config.position)}


def _written_biased(config: TransformerConfig, biases: Biases) -> dict:
    return {**_written(config, biases), "attention_bias": biases.output}


def _written_mistral(config: TransformerConfig, biases: Biases) -> dict:
    return {**_written(config, biases), "sliding_window": decoder.the_window(config)}


def _written_qwen2(config: TransformerConfig, biases: Biases) -> dict:
    window = decoder.the_window(config)
    found = {"use_sliding_window": window is not None, "layer_types": decoder.written_layer_types(config)}
    return {**_written(config, biases), **found, **({"sliding_window": window} if window else {})}


def _written_qwen3(config: TransformerConfig, biases: Biases) -> dict:
    return {**_written_qwen2(config, biases), "attention_bias": biases.output}


_SHARED = {
    **{"prefix": "model.", "entries": decoder.entries, "buffers": decoder.BUFFERS},
    **{"refuses": decoder.refuses_plain, "holds": decoder.both_or_none, "written": _written},
}
_ABLE = {**PLAIN, "position": ("Rope",), "normalization_type": ("RMS",), "gated_mlp": (True,), "act_fn": OURS}
_ANY_WINDOW = {name: values for name, values in _ABLE.items() if name != "window"}


LLAMA = Family(
    "LlamaForCausalLM",
    "llama",
    options=_llama,
    able=_ABLE,
    # Biases on queries, keys and values alone would fit, with zeros beside them: they are Qwen2's.
    **_SHARED
    | {"written": _written_biased, "holds": lambda b: None if b == Biases(qkv=True) else decoder.both_or_none(b)},
)
MISTRAL = Family(
    "MistralForCausalLM",
    "mistral",
    options=_mistral,
    able=_ANY_WINDOW,
    **_SHARED
    | {"written": _written_mistral, "refuses": _refuses_mistral, "holds": lambda b: None if b != Biases() else b},
)
QWEN2 = Family(
    "Qwen2ForCausalLM",
    "qwen2",
    options=_qwen2,
    able=_ANY_WINDOW,
    **_SHARED | {"written": _written_qwen2, "holds": lambda b: None if b.output else Biases(qkv=True)},
)
QWEN3 = Family(
    "Qwen3ForCausalLM",
    "qwen3",
    options=_qwen3,
    able={**_ANY_WINDOW, "use_qk_norm": (True,)},
    **_SHARED | {"written": _written_qwen3},
)
