"""Hook names, in one place: `pattern(3) == "blocks.3.attn.hook_pattern"`."""


def pattern(layer: int) -> str:
    """Attention weights, (batch, head, query, key)."""
    return f"blocks.{layer}.attn.hook_pattern"


def scores(layer: int) -> str:
    """Pre-softmax scores, (batch, head, query, key)."""
    return f"blocks.{layer}.attn.hook_attn_scores"


def resid_post(layer: int) -> str:
    """The residual stream after a block, (batch, pos, d_model)."""
    return f"blocks.{layer}.hook_resid_post"
