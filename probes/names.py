"""Hook names, in one place: `pattern(3) == "blocks.3.attn.hook_pattern"`."""

EMBED = "hook_embed"  # rows of W_E, (batch, pos, d_model)
POS_EMBED = "hook_pos_embed"  # positions added to the stream, (batch, pos, d_model); RoPE has none
FINAL_SCALE = "ln_final.hook_scale"  # what the final norm divides by, (batch, pos, 1)


def pattern(layer: int) -> str:
    """Attention weights, (batch, head, query, key)."""
    return f"blocks.{layer}.attn.hook_pattern"


def scores(layer: int) -> str:
    """Pre-softmax scores, (batch, head, query, key)."""
    return f"blocks.{layer}.attn.hook_attn_scores"


def z(layer: int) -> str:
    """Values mixed by the pattern, before W_O, (batch, pos, head, d_head)."""
    return f"blocks.{layer}.attn.hook_z"


def mlp_out(layer: int) -> str:
    """What the MLP adds to the stream, (batch, pos, d_model)."""
    return f"blocks.{layer}.hook_mlp_out"


def resid_pre(layer: int) -> str:
    """The residual stream before a block, (batch, pos, d_model)."""
    return f"blocks.{layer}.hook_resid_pre"


def resid_post(layer: int) -> str:
    """The residual stream after a block, (batch, pos, d_model)."""
    return f"blocks.{layer}.hook_resid_post"
