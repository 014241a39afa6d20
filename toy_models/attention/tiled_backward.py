"""Gradients of the output and of the entropy, tile by tile, from scores that are computed once more.

For one row with weights p_j, output z = sum_j p_j v_j and entropy H = -sum_j p_j ln p_j, the derivative of
f = g . z + h H by a score is

    df/ds_j = p_j (g . v_j + c - h ln p_j),    c = -g . z - h H,

and the virtual key of a sink counts as one with v = 0.  These sum to 0 along a row, virtual key included.
"""

from functools import partial

import torch

from toy_models.attention.blocks import KEYS, LN2, Block, Head
from toy_models.attention.options import Options
from toy_models.attention.statistics import wide
from toy_models.attention.workers import share


def backward(q, k, v, options: Options, saved, grad_z, grad_entropy, wanted: dict[str, bool]) -> tuple:
    """Gradients of q, k, v, bias, sink_logit and alibi_slopes; of the last three where `wanted`, else None.

    Args:
        saved: z (batch, query, head, d_head); the rows' `base` and entropy (batch, head, query), entropy or None.
        grad_z: gradient of z, or None for 0.
        grad_entropy: gradient of the entropy, or None for 0.
    """
    (batch, _, heads, _), kv_heads = q.shape, k.shape[2]
    group, like = heads // kv_heads, {"dtype": wide(q.dtype), "device": q.device}
    z, base, entropy = saved
    grads = {name: torch.zeros(x.shape, **like) for name, x in (("q", q), ("k", k), ("v", v))}
    if wanted["bias"]:
        grads["bias"] = torch.zeros(options.bias.shape, **like)
    grads |= {name: torch.zeros(batch, heads, **like) for name in ("sink_logit", "alibi_slopes") if wanted[name]}

    def several(texts: range, kv_head: int) -> None:
        for b in texts:
            for h in range(kv_head * group, (kv_head + 1) * group):
                g = torch.zeros_like(z[b, :, h], **like) if grad_z is None else grad_z[b, :, h].to(**like)
                c = -(g * z[b, :, h]).sum(1)
                pull = None if grad_entropy is None else grad_entropy[b, h]
                c = c if pull is None else c - pull * entropy[b, h]
                into = {name: grads[name][b, :, kv_head] for name in ("k", "v")} | {"q": grads["q"][b, :, h]}
                into |= {"bias": grads["bias"][h]} if wanted["bias"] else {}
                into |= {name: grads[name][b, h] for name in ("sink_logit", "alibi_slopes") if wanted[name]}
                _add_head(Head.of(q, k, v, options, b, h), base[b, h], g, c, pull, into)

    # Those that add to the same gradient belong to one job: the order of a sum is that of the loop.
    texts = [range(batch)] if wanted["bias"] else [range(b, b + 1) for b in range(batch)]
    share([partial(several, part, kv_head) for part in texts for kv_head in range(kv_heads)], q.device)
    grads["k"] *= options.score_cap or LN2  # what the scaled queries lack
    grads |= {name: grads[name].sum(0) for name in ("sink_logit", "alibi_slopes") if wanted[name]}
    inputs = {"q": q, "k": k, "v": v, **{name: getattr(options, name) for name in wanted}}
    return tuple(grads[name].to(x.dtype) if name in grads else None for name, x in inputs.items())


def _add_head(head: Head, base, g, c, pull, into: dict[str, torch.Tensor]) -> None:
    """Add what one head contributes, with `pull` for h."""
    tiles = [piece for block in head.blocks() for tile in block.tiles(KEYS) for piece in head.pieces(tile)]
    buffers = head.q.new_empty(3, max((tile.size for tile in tiles), default=0))
    for tile in tiles:
        _add_tile(head, tile, buffers, base, g, c, pull, into)
    if head.sink is not None:
        bits = head.virtual - base
        slope = bits.exp2() * (c if pull is None else c - pull * bits * LN2)
        if "sink_logit" in into:
            into["sink_logit"] += slope.sum()
        if head.centre is not None:  # the keys lack it, and their derivatives sum to minus that of the virtual key
            into["q"].addr_(slope, head.centre, alpha=-1)
    into["q"] *= head.options.scale


def _add_tile(head: Head, tile: Block, buffers, base, g, c, pull, into: dict[str, torch.Tensor]) -> None:
    rows, keys = tile.rows, tile.keys
    x, slope, capped = (tile.of(buffer) for buffer in buffers)
    head.score(tile, x, capped)
    bits = x.sub_(base[rows, None])  # log2 p
    torch.mm(g[rows], head.v[keys].T, out=slope)
    slope.add_(c[rows, None])
    if pull is not None:
        slope.addcmul_(bits, pull[rows, None], value=-LN2)
    weights = bits.exp2_()
    slope.mul_(weights)
    into["v"][keys].addmm_(weights.T, g[rows])
    if "bias" in into:
        into["bias"][rows, keys] += slope
    if "alibi_slopes" in into:
        into["alibi_slopes"] -= (slope * head.distance(tile).abs_()).sum()
    if head.options.score_cap is not None:
        slope.mul_(capped.square_().neg_().add_(1))
    into["q"][rows].addmm_(slope, head.k[keys])
    into["k"][keys].addmm_(slope.T, head.q[rows])
