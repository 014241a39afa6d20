"""torch's fused scaled dot product attention: fast, and blind to the pattern."""

import torch
import torch.nn.functional as F

from toy_models.attention.masks import visible_keys
from toy_models.attention.options import Options


def refuses(q, k, options: Options) -> str | None:
    """torch's kernels know masks and biases, and nothing of rows."""
    if options.statistics:
        return "has no statistics"
    if options.score_cap is not None:
        return "has no score_cap"
    if options.sink_logit is not None and q.dtype.itemsize < 4:  # it would be rounded with the queries
        return f"has no sink_logit in {q.dtype}"
    return None


def attend(q, k, v, options: Options):
    """See `toy_models.attention.attend`."""
    n_query, n_key = q.shape[1], k.shape[1]
    bias = _bias(q, k, options)
    sink, width = options.sink_logit, v.shape[-1]
    plain = options.window is None and options.key_padding is None and bias is None and sink is None
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
    if sink is not None:
        q, k, v, mask = _with_virtual_key(q, k, v, mask, sink / options.scale)
    z = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        is_causal=aligned and n_query > 1,
        scale=options.scale,
        enable_gqa=q.shape[2] != k.shape[2],
    ).transpose(1, 2)[..., :width]
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


def _with_virtual_key(q, k, v, mask, product: torch.Tensor):
    """One key more, whose product with every query of a head is `product`, whose value is 0, and which all may see.

    It stands alone in a dimension of its own, so that the other scores stay as they are.
    """
    q = torch.cat([q, product.to(q)[:, None].expand(*q.shape[:-1], 1)], dim=-1)
    k, v = (F.pad(x, (0, 1, 0, 0, 0, 1)) for x in (k, v))
    k[:, -1, :, -1] = 1.0
    return q, k, v, F.pad(mask, (0, 1), value=True if mask.dtype == torch.bool else 0.0)
