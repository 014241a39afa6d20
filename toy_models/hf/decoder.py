"""What Llama and its descendants share: the names of their tensors, weights as [out, in], RMSNorm, a gated MLP."""

from math import sqrt

from toy_models.config import TransformerConfig
from toy_models.errors import ModelError
from toy_models.hf.family import Biases, Entry
from toy_models.hf.given import Given

BUFFERS = r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"


def sizes_of(given: Given, *, head_dim: int | None = None, n_kv: int | None = None) -> dict:
    """Options that all of them have; `head_dim` and `n_kv` where the defaults are not d_model / n_heads and n_heads."""
    d_model, n_heads = given.whole("hidden_size"), given.whole("num_attention_heads")
    if (d_head := given.whole("head_dim", head_dim)) is None and d_model % n_heads:
        raise ModelError(f"hidden_size={d_model} does not split over num_attention_heads={n_heads}")
    return {
        **{"d_model": d_model, "n_heads": n_heads, "n_layers": given.whole("num_hidden_layers")},
        **{"d_vocab": (d_vocab := given.whole("vocab_size")), "n_ctx": given.whole("max_position_embeddings")},
        "d_head": d_head,
        "n_key_value_heads": given.whole("num_key_value_heads", n_heads if given.null("num_key_value_heads") else n_kv),
        "d_mlp": given.whole("intermediate_size"),
        "eps": given.number("rms_norm_eps", 1e-6),
        "bos_id": given.bos(d_vocab),
        **{"normalization_type": "RMS", "gated_mlp": True},
    }


def layer_types(given: Given, n_layers: int, default: list[str]) -> list[bool]:
    """Per layer, whether it has a window."""
    kinds = given.take("layer_types", default)
    if not isinstance(kinds, list) or len(kinds) != n_layers:
        raise ModelError(f"layer_types={kinds!r} must have one entry for each of num_hidden_layers={n_layers}")
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise ModelError(f"layer_types names {kind!r}: supported are full_attention and sliding_attention")
    return [kind == "sliding_attention" for kind in kinds]


def windows(local: list[bool], window: int | None):
    """TransformerConfig's `window`: one for all layers where they agree."""
    each = tuple(window if has_one else None for has_one in local)
    return each[0] if len(set(each)) == 1 else each


def written_layer_types(config: TransformerConfig) -> list[str]:
    """The inverse of `layer_types`."""
    return ["full_attention" if window is None else "sliding_attention" for window in config.windows]


def the_window(config: TransformerConfig) -> int | None:
    """The one window of those layers that have any."""
    return next((window for window in config.windows if window is not None), None)


def entries(config: TransformerConfig, biases: Biases) -> tuple[list[Entry], list[Entry]]:
    """Of all of them: what a config does not have, it has no entry for."""
    outside = [
        Entry("embed.W_E", "embed_tokens.weight", "d_vocab d_model -> d_vocab d_model"),
        Entry("ln_final.w", "norm.weight"),
        Entry("unembed.W_U", "lm_head.weight", "d_vocab d_model -> d_model d_vocab"),
    ]
    norms = {"ln1": "input", "ln2": "post_attention"}
    if config.use_normalization_before_and_after:  # Gemma 2 gave one of the old names to another norm
        norms = {"ln1": "input", "ln1_post": "post_attention", "ln2": "pre_feedforward", "ln2_post": "post_feedforward"}
    inside = [Entry(f"blocks.{{}}.{ln}.w", f"layers.{{}}.{theirs}_layernorm.weight") for ln, theirs in norms.items()]
    for letter, axis in (("Q", "head"), ("K", "kv_head"), ("V", "kv_head")):
        theirs = f"layers.{{}}.self_attn.{letter.lower()}_proj"
        layout = f"({axis} d_head) d_model -> {axis} d_model d_head"
        inside.append(Entry(f"blocks.{{}}.attn.W_{letter}", f"{theirs}.weight", layout))
        if biases.qkv:
            layout = f"({axis} d_head) -> {axis} d_head"
            inside.append(Entry(f"blocks.{{}}.attn.b_{letter}", f"{theirs}.bias", layout))
    theirs = "layers.{}.self_attn.o_proj"
    inside.append(Entry("blocks.{}.attn.W_O", f"{theirs}.weight", "d_model (head d_head) -> head d_head d_model"))
    if biases.output:
        inside.append(Entry("blocks.{}.attn.b_O", f"{theirs}.bias"))
    if config.use_qk_norm:
        inside += [Entry(f"blocks.{{}}.attn.{x}_norm.w", f"layers.{{}}.self_attn.{x}_norm.weight") for x in "qk"]
    for ours, theirs in (("W_gate", "gate_proj"), ("W_in", "up_proj")):
        names = f"blocks.{{}}.mlp.{ours}", f"layers.{{}}.mlp.{theirs}.weight"
        inside.append(Entry(*names, "d_mlp d_model -> d_model d_mlp"))
    inside.append(Entry("blocks.{}.mlp.W_out", "layers.{}.mlp.down_proj.weight", "d_model d_mlp -> d_mlp d_model"))
    return outside, inside


def written_sizes(config: TransformerConfig) -> dict:
    """The inverse of `sizes_of`."""
    return {
        **{"hidden_size": config.d_model, "num_attention_heads": config.n_heads, "head_dim": config.d_head},
        **{"num_hidden_layers": config.n_layers, "num_key_value_heads": config.n_key_value_heads},
        **{"vocab_size": config.d_vocab, "max_position_embeddings": config.n_ctx},
        **{"intermediate_size": config.d_mlp, "rms_norm_eps": config.eps, "attention_dropout": 0.0},
    }


def refuses(config: TransformerConfig) -> str | None:
    """What none of them can hold, save the scale of the scores and a base of their own for layers with a window."""
    if config.position.fraction != 1:
        return f"position={config.position} must turn whole heads, fraction=1"
    if len({window for window in config.windows if window is not None}) > 1:
        return f"window={config.window} must be the same in every layer that has one"
    return None


def refuses_plain(config: TransformerConfig) -> str | None:
    """What those cannot hold that divide scores by sqrt(d_head) and turn all layers alike."""
    if config.attn_scale != sqrt(config.d_head):
        return f"attn_scale={config.attn_scale} must be sqrt(d_head)={sqrt(config.d_head)}"
    if config.position.local_base is not None:
        return f"position={config.position} must turn all layers alike, local_base=None"
    return refuses(config)


def both_or_none(biases: Biases) -> Biases:
    """Of an architecture whose `attention_bias` speaks of all four."""
    any_at_all = biases.qkv or biases.output
    return Biases(qkv=any_at_all, output=any_at_all)


def sliding_window(given: Given) -> int | None:
    """The window in keys, none where config.json says null, 4096 where it says nothing."""
    none = given.null("sliding_window")
    window = given.whole("sliding_window", 4096)
    return None if none else window
