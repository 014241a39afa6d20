"""The specification: attention with the (query, key) pattern held in memory.

Slow and plain; every other backend is tested against it.  The model calls `scores` and `mix`
itself, with its hooks between them, whenever somebody listens.
"""

import torch
from jaxtyping import Bool, Float

from toy_models.attention.masks import visible_keys


def scores(
    q: Float[torch.Tensor, "batch query head d_head"],
    k: Float[torch.Tensor, "batch key kv_head d_head"],
    visible: Bool[torch.Tensor, "#batch 1 query key"],
    scale: float,
    bias: Float[torch.Tensor, "head query key"] | None = None,
) -> Float[torch.Tensor, "batch head query key"]:
    """scale * q . k + bias, and -inf where the key is not visible.  16-bit inputs are scored in float32."""
    if q.dtype in (torch.float16, torch.bfloat16):
        q, k = q.float(), k.float()
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    raw = torch.einsum("bqhd,bkhd->bhqk", q * scale, k)
    if bias is not None:
        raw = raw + bias.to(raw.dtype)
    return raw.masked_fill(~visible, -torch.inf)


def softmax(scores: Float[torch.Tensor, "batch head query key"]) -> Float[torch.Tensor, "batch head query key"]:
    """Softmax over the keys; a row that is -inf throughout becomes zeros."""
    dead = torch.isneginf(scores).all(-1, keepdim=True)
    return scores.masked_fill(dead, 0.0).softmax(-1).masked_fill(dead, 0.0)


def mix(
    pattern: Float[torch.Tensor, "batch head query key"], v: Float[torch.Tensor, "batch key kv_head d_head"]
) -> Float[torch.Tensor, "batch query head d_head"]:
    """The values, averaged with the pattern's weights."""
    v = v.repeat_interleave(pattern.shape[1] // v.shape[2], dim=2)
    return torch.einsum("bhqk,bkhd->bqhd", pattern.to(v.dtype), v)


def attend(q, k, v, *, causal, window, scale, key_padding, bias):
    """See `toy_models.attention.attend`."""
    visible = visible_keys(
        q.shape[1], k.shape[1], causal=causal, window=window, key_padding=key_padding, device=q.device
    )
    return mix(softmax(scores(q, k, visible, scale, bias)), v)
