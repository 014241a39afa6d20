"""Precision: what becomes of a model whose numbers are kept in fewer bits?

Three arms, each alone or together, none of which leaves a trace:

    weights        every parameter is rounded once, before the forward pass
    activations    what passes the named hooks is rounded on its way
    accumulation   in every matrix product the partial sum is rounded after each `every` terms

    float32, bfloat16, float16, float8_e4m3fn, float8_e5m2    to nearest, ties to even; no scale
    int8       s round(x / s), s = max|x| / 127               255 levels, symmetric about 0
    ternary    s clip(round(x / s), -1, 1), s = mean|x|       3 levels

Rounded numbers stay in the tensor's own dtype, so the arithmetic around them is as exact as the model's: an arm
changes what it names and nothing else.  A scale s belongs to the whole tensor, or with `per="row"` to each vector
along the last axis.  theory/precision.md says what the emulated accumulation is, and what it is not.

Source: IEEE 754-2019, section 4.3.1 (ties to even); Micikevicius et al. 2022, arXiv:2209.05433 (float8); Ma et al.
2024, arXiv:2402.17764 (ternary by the mean); Barbero et al. 2024, arXiv:2406.04267, section 4 (why it matters).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from probes.errors import ProbeInputError

FLOATS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}
LEVELS = {"int8": 127, "ternary": 1}  # on either side of 0
FORMATS = (*FLOATS, *LEVELS)
SCALES = ("tensor", "row")
# What a model keeps between its steps.  Scores and patterns are not among them: fused attention never writes them
# out, and scores are -inf where a key is hidden.  Nor is `hook_normalized`, before the gain in RMS, after it in LN.
ACTIVATIONS = (
    "hook_embed",
    "hook_pos_embed",
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_z",
    "mlp.hook_pre",
    "mlp.hook_post",
)


@torch.no_grad()
def rounded(x: Float[Tensor, "*shape"], format: str, per: str = "tensor") -> Float[Tensor, "*shape"]:
    """The nearest numbers of a format, in the dtype of x; no gradient flows through.

    Args:
        format: a name in FORMATS.  One that is finer than the dtype of x changes nothing.
        per: what shares a scale, in int8 and ternary: the "tensor", or each "row", a vector along the last axis.

    Raises:
        ProbeInputError: an unknown format or scale, one that this machine cannot round to, or a number that the
            format cannot hold: too large, or NaN or infinite where there is a scale.
    """
    check_format(format, FORMATS)
    if per not in SCALES:
        raise ProbeInputError(f"per={per!r} must be one of {', '.join(SCALES)}: what shares a scale")
    if format in LEVELS:
        return _on_levels(x, format, per)
    found, largest = _cast(x, format), torch.finfo(FLOATS[format]).max
    too_large = x.to(torch.promote_types(x.dtype, torch.float32)).abs() > largest
    lost = too_large & (x.isfinite() | (found != x))  # an infinity that the format has too is not lost
    if lost.any():
        raise ProbeInputError(
            f"{format} holds at most {largest:g}: "
            f"the tensor has {x[lost][0].item():.6g}, scale it down or choose a wider format"
        )
    return found


def check_format(format: str, known: Sequence[str] = FORMATS) -> None:
    """Refuse a number format that is not among the known.

    Raises:
        ProbeInputError: with the formats that are.
    """
    if format not in known:
        raise ProbeInputError(f"unknown number format {format!r}: choose one of {', '.join(known)}")


# The arms -----------------------------------------------------------------------------------------


@contextmanager
def rounded_weights(
    model: Any, format: str, *, per: str = "tensor", only: Callable[[str], bool] | None = None
) -> Iterator[Any]:
    """The model with its parameters rounded, inside the `with` block; afterwards it has its own tensors back.

    Args:
        only: says by its name whether a parameter is rounded; all are, unless given.  Buffers never are.

    Raises:
        ProbeInputError: as `rounded`, or no parameter to round.
    """
    chosen = [(name, p) for name, p in model.named_parameters() if only is None or only(name)]
    if not chosen:
        raise ProbeInputError("no parameter of the model is chosen: there is nothing to round, widen `only`")
    coarse = [rounded(p.data, format, per) for _, p in chosen]  # all of them, before the model is touched
    own = [p.data for _, p in chosen]
    try:
        for (_, p), value in zip(chosen, coarse, strict=True):
            p.data = value
        yield model
    finally:
        for (_, p), value in zip(chosen, own, strict=True):
            p.data = value


@contextmanager
def rounded_activations(
    model: Any, format: str, *, per: str = "tensor", sites: Sequence[str] = ACTIVATIONS
) -> Iterator[Any]:
    """The model with its activations rounded at these hooks, inside the `with` block.

    Args:
        per: with "row" every position (of q, k, v and z: every head too) has a scale of its own.
        sites: ends of hook names; those that the model has are rounded.

    Raises:
        ProbeInputError: as `rounded`, also during a forward pass; or a model with none of these hooks.
    """
    check_format(format)
    there = [name for name in getattr(model, "hook_dict", {}) if any(_ends(name, site) for site in sites)]
    if not there:
        raise ProbeInputError(f"the model has none of the hooks {', '.join(sites)}: name some that it has in `sites`")

    def edit(x: Tensor, hook: Any) -> Tensor:
        return rounded(x, format, per)

    with model.hooks(fwd_hooks=[(name, edit) for name in there]):
        yield model


@contextmanager
def rounded_accumulation(format: str, every: int = 1) -> Iterator[None]:
    """Every matrix product of this thread sums as `accumulated` does, inside the `with` block, in whatever model.

    Fused attention is taken apart into its two products.  Sums that are no products (softmax, norms, the residual
    stream) stay exact, and so do products computed by other threads.

    Raises:
        ProbeInputError: as `accumulated`, also during a forward pass.
    """
    _check_accumulation(format, every)
    with sdpa_kernel(SDPBackend.MATH), _RoundedSums(format, every):
        yield


@torch.no_grad()
def accumulated(
    a: Float[Tensor, "*batch row inner"], b: Float[Tensor, "*batch inner column"], format: str, every: int = 1
) -> Float[Tensor, "*batch row column"]:
    """a @ b, with the running sum rounded to a format after each `every` terms, first to last.

    The terms of one group, and the products a_k b_k themselves, are summed in the dtype of a and b.

    Raises:
        ProbeInputError: a format without a running sum of its own (int8, ternary), `every` below 1, or a sum that
            the format cannot hold.
    """
    _check_accumulation(format, every)
    total = a.new_zeros(*a.shape[:-1], b.shape[-1])
    for first in range(0, a.shape[-1], every):
        group = slice(first, first + every)
        total = rounded(total + a[..., group] @ b[..., group, :], format)
    return total


# Rounding -----------------------------------------------------------------------------------------


def _cast(x: Tensor, format: str) -> Tensor:
    dtype = FLOATS[format]
    exact = _to_odd(x) if x.dtype == torch.float64 and dtype != torch.float32 else x
    try:
        return exact.to(dtype).to(x.dtype, copy=True)
    except (RuntimeError, TypeError) as error:  # torch's way to say that a device or a build has no such numbers
        reason = str(error).strip().splitlines()[0]
        raise ProbeInputError(
            f"this machine cannot round to {format} on {x.device} ({reason}): choose another of {', '.join(FORMATS)}"
        ) from None


def _to_odd(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """float64 to float32 so that a second rounding, which torch makes next, comes out as if it were the only one.

    An inexact value goes to the one of its two neighbours whose last bit is 1: it can then not be taken for a tie.
    """
    near = x.float()
    inexact = (near.double() != x) & x.isfinite()
    even = near.view(torch.int32) % 2 == 0
    beyond = torch.where(x > near.double(), torch.inf, -torch.inf).float()
    return torch.where(inexact & even, torch.nextafter(near, beyond), near)


def _on_levels(x: Tensor, format: str, per: str) -> Tensor:
    if not x.isfinite().all():
        raise ProbeInputError(f"{format} needs a scale, and the tensor holds NaN or infinity: leave out such a site")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    size, most = wide.abs(), LEVELS[format]
    if not x.numel():
        return x.clone()
    if format == "ternary":
        scale = size.mean(-1, keepdim=True) if per == "row" else size.mean()
    else:
        scale = (size.amax(-1, keepdim=True) if per == "row" else size.amax()) / most
    scale = scale.where(scale > 0, 1.0)  # a row of zeros stays one
    return ((wide / scale).round().clamp(-most, most) * scale).to(x.dtype)


def _ends(name: str, site: str) -> bool:
    return name == site or name.endswith(f".{site}")


# Accumulation -------------------------------------------------------------------------------------


def _check_accumulation(format: str, every: int) -> None:
    if format in LEVELS:
        raise ProbeInputError(
            f"{format} has no running sum of its own (its products are summed in integers, exactly): "
            f"choose one of {', '.join(FLOATS)}"
        )
    check_format(format, tuple(FLOATS))
    if every < 1:
        raise ProbeInputError(f"every={every} must be at least 1: the terms added between two roundings")


def _plus(multiply: Callable, start: Tensor, a: Tensor, b: Tensor, *, beta=1, alpha=1) -> Tensor:
    """A bias joins after the sum, unrounded."""
    return beta * start + alpha * multiply(a, b)


def _with_vector(multiply: Callable, a: Tensor, x: Tensor) -> Tensor:
    return multiply(a, x[:, None])[:, 0]


def _dot(multiply: Callable, x: Tensor, y: Tensor) -> Tensor:
    return multiply(x[None], y[:, None])[0, 0]


# What torch breaks every product down to: einsum, linear, @ and attention all end in one of these.
PRODUCTS = {
    torch.ops.aten.mm: lambda multiply, a, b: multiply(a, b),
    torch.ops.aten.bmm: lambda multiply, a, b: multiply(a, b),
    torch.ops.aten.addmm: _plus,
    torch.ops.aten.baddbmm: _plus,
    torch.ops.aten.mv: _with_vector,
    torch.ops.aten.dot: _dot,
}


class _RoundedSums(TorchDispatchMode):
    def __init__(self, format: str, every: int):
        super().__init__()
        self.multiply = partial(accumulated, format=format, every=every)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        product, kwargs = PRODUCTS.get(func.overloadpacket), dict(kwargs or {})
        if product is None or not args[0].is_floating_point():
            return func(*args, **kwargs)
        out = kwargs.pop("out", None)
        found = product(self.multiply, *args, **kwargs)
        return found if out is None else out.copy_(found)
