"""Attention and its row statistics in blocks of queries: exact, and never the whole pattern.

One head after another, a block of queries at once, over tiles of keys: sums are kept relative to a level near the
highest score so far (`sums`).  Memory is O(n).  On a CPU the heads are shared among threads (`workers`).  Gradients of
z and entropy come from the scores, computed once more tile by tile (`tiled_backward`).
"""

from dataclasses import replace
from functools import partial

import torch
from torch.autograd.function import once_differentiable

from toy_models.attention.blocks import Head
from toy_models.attention.options import Options
from toy_models.attention.statistics import STATISTICS, RowStatistics, wide
from toy_models.attention.sums import Sums
from toy_models.attention.tiled_backward import backward
from toy_models.attention.workers import share

# The options that are tensors which a gradient may flow into.
LEARNED = ("bias", "sink_logit", "alibi_slopes")


def refuses(q, k, options: Options) -> str | None:
    """Nothing: it serves what the specification serves."""
    return None


def attend(q, k, v, options: Options):
    """See `toy_models.attention.attend`; z and entropy have gradients for q, k, v, and the options in LEARNED."""
    inputs = (q, k, v, *(getattr(options, name) for name in LEARNED))
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        z, *rows = _Differentiable.apply(*inputs, replace(options, **dict.fromkeys(LEARNED)))
    else:
        z, _, rows = _forward(q, k, v, options)
    return z, RowStatistics(**dict(zip(_names(options), rows, strict=True))) if options.statistics else None


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, bias, sink_logit, alibi_slopes, options: Options):
        given = replace(options, **dict(zip(LEARNED, (bias, sink_logit, alibi_slopes), strict=True)))
        z, base, rows = _forward(q, k, v, given)
        names = _names(given)
        entropy = rows[names.index("entropy")] if given.statistics else None
        ctx.mark_non_differentiable(*(values for values in rows if values is not entropy))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, bias, sink_logit, alibi_slopes, z, base, entropy)
        ctx.options, ctx.entropy_at = options, 1 + names.index("entropy") if given.statistics else None
        return z, *rows

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        q, k, v, *learned, z, base, entropy = ctx.saved_tensors
        options = replace(ctx.options, **dict(zip(LEARNED, learned, strict=True)))
        grad_entropy = None if ctx.entropy_at is None else grads[ctx.entropy_at]
        if grads[0] is None and grad_entropy is None:
            return (None,) * 7
        wanted = dict(zip(LEARNED, ctx.needs_input_grad[3:6], strict=True))
        return *backward(q, k, v, options, (z, base, entropy), grads[0], grad_entropy, wanted), None


def _names(options: Options) -> list[str]:
    """The fields of `RowStatistics` that are asked for, in its order."""
    asked = {
        "target_mass": options.targets is not None,
        "unassigned_mass": options.sink_logit is not None,
        "received_mass": options.received,
    }
    return [*STATISTICS, *(name for name, wanted in asked.items() if wanted)] if options.statistics else []


def _forward(q, k, v, options: Options) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """z, the rows' `base` (see `Sums.finish`), and the numbers asked for."""
    (batch, n_query, heads, _), n_key = q.shape, k.shape[1]
    like = {"dtype": wide(q.dtype), "device": q.device}
    z = torch.zeros(batch, n_query, heads, v.shape[-1], dtype=v.dtype, device=v.device)
    base = torch.empty(batch, heads, n_query, **like)
    names = _names(options)
    rows = [torch.zeros(batch, heads, n_key if name == "received_mass" else n_query, **like) for name in names]

    def one(b: int, h: int) -> None:
        head = Head.of(q, k, v, options, b, h)
        targets = None if options.targets is None else options.targets.expand(batch, heads, -1)[b, h].to(q.device)
        numbers = dict(zip(names, (values[b, h] for values in rows), strict=True))
        sums = Sums(head, targets)
        sums.add(z[b, :, h], numbers.pop("received_mass", None))
        base[b, h] = sums.finish(numbers)

    share([partial(one, b, h) for b in range(batch) for h in range(heads)], q.device)
    return z, base, rows
