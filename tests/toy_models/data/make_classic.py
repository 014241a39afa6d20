"""Record what classic TransformerLens computes, one small .npz per case, beside this file.

Run it with transformer-lens 2.16.1 installed (the last line of releases with `HookedTransformer`):

    python make_classic.py

Each file holds `config` (JSON, in the keyword names of `TransformerConfig`), `tokens` (batch, pos), `logits`,
`loss` (nats; absent where there is none), `state/<name>` (the classic state dict, buffers included) and
`act/<hook>` (activations).  The seed of a case is its place in the table, so a case may be added at the end
without changing the others.
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

SHAPE = {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_head": 4, "d_mlp": 12, "d_vocab": 11, "n_ctx": 12}
ROPE = {"name": "rope", "base": 10000.0, "fraction": 1.0}
CASES = {
    "ln_gelu_learned": {},
    "rms_silu_gated_rope": {
        "normalization_type": "RMS",
        "act_fn": "silu",
        "gated_mlp": True,
        "position": {**ROPE, "base": 500.0},
    },
    "relu_no_norm": {"normalization_type": None, "act_fn": "relu"},
    "gelu_new_half_rope": {"d_head": 8, "act_fn": "gelu_new", "position": {**ROPE, "fraction": 0.5}},
    "shortformer_attn_only": {"d_mlp": 0, "position": {"name": "shortformer"}, "n_heads": 4},
    "shortformer_mlp": {"position": {"name": "shortformer"}, "normalization_type": "RMS"},
    "bidirectional": {"causal": False},
    "narrow_unembed": {"d_vocab_out": 5},
    "gqa_rope": {"n_heads": 4, "n_key_value_heads": 2, "normalization_type": "RMS", "position": ROPE},
    "window": {"window": 4},
    "attn_scale": {"attn_scale": 1.5},
    "attn_only_no_norm_no_biases": {"d_mlp": 0, "normalization_type": None},
    "odd_shapes_large_eps": {"n_heads": 3, "d_head": 6, "eps": 0.25},
    "float64_ln": {"dtype": "float64"},
    "float64_gqa_window_rope": {
        "dtype": "float64",
        "n_heads": 4,
        "n_key_value_heads": 1,
        "window": 3,
        "position": {**ROPE, "base": 20.0},
        "gated_mlp": True,
        "act_fn": "gelu",
    },
    "alibi": {"n_heads": 6, "position": {"name": "alibi"}},
}
POSITIONS = {"learned": "standard", "rope": "rotary", "shortformer": "shortformer", "alibi": "alibi"}
HOOKS = (
    "blocks.0.hook_resid_mid",
    "blocks.1.ln1.hook_normalized",
    "blocks.1.attn.hook_attn_scores",
    "blocks.1.attn.hook_pattern",
    "blocks.1.attn.hook_z",
    "blocks.1.mlp.hook_post",
    "blocks.1.hook_resid_post",
    "ln_final.hook_normalized",
)


def classic_config(ours: dict) -> HookedTransformerConfig:
    """The same model in the words of HookedTransformerConfig."""
    plain = ("n_layers", "n_heads", "d_model", "d_head", "d_vocab", "n_ctx", "n_key_value_heads", "eps", "gated_mlp")
    words = {name: ours[name] for name in (*plain, "d_vocab_out", "attn_scale") if name in ours}
    position = ours.get("position", {"name": "learned"})
    words["positional_embedding_type"] = POSITIONS[position["name"]]
    if position["name"] == "rope":
        words["rotary_base"] = int(position["base"])
        words["rotary_dim"] = int(ours["d_head"] * position["fraction"])
    if "window" in ours:
        words.update(use_local_attn=True, attn_types=["local"] * ours["n_layers"], window_size=ours["window"])
    return HookedTransformerConfig(
        **words,
        d_mlp=ours["d_mlp"] or None,
        attn_only=ours["d_mlp"] == 0,
        act_fn=ours.get("act_fn", "gelu"),
        normalization_type=ours.get("normalization_type", "LN"),
        attention_dir="causal" if ours.get("causal", True) else "bidirectional",
        dtype=getattr(torch, ours.get("dtype", "float32")),
        device="cpu",
    )


@torch.no_grad()
def perturb(model: HookedTransformer, with_biases: bool) -> None:
    """Every parameter random, so that none can be left out unnoticed: gains about one, the rest about zero."""
    for name, weight in model.named_parameters():
        kind = name.rsplit(".", 1)[-1]
        noise = torch.randn(weight.shape, dtype=torch.float64)
        if kind == "w":
            weight.copy_(1 + 0.3 * noise)
        elif kind.lstrip("_").startswith("W"):
            weight.copy_(noise * (1.5 / model.cfg.d_model**0.5))
        else:
            weight.copy_(0.5 * noise if with_biases else 0 * noise)


@torch.no_grad()
def record(name: str, seed: int) -> None:
    ours = {**SHAPE, **CASES[name]}
    torch.manual_seed(seed)
    model = HookedTransformer(classic_config(ours)).eval()
    perturb(model, with_biases=not name.endswith("no_biases"))
    tokens = torch.randint(0, ours["d_vocab"], (3, 9))
    logits, cache = model.run_with_cache(tokens)
    arrays = {"config": np.array(json.dumps(ours)), "tokens": tokens.numpy(), "logits": logits.numpy()}
    if "d_vocab_out" not in ours:
        arrays["loss"] = model(tokens, return_type="loss").numpy()
    # Classic alibi models carry a table of positions that nothing reads; ours refuse a weight too many.
    unread = {"pos_embed.W_pos"} if ours.get("position", {}).get("name") == "alibi" else set()
    arrays |= {f"state/{key}": value.numpy() for key, value in model.state_dict().items() if key not in unread}
    arrays |= {f"act/{hook}": cache[hook].numpy() for hook in HOOKS if hook in cache}
    np.savez_compressed(Path(__file__).with_name(f"{name}.npz"), **arrays)


if __name__ == "__main__":
    for seed, name in enumerate(CASES):
        record(name, seed)
