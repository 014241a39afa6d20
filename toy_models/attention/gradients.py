"""Gradients of z and entropy for backends that compute the scores once more instead of keeping them.

Such a backend has `forward(q, k, v, options) -> (z, base, rows)`, with the rows' numbers in the order of `asked` and
whatever `base` its backward wants per row, and `backward(q, k, v, options, (z, base, entropy), grad_z, grad_entropy,
wanted)`, which gives the gradients of q, k, v and of the options in LEARNED: of those where `wanted`, else None.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch.autograd.function import once_differentiable

from toy_models.attention.options import Options
from toy_models.attention.statistics import STATISTICS, RowStatistics

# The options that are tensors which a gradient may flow into.
LEARNED = ("bias", "sink_logit", "alibi_slopes")


def differentiable(q, k, v, options: Options, forward: Callable, backward: Callable):
    """(z, statistics or None); z and entropy have gradients for q, k, v, and the options in LEARNED."""
    inputs = (q, k, v, *(getattr(options, name) for name in LEARNED))
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        rest = replace(options, **dict.fromkeys(LEARNED))
        z, *rows = _Differentiable.apply(*inputs, rest, forward, backward)
    else:
        z, _, rows = forward(q, k, v, options)
    return z, RowStatistics(**dict(zip(asked(options), rows, strict=True))) if options.statistics else None


def asked(options: Options) -> list[str]:
    """The fields of `RowStatistics` that are asked for, in its order."""
    wanted = {
        "target_mass": options.targets is not None,
        "unassigned_mass": options.sink_logit is not None,
        "received_mass": options.received,
    }
    return [*STATISTICS, *(name for name, given in wanted.items() if given)] if options.statistics else []


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, bias, sink_logit, alibi_slopes, options: Options, forward, backward):
        given = replace(options, **dict(zip(LEARNED, (bias, sink_logit, alibi_slopes), strict=True)))
        z, base, rows = forward(q, k, v, given)
        names = asked(given)
        entropy = rows[names.index("entropy")] if given.statistics else None
        ctx.mark_non_differentiable(*(values for values in rows if values is not entropy))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, bias, sink_logit, alibi_slopes, z, base, entropy)
        ctx.options, ctx.entropy_at = options, 1 + names.index("entropy") if given.statistics else None
        ctx.computed_by = backward
        return z, *rows

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        q, k, v, *learned, z, base, entropy = ctx.saved_tensors
        options = replace(ctx.options, **dict(zip(LEARNED, learned, strict=True)))
        grad_entropy = None if ctx.entropy_at is None else grads[ctx.entropy_at]
        if grads[0] is None and grad_entropy is None:
            return (None,) * 9
        wanted = dict(zip(LEARNED, ctx.needs_input_grad[3:6], strict=True))
        found = ctx.computed_by(q, k, v, options, (z, base, entropy), grads[0], grad_entropy, wanted)
        return *found, None, None, None
