"""torch's fused scaled dot product attention: fast, and blind to the pattern."""

import torch
import torch.nn.functional as F

from toy_models.attention.masks import visible_keys
from toy_models.attention.options import Options


def refuses(q, k, options: Options) -> str | None:
    """torch's kernels know masks and biases, and nothing of rows."""
    if options.statistics:
        return "has no statistics"
    for name in ("score_cap", "sink_logit"):
        if getattr(options, name) is not None:
            return f"has no {name}"
    return None


def attend(q, k, v, options: Options):
    """See `toy_models.attention.attend`."""
    n_query, n_key = q.shape[1], k.shape[1]
    bias = _bias(q, k, options)
    plain = options.window is None and options.key_padding is None and bias is None
    # torch aligns its causal mask to the top left, which is ours only when queries and keys are as many.
    aligned = plain and options.causal and n_query == n_key
    unmasked = plain and (not options.causal or n_query == 1)
    visible = None
    if not (aligned or unmasked):
        masks = {name: getattr(options, name) for name in ("causal", "window", "key_padding")}
        visible = visible_keys(n_query, n_key, device=q.device, **masks)
    mask = visible
    if bias is not None:  # in the type of q, which every kernel takes
        mask = bias.to(q.dtype).masked_fill(~visible, -torch.inf)
    z = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        is_causal=aligned and n_query > 1,
        scale=options.scale,
        enable_gqa=q.shape[2] != k.shape[2],
    ).transpose(1, 2)
    if options.key_padding is None and (options.causal or n_query <= n_key):
        return z, None
    # What torch returns for a row with no visible key differs between its kernels: ours is zero.
    alive = visible.any(-1).transpose(1, 2)[..., None]
    return z.where(alive, z.new_zeros(())), None


def _bias(q, k, options: Options):
    """The penalty for distance, written out, and the bias that was given."""
    if options.alibi_slopes is None:
        return options.bias
    at = torch.arange(k.shape[1] - q.shape[1], k.shape[1], device=q.device)
    distance = (at[:, None] - torch.arange(k.shape[1], device=q.device)).abs()
    penalty = -options.alibi_slopes.to(q.device)[:, None, None] * distance
    return penalty if options.bias is None else penalty + options.bias
