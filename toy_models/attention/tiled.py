"""Attention and its row statistics in blocks of queries: exact, and never the whole pattern.

One head after another, a block of queries at once, over tiles of keys: sums are kept relative to a level near the
highest score so far (`sums`).  Memory is O(n).  On a CPU the heads are shared among threads (`workers`).  Gradients of
z and entropy come from the scores, computed once more tile by tile (`tiled_backward`).
"""

from functools import partial

import torch

from toy_models.attention.blocks import Head
from toy_models.attention.gradients import asked, differentiable
from toy_models.attention.options import Options
from toy_models.attention.statistics import wide
from toy_models.attention.sums import Sums
from toy_models.attention.tiled_backward import backward
from toy_models.attention.workers import share


def refuses(q, k, options: Options) -> str | None:
    """Nothing: it serves what the specification serves."""
    return None


def attend(q, k, v, options: Options):
    """See `toy_models.attention.attend`; z and entropy have gradients for q, k, v, and the options in LEARNED."""
    return differentiable(q, k, v, options, _forward, backward)


def _forward(q, k, v, options: Options) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """z, the rows' `base` (see `Sums.finish`), and the numbers asked for."""
    (batch, n_query, heads, _), n_key = q.shape, k.shape[1]
    like = {"dtype": wide(q.dtype), "device": q.device}
    z = torch.zeros(batch, n_query, heads, v.shape[-1], dtype=v.dtype, device=v.device)
    base = torch.empty(batch, heads, n_query, **like)
    names = asked(options)
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
