"""What a backend asks of the kernels: outputs, statistics and gradients for tensors of the shapes of `attend`."""

from contextvars import copy_context
from dataclasses import replace
from functools import partial

import torch
import triton

from toy_models.attention.gradients import asked, differentiable
from toy_models.attention.kernels.launch import BY_KEYS, BY_QUERIES, FORWARD, LOG2E, RECEIVED
from toy_models.attention.kernels.support import interpreted
from toy_models.attention.options import Options
from toy_models.attention.statistics import wide

LN2 = 1 / LOG2E


def attend(q, k, v, options: Options, precision: str):
    """See `toy_models.attention.attend`; `precision` is that of products of float32: "ieee" or "tf32"."""
    if q.device.type == "cuda":
        with torch.cuda.device(q.device):  # Triton launches on the current one
            return _attend(q, k, v, options, precision)
    return _attend(q, k, v, options, precision)


def _attend(q, k, v, options: Options, precision: str):
    both = (partial(one, precision=precision) for one in (_forward, _backward))
    return differentiable(q, k, v, options, *both)


def _forward(q, k, v, options: Options, *, precision: str):
    """z, the rows' `base` (log2 of the sum of 2^x, 0 for a dead row), and the numbers asked for."""
    (batch, n_query, n_heads, _), n_key = q.shape, k.shape[1]
    like = {"dtype": wide(q.dtype), "device": q.device}
    if options.scale < 0:  # the kernel takes the highest product for the highest score
        q, options = -q, replace(options, scale=-options.scale)
    q, k, v = (_rows_apart(x) for x in (q, k, v))
    z = torch.empty(q.shape, dtype=v.dtype, device=v.device)
    base = torch.empty(batch, n_heads, n_query, **like)
    names = asked(options)
    per_row = [name for name in names if name != "received_mass"]
    rows = torch.empty(len(per_row), batch, n_heads, n_query, **like)
    targets = options.targets
    if targets is not None:
        targets = _rows_apart(targets.to(q.device)).expand(batch, n_heads, n_query)
    shape, family = _shape(q, k, options), _family(q, options, precision)
    _launch(
        FORWARD, lambda block: (triton.cdiv(n_query, block["BM"]), batch * n_heads),
        q, k, v, *_given(q, options), _or(_number(options.sink_logit, q), q), _or(targets, q), z, base, rows,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *((0, 0) if targets is None else targets.stride()[:2]),
        *shape, **family, SINK=options.sink_logit is not None, STATISTICS=options.statistics,
        TARGETED=targets is not None, ALIGNED=_aligned(k, v),
    )  # fmt: skip
    found = list(rows.unbind())
    if options.received:
        found.append(torch.empty(batch, n_heads, n_key, **like))
        RECEIVED[lambda block: (triton.cdiv(n_key, block["BN"]), batch * n_heads)](
            q, k, *_given(q, options), base, found[-1], *q.stride()[:3], *k.stride()[:3], *shape, **family
        )
    return z, base, found


def _backward(q, k, v, options: Options, saved, grad_z, grad_entropy, wanted: dict[str, bool], *, precision: str):
    """Gradients of q, k, v, bias (None), sink_logit and alibi_slopes; of the last two where `wanted`, else None."""
    (batch, n_query, n_heads, _), (_, n_key, n_kv_heads, _) = q.shape, k.shape
    z, base, entropy = saved
    g = _rows_apart(torch.zeros_like(z) if grad_z is None else grad_z)
    c = -(g.to(base.dtype) * z.to(base.dtype)).sum(-1).transpose(1, 2).contiguous()
    pull = None
    if grad_entropy is not None:
        pull = grad_entropy.contiguous()
        c -= pull * entropy
    q, k, v = (_rows_apart(x) for x in (q, k, v))
    grads = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v)]
    of_slopes = torch.empty_like(base)
    given = (q, k, v, g, *_given(q, options), base, c, _or(pull, c))
    told = [step for x in (q, k, v, g) for step in x.stride()[:3]]
    told += [*_shape(q, k, options), options.scale]
    flags = {**_family(q, options, precision), "PULLED": pull is not None}
    BY_QUERIES[lambda block: (triton.cdiv(n_query, block["BM"]), batch * n_heads)](
        *given, grads[0], of_slopes, *told, **flags
    )
    BY_KEYS[lambda block: (triton.cdiv(n_key, block["BN"]), batch * n_kv_heads)](*given, *grads[1:], *told, **flags)
    learned = dict.fromkeys(wanted)
    if wanted["alibi_slopes"]:
        learned["alibi_slopes"] = of_slopes.sum((0, 2)).to(options.alibi_slopes.dtype)
    if wanted["sink_logit"]:  # a key with v = 0
        bits = _number(options.sink_logit, q)[:, None] * LOG2E - base
        slope = bits.exp2() * (c if pull is None else c - pull * bits * LN2)
        learned["sink_logit"] = slope.sum((0, 2)).to(options.sink_logit.dtype)
    return *grads, *learned.values()


def _launch(kernel, grid, *arguments, **family) -> None:
    """With memory for descriptors, which Triton asks its context for: in a copy, so that the caller's stays its own."""

    def run():
        triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device="cuda"))
        kernel[grid](*arguments, **family)

    copy_context().run(run)


# Arguments ------------------------------------------------------------------------------------------


def _rows_apart(x: torch.Tensor) -> torch.Tensor:
    """With the numbers of a row side by side, as the kernels read them."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _aligned(*tensors: torch.Tensor) -> bool:
    """Whether all rows start at multiples of 16 bytes, as descriptors want them."""
    starts = (step * x.element_size() for x in tensors for step in x.stride()[:3])
    return all(x.data_ptr() % 16 == 0 for x in tensors) and all(start % 16 == 0 for start in starts)


def _or(given: torch.Tensor | None, instead: torch.Tensor) -> torch.Tensor:
    """What stands for an option that is not in use: never read."""
    return instead if given is None else given


def _number(given: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    return None if given is None else given.detach().to(like.device, torch.float32).contiguous()


def _given(q, options: Options) -> tuple[torch.Tensor, torch.Tensor]:
    """The padding as bytes, and the slopes."""
    real = None if options.key_padding is None else options.key_padding.to(q.device).contiguous().view(torch.uint8)
    return _or(real, q), _or(_number(options.alibi_slopes, q), q)


def _shape(q, k, options: Options) -> tuple:
    """n_query, n_key, n_heads, group, window, scale, cap: x = scale q . k, or tanh(scale q . k) cap, in log2 units."""
    cap = options.score_cap
    scale = options.scale * LOG2E if cap is None else options.scale / cap
    n_query, n_heads = q.shape[1:3]
    return n_query, k.shape[1], n_heads, n_heads // k.shape[2], options.window or 0, scale, (cap or 0.0) * LOG2E


def _family(q, options: Options, precision: str) -> dict:
    """What kernels are compiled for."""
    return {
        "D": q.shape[-1],
        "DP": max(16, triton.next_power_of_2(q.shape[-1])),  # a tile has a power of 2 columns, from 16 on
        "CAUSAL": options.causal,
        "WINDOWED": options.window is not None,
        "PADDED": options.key_padding is not None,
        "ALIBI": options.alibi_slopes is not None,
        "CAPPED": options.score_cap is not None,
        "PRECISION": precision,
        "UPCAST": interpreted() and q.dtype == torch.bfloat16,
    }
