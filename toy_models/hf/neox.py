"""GPT-NeoX and Pythia: rotary positions on a part of each head, LayerNorm, attention and MLP in parallel, and one fused
tensor whose rows are ordered by head first: query, key and value of head 0, then of head 1."""

from math import sqrt

from toy_models.config import ACTIVATIONS as OURS
from toy_models.config import TransformerConfig
from toy_models.errors import ModelError
from toy_models.hf.family import PLAIN, Biases, Entry, Family
from toy_models.hf.given import ACTIVATIONS, Given
from toy_models.hf.rope import read_partial_rope, written_rope


def _options(given: Given) -> tuple[dict, Biases]:
    d_model, n_heads = given.whole("hidden_size"), given.whole("num_attention_heads")
    d_vocab, n_ctx = given.whole("vocab_size"), given.whole("max_position_embeddings")
    rope = read_partial_rope(given, n_ctx)
    if (turned := int(d_model // n_heads * rope.fraction)) != rope.d_rotary(d_model // n_heads) or turned % 2:
        raise ModelError(f"rotary_pct={rope.fraction} of {d_model // n_heads} coordinates a head is not an even number")
    biased = given.flag("attention_bias", True)
    options = {
        **{"n_heads": n_heads, "d_model": d_model, "d_vocab": d_vocab, "n_ctx": n_ctx, "position": rope},
        "n_layers": given.whole("num_hidden_layers"),
        "d_mlp": given.whole("intermediate_size"),
        "act_fn": given.one_of("hidden_act", ACTIVATIONS, "gelu"),
        "eps": given.number("layer_norm_eps", 1e-5),
        "parallel_attn_mlp": given.flag("use_parallel_residual", True),
        "tie_word_embeddings": given.flag("tie_word_embeddings", False),
        "bos_id": given.bos(d_vocab),
    }
    return options, Biases(qkv=biased, output=biased)


def _entries(config: TransformerConfig, biases: Biases):
    outside = [
        Entry("embed.W_E", "embed_in.weight", "d_vocab d_model -> d_vocab d_model"),
        Entry("ln_final.w", "final_layer_norm.weight"),
        Entry("ln_final.b", "final_layer_norm.bias"),
        Entry("unembed.W_U", "embed_out.weight", "d_vocab d_model -> d_model d_vocab"),
    ]
    inside = []
    qkv = "layers.{}.attention.query_key_value"
    for part, letter in enumerate("QKV"):
        layout = "(head part d_head) d_model -> part head d_model d_head"
        inside.append(Entry(f"blocks.{{}}.attn.W_{letter}", f"{qkv}.weight", layout, part))
        if biases.qkv:
            layout = "(head part d_head) -> part head d_head"
            inside.append(Entry(f"blocks.{{}}.attn.b_{letter}", f"{qkv}.bias", layout, part))
    dense = "layers.{}.attention.dense"
    inside.append(Entry("blocks.{}.attn.W_O", f"{dense}.weight", "d_model (head d_head) -> head d_head d_model"))
    if biases.output:
        inside.append(Entry("blocks.{}.attn.b_O", f"{dense}.bias"))
    for ours, theirs in (("ln1", "input_layernorm"), ("ln2", "post_attention_layernorm")):
        inside.append(Entry(f"blocks.{{}}.{ours}.w", f"layers.{{}}.{theirs}.weight"))
        inside.append(Entry(f"blocks.{{}}.{ours}.b", f"layers.{{}}.{theirs}.bias"))
    for ours, theirs, layout in (
        ("in", "dense_h_to_4h", "d_mlp d_model -> d_model d_mlp"),
        ("out", "dense_4h_to_h", "d_model d_mlp -> d_mlp d_model"),
    ):
        inside.append(Entry(f"blocks.{{}}.mlp.W_{ours}", f"layers.{{}}.mlp.{theirs}.weight", layout))
        inside.append(Entry(f"blocks.{{}}.mlp.b_{ours}", f"layers.{{}}.mlp.{theirs}.bias"))
    return outside, inside


def _refuses(config: TransformerConfig) -> str | None:
    if config.n_heads * config.d_head != config.d_model:
        return f"d_head={config.d_head} must be d_model / n_heads = {config.d_model / config.n_heads:g}"
    if config.n_key_value_heads != config.n_heads:
        return f"n_key_value_heads={config.n_key_value_heads} must equal n_heads={config.n_heads}"
    if config.attn_scale != sqrt(config.d_head):
        return f"attn_scale={config.attn_scale} must be sqrt(d_head)={sqrt(config.d_head)}"
    if config.position.d_rotary(config.d_head) != int(config.d_head * config.position.fraction):
        return f"fraction={config.position.fraction} of d_head={config.d_head} must be a whole number"
    return None


def _written(config: TransformerConfig, biases: Biases) -> dict:
    rope = written_rope(config.position)
    return {
        **{"hidden_size": config.d_model, "num_attention_heads": config.n_heads, "vocab_size": config.d_vocab},
        **{"num_hidden_layers": config.n_layers, "intermediate_size": config.d_mlp, "hidden_act": config.act_fn},
        **{"max_position_embeddings": config.n_ctx, "layer_norm_eps": config.eps},
        **{"use_parallel_residual": config.parallel_attn_mlp, "attention_bias": True},
        **{"rotary_emb_base": rope.pop("rope_theta"), "rotary_pct": config.position.fraction, **rope},
        **{"attention_dropout": 0.0, "hidden_dropout": 0.0},
    }


NEOX = Family(
    architecture="GPTNeoXForCausalLM",
    model_type="gpt_neox",
    prefix="gpt_neox.",
    head="embed_out.weight",
    options=_options,
    entries=_entries,
    able={
        **{**PLAIN, "parallel_attn_mlp": (False, True)},
        **{"position": ("Rope",), "normalization_type": ("LN",), "act_fn": OURS},
    },
    refuses=_refuses,
    holds=lambda biases: Biases(qkv=True, output=True),
    written=_written,
    buffers=r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
)
