"""Tiny random checkpoints of every architecture, made by transformers' own classes, with no parameter left special."""

from contextlib import contextmanager

import pytest
import torch

from toy_models.seeding import generator

VOCABULARY, N_CTX, LENGTH = 23, 40, 24
_LLAMA = {
    **{"vocab_size": VOCABULARY, "max_position_embeddings": N_CTX, "hidden_size": 16, "intermediate_size": 28},
    **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"bos_token_id": 0, "eos_token_id": None, "pad_token_id": None},
}
_QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
_GEMMA = {**_LLAMA, "head_dim": 6}
_GEMMA2 = {**_GEMMA, "sliding_window": 5, "query_pre_attn_scalar": 9}
_ORIGINAL = {"original_max_position_embeddings": 16}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, **_ORIGINAL}
_LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, **_ORIGINAL},
    **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
_LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
_GPT2 = {
    **{"vocab_size": VOCABULARY, "n_positions": N_CTX, "n_embd": 16, "n_layer": 2, "n_head": 2},
    **{"bos_token_id": 0, "eos_token_id": None},
}
_NEOX = {
    **{name: value for name, value in _LLAMA.items() if name != "num_key_value_heads"},
    **{"num_attention_heads": 2, "rotary_pct": 0.5},
}

# name: (family of classes in transformers, options of its config).
CASES = {
    "gpt2": ("GPT2", _GPT2),
    "gpt2_other_options": (
        "GPT2",
        {**_GPT2, "n_inner": 20, "activation_function": "relu", "tie_word_embeddings": False}
        | {"scale_attn_weights": False, "layer_norm_epsilon": 0.1},
    ),
    "neox": ("GPTNeoX", _NEOX),
    "neox_sequential": ("GPTNeoX", {**_NEOX, "use_parallel_residual": False, "attention_bias": False}),
    "llama": ("Llama", _LLAMA),
    "llama_biased_tied": (
        "Llama",
        {**_LLAMA, "attention_bias": True, "tie_word_embeddings": True, "head_dim": 6, "rms_norm_eps": 0.1},
    ),
    "llama_linear": ("Llama", {**_LLAMA, "rope_parameters": _LINEAR}),
    "llama_llama3": ("Llama", {**_LLAMA, "head_dim": 12, "rope_parameters": _LLAMA3}),
    "llama_yarn": ("Llama", {**_LLAMA, "head_dim": 12, "rope_parameters": _YARN}),
    "llama_yarn_options": (
        "Llama",
        {**_LLAMA, "head_dim": 12}
        | {
            "rope_parameters": {**_YARN, "attention_factor": 0.7, "beta_fast": 4.0, "beta_slow": 2.0, "truncate": False}
        },
    ),
    "llama_yarn_mscale": (
        "Llama",
        {**_LLAMA, "head_dim": 12, "rope_parameters": {**_YARN, "mscale": 2.0, "mscale_all_dim": 0.5}},
    ),
    "mistral": ("Mistral", {**_LLAMA, "sliding_window": 6}),
    "mistral_without_window": ("Mistral", {**_LLAMA, "sliding_window": None}),
    "qwen2": ("Qwen2", _LLAMA),
    "qwen2_windows": ("Qwen2", {**_LLAMA, **_QWEN_WINDOW}),
    "qwen3": ("Qwen3", {**_LLAMA, "head_dim": 6}),
    "qwen3_biased_windows": ("Qwen3", {**_LLAMA, **_QWEN_WINDOW, "head_dim": 8, "attention_bias": True}),
    "gemma": ("Gemma", _GEMMA),
    "gemma2": (
        "Gemma2",
        {**_GEMMA2, "num_hidden_layers": 3, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma2_without_caps": (
        "Gemma2",
        {**_GEMMA2, "attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True},
    ),
    "gemma3": (
        "Gemma3",
        {**_GEMMA2, "num_hidden_layers": 3}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
        | {"rope_parameters": {"full_attention": _LINEAR, "sliding_attention": {"rope_theta": 50.0}}},
    ),
    "gemma3_six_of_seven_windows": ("Gemma3", {**_GEMMA2, "num_hidden_layers": 7, "final_logit_softcapping": 3.0}),
}


def config_of(case: str):
    """transformers' config of a case."""
    import transformers

    family, options = CASES[case]
    kind = "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
    # It works on the options it is given, in place.
    copied = {name: value.copy() if isinstance(value, dict | list) else value for name, value in options.items()}
    if isinstance(copied.get("rope_parameters"), dict):
        copied["rope_parameters"] = {
            name: value.copy() if isinstance(value, dict) else value
            for name, value in copied["rope_parameters"].items()
        }
    dropout = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0} if family == "GPT2" else {}
    return getattr(transformers, kind)(**dropout, **copied, attn_implementation="eager")


def theirs(case: str, dtype: torch.dtype = torch.float32, seed: int = 0):
    """transformers' model of a case: random weights, none of them special, in eval mode."""
    import transformers

    family, _ = CASES[case]
    kind = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    model = getattr(transformers, kind)(config_of(case)).to(dtype).eval()
    noise = generator(seed, case)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape, generator=noise, dtype=torch.float64)
            around = 0.0 if weight.ndim > 1 or name.endswith("bias") else weight.flatten()[0].item()
            weight.copy_((around + 0.4 * drawn).to(dtype))
    return model


@contextmanager
def lifted():
    """transformers' models made and run in here compute in float64 where they would cast to float32."""
    wide = pytest.MonkeyPatch()
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        wide.setattr(torch.Tensor, "float", torch.Tensor.double)
        wide.setattr(torch, "float32", torch.float64)
        wide.setattr(torch, "float", torch.float64)
        yield
    finally:
        wide.undo()
        torch.set_default_dtype(before)
