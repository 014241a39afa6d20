"""GPT-2: learned positions, LayerNorm, one fused tensor for queries, keys and values, weights as [in, out]."""

from math import sqrt

from toy_models.config import ACTIVATIONS as OURS
from toy_models.config import TransformerConfig
from toy_models.hf.family import PLAIN, Biases, Entry, Family
from toy_models.hf.given import ACTIVATIONS, Given


def _options(given: Given) -> tuple[dict, Biases]:
    given.only(scale_attn_by_inverse_layer_idx=False)
    d_model, n_heads, d_vocab = given.whole("n_embd"), given.whole("n_head"), given.whole("vocab_size")
    given.only(n_ctx=(n_ctx := given.whole("n_positions")))
    scaled = given.flag("scale_attn_weights", True)
    options = {
        "n_layers": given.whole("n_layer"),
        **{"n_heads": n_heads, "d_model": d_model, "d_vocab": d_vocab, "n_ctx": n_ctx},
        "d_mlp": given.whole("n_inner", 4 * d_model),
        "act_fn": given.one_of("activation_function", ACTIVATIONS, "gelu_new"),
        "eps": given.number("layer_norm_epsilon", 1e-5),
        "attn_scale": None if scaled else 1.0,
        "tie_word_embeddings": given.flag("tie_word_embeddings", True),
        "bos_id": given.bos(d_vocab),
        "position": "learned",
    }
    return options, Biases(qkv=True, output=True)


def _entries(config: TransformerConfig, biases: Biases):
    qkv = "d_model (part head d_head) -> part head d_model d_head"
    outside = [
        Entry("embed.W_E", "wte.weight", "d_vocab d_model -> d_vocab d_model"),
        Entry("pos_embed.W_pos", "wpe.weight", "pos d_model -> pos d_model", longer=True),
        Entry("ln_final.w", "ln_f.weight"),
        Entry("ln_final.b", "ln_f.bias"),
        Entry("unembed.W_U", "lm_head.weight", "d_vocab d_model -> d_model d_vocab"),
    ]
    inside = []
    for part, letter in enumerate("QKV"):
        inside.append(Entry(f"blocks.{{}}.attn.W_{letter}", "h.{}.attn.c_attn.weight", qkv, part))
        layout = "(part head d_head) -> part head d_head"
        inside.append(Entry(f"blocks.{{}}.attn.b_{letter}", "h.{}.attn.c_attn.bias", layout, part))
    inside += [
        Entry("blocks.{}.ln1.w", "h.{}.ln_1.weight"),
        Entry("blocks.{}.ln1.b", "h.{}.ln_1.bias"),
        Entry("blocks.{}.attn.W_O", "h.{}.attn.c_proj.weight", "(head d_head) d_model -> head d_head d_model"),
        Entry("blocks.{}.attn.b_O", "h.{}.attn.c_proj.bias"),
        Entry("blocks.{}.ln2.w", "h.{}.ln_2.weight"),
        Entry("blocks.{}.ln2.b", "h.{}.ln_2.bias"),
        Entry("blocks.{}.mlp.W_in", "h.{}.mlp.c_fc.weight", "d_model d_mlp -> d_model d_mlp"),
        Entry("blocks.{}.mlp.b_in", "h.{}.mlp.c_fc.bias"),
        Entry("blocks.{}.mlp.W_out", "h.{}.mlp.c_proj.weight", "d_mlp d_model -> d_mlp d_model"),
        Entry("blocks.{}.mlp.b_out", "h.{}.mlp.c_proj.bias"),
    ]
    return outside, inside


def _refuses(config: TransformerConfig) -> str | None:
    if config.n_heads * config.d_head != config.d_model:
        return f"d_head={config.d_head} must be d_model / n_heads = {config.d_model / config.n_heads:g}"
    if config.n_key_value_heads != config.n_heads:
        return f"n_key_value_heads={config.n_key_value_heads} must equal n_heads={config.n_heads}"
    if config.attn_scale not in (1.0, sqrt(config.d_head)):
        return f"attn_scale={config.attn_scale} must be sqrt(d_head) or 1"
    return None


def _written(config: TransformerConfig, biases: Biases) -> dict:
    return {
        **{"n_layer": config.n_layers, "n_head": config.n_heads, "n_embd": config.d_model},
        **{"vocab_size": config.d_vocab, "n_positions": config.n_ctx, "n_inner": config.d_mlp},
        **{"activation_function": config.act_fn, "layer_norm_epsilon": config.eps},
        "scale_attn_weights": config.attn_scale == sqrt(config.d_head),
        **{"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    }


GPT2 = Family(
    architecture="GPT2LMHeadModel",
    model_type="gpt2",
    prefix="transformer.",
    options=_options,
    entries=_entries,
    able={**PLAIN, "position": ("Learned",), "normalization_type": ("LN",), "act_fn": OURS},
    refuses=_refuses,
    holds=lambda biases: Biases(qkv=True, output=True),
    written=_written,
    buffers=r"h\.\d+\.attn\.(bias|masked_bias)",
)
