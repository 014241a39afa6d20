"""Squashing: how much can one early token still change the last one?

With v_i what enters the first layer at position i and y_n what leaves the last layer at the last position, through
the final norm,

    J_i          dy_n / dv_i                            d_model x d_model, exact, for all positions at once
    spectral     largest singular value of J_i          0 or more: the furthest that a unit change of v_i moves y_n
    frobenius    root of the sum of squares of J_i      spectral to sqrt(d_model) times spectral
    path_bound   1/b3 [prod_l (1 + g_l) (A_l + 1)]_ni   above `spectral` while the attention weights are held fixed

`frozen=True` holds the weights fixed: no path leads through the softmax.  The theorem is about that case, and its
norm is the spectral one, since it takes the norm of an identity to be 1.  All are ratios, without a unit.

`probes.position_law` has the values for uniform attention.  theory/squashing.md derives the bound, and says what it
leaves out.

Source: Barbero et al. 2024, arXiv:2406.04267, section 5, theorem 5.1 (proof in appendix B.5).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes import names
from probes.errors import ProbeInputError
from probes.model import HookedModel, cached, check_vocabulary, require_hooks
from probes.weights import final_gain, folded, head_weights, norm_gain

# Tensors of the pattern's size behind one row of the Jacobian in a layer: gradients of pattern and scores, products.
PATTERNS_PER_ROW = 4
# Several rows share a backward pass while these stay in the processor's cache; beyond that one by one is faster.
BATCHED_BYTES = 2**23
# To hold patterns fixed they are written out while all layers fit in here; beyond that, queries and keys are held.
WRITTEN_BYTES = 2**28
# Options of a model whose blocks the bound is not for: what each adds to the stream is no such function of it.
OTHER_BLOCKS = {"norm_position": "post"}
OTHER_BLOCKS |= dict.fromkeys(("parallel_attn_mlp", "use_normalization_before_and_after", "gated_attention"), True)
# Largest slope of each activation; those of the gelus and of silu are rounded up.
LIPSCHITZ = {"relu": 1.0, "gelu": 1.12891, "gelu_new": 1.12900, "silu": 1.09984}


@dataclass(frozen=True)
class Squashing:
    """Norms of dy_n/dv_i for every position i, 0 or more."""

    spectral: Float[Tensor, "batch pos"]
    frobenius: Float[Tensor, "batch pos"]


def squashing(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], *, frozen: bool = False, final_norm: bool = True
) -> Squashing:
    """How strongly the last position depends on every position of its text, in float32 or better.

    Args:
        frozen: hold the attention patterns at their values, so that no path leads through the softmax.
        final_norm: read after the final norm, as the theorem does, or before it.

    Raises:
        ProbeInputError: no token, tokens outside the vocabulary, hooks that the model lacks, or a final norm that is
            neither LN nor RMS.
    """
    found = jacobian(model, tokens, frozen=frozen, final_norm=final_norm)
    found = found.to(torch.promote_types(found.dtype, torch.float32))
    return Squashing(torch.linalg.matrix_norm(found, 2), torch.linalg.matrix_norm(found))


def jacobian(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], *, frozen: bool = False, final_norm: bool = True
) -> Float[Tensor, "batch pos out d_model"]:
    """dy_n/dv_i itself: entry [b, i, o, c] is the derivative of coordinate o of y_n by coordinate c of v_i.

    One forward pass and a backward pass per coordinate o, which short texts share.  For long ones attention runs fused,
    if the model can, and memory grows with the number of tokens.  The result has pos d_model^2 numbers per text.

    Raises:
        ProbeInputError: as `squashing`.
    """
    if not tokens.numel():
        raise ProbeInputError(f"tokens have shape {tuple(tokens.shape)}: give at least one text of one token")
    check_vocabulary(model, tokens)
    layers = range(model.cfg.n_layers)
    scaled = final_norm and final_gain(model).kind is not None
    needed = [names.resid_pre(0), names.resid_post(max(layers, default=0)), *[names.FINAL_SCALE][:scaled]]
    require_hooks(model, needed)
    per_row = PATTERNS_PER_ROW * 8 * tokens.numel() * tokens.shape[1] * model.cfg.n_heads
    rows = max(1, BATCHED_BYTES // per_row)
    written = rows > 1 or (frozen and per_row * len(layers) <= WRITTEN_BYTES)
    with torch.enable_grad():
        start, end, scale = _run(model, tokens, needed, _pattern_hooks(model, frozen, written))
        y = end[:, -1]
        if scaled:
            y = _normalised(model, y, scale[:, -1])
        return _rows(y, start, rows)


def _pattern_hooks(model: HookedModel, frozen: bool, written: bool) -> list[tuple[str, Any]]:
    """Hooks that hold the pattern fixed, or only have it written out: fused kernels take one row at a time."""

    def hold(x, hook):
        return x.detach() if frozen else x

    hooks = []
    for layer in range(model.cfg.n_layers):
        # The pattern is a function of these two alone, and a fused kernel never shows it.
        ends = [f"blocks.{layer}.attn.hook_{letter}" for letter in "qk"]
        fused = not written and all(name in model.hook_dict for name in ends)
        wanted = ends if fused else [names.pattern(layer)]
        require_hooks(model, wanted)
        hooks += [(name, hold) for name in wanted if frozen or not fused]
    return hooks


def _run(model, tokens, needed: list[str], hooks) -> tuple[Tensor, Tensor, Tensor | None]:
    """What enters the first layer, as the start of a graph, what leaves the last one, and the final norm's scale."""
    seen: dict[str, Tensor] = {}

    def enter(x, hook):
        seen[needed[0]] = torch.zeros_like(x, requires_grad=True)  # a shift: the gradient by it is that at x
        return x.detach() + seen[needed[0]]

    def keep(name):  # a bridge's hook may call itself by another name than the one asked for
        def hook_fn(x, hook):
            seen[name] = x

        return name, hook_fn

    with model.hooks(fwd_hooks=[(needed[0], enter), *hooks, *map(keep, needed[1:])]):
        model(tokens)
    silent = [name for name in needed if name not in seen]
    if silent:
        raise ProbeInputError(f"the hook {silent[0]} did not fire in the forward pass: the probe needs it to")
    return seen[needed[0]], seen[needed[1]], seen.get(names.FINAL_SCALE)


def _normalised(model, x: Tensor, scale: Tensor) -> Tensor:
    """The final norm without its bias, which moves y_n for all texts alike."""
    gain = final_gain(model)
    x = (x - x.mean(-1, keepdim=True) if gain.kind == "LN" else x) / scale
    return x if gain.w is None else x * gain.w


def _rows(y: Float[Tensor, "batch out"], start: Float[Tensor, "batch pos d_model"], rows: int) -> Tensor:
    """Every text's own Jacobian: y of one text does not depend on another's start, so one pass serves all texts."""
    found = start.new_empty(*start.shape[:2], y.shape[1], start.shape[2])
    directions = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)[:, None].expand(-1, len(y), -1)
    for first in range(0, y.shape[1], rows):
        some = directions[first : first + rows]
        batched = len(some) > 1
        (gradient,) = torch.autograd.grad(
            y, start, some if batched else some[0], retain_graph=True, is_grads_batched=batched
        )
        gradient = gradient if batched else gradient[None]
        found[:, :, first : first + len(some)] = gradient.permute(1, 2, 0, 3)
    return found


# The bound ----------------------------------------------------------------------------------------


class Constants(NamedTuple):
    """What the bound takes from a model.  In the theorem's words, with one number b per norm and s per MLP:
    `mixing` is the pattern / b1, `growth` s / b2 and `final` 1 / b3."""

    mixing: tuple[Float[Tensor, "batch query key"], ...]
    growth: tuple[Float[Tensor, "batch query"], ...]
    final: Float[Tensor, " batch"]


def path_bound(
    mixing: Sequence[Float[Tensor, "#batch query key"]],
    growth: Sequence[float | Float[Tensor, "#batch query"]],
    final: float | Float[Tensor, " batch"] = 1.0,
) -> Float[Tensor, "batch query"]:
    """An upper bound of `spectral`, for every position, from attention that does not depend on its input.

    final * [(1 + growth_L) (mixing_L + 1) ... (1 + growth_1) (mixing_1 + 1)] in the row of the last query: the sum
    over all paths from a position to the last one, which stay or follow a weight in every layer.

    Args:
        mixing: per layer, how far a unit change of the key's stream moves the query's, beside the residual path.
        growth: per layer, the Lipschitz constant of MLP and norm together; 0 without an MLP.
        final: that of the final norm.

    `path_bound(*constants(model, tokens))` is that of a model.

    Raises:
        ProbeInputError: no layer, or not one growth for each.
    """
    if not mixing or len(mixing) != len(growth):
        raise ProbeInputError(f"{len(mixing)} mixing and {len(growth)} growth: give one of each for every layer")
    paths = torch.zeros_like(mixing[-1][:, -1])
    paths[:, -1] = 1
    for weights, grown in zip(reversed(mixing), reversed(growth), strict=True):
        paths = paths * (1 + grown)
        paths = paths + torch.einsum("bq,bqk->bk", paths, weights)
    return paths * (final[:, None] if isinstance(final, Tensor) else final)


@torch.no_grad()
def constants(model: HookedModel, tokens: Int[Tensor, "batch pos"]) -> Constants:
    """Read the bound's constants off a model and its patterns on these texts, per position where they differ.

    `mixing` sums pattern * ||W_V W_O|| over the heads and divides by the norm's scale at the key; W_V is taken with
    the norm's gain.  `growth` is ||W_in|| ||W_out|| times the activation's largest slope, over the scale at the query.

    Raises:
        ProbeInputError: a model for which this is no bound or none is known (norms after the addition or behind a
            branch, MLPs beside attention, gated MLPs or attention, other activations), hooks or weights that it lacks,
            tokens out of range.
    """
    for name, bad in OTHER_BLOCKS.items():
        if getattr(model.cfg, name, None) == bad:
            raise ProbeInputError(f"{name}={bad!r}: the bound is for blocks that norm, attend, add, norm, MLP, add")
    layers = range(model.cfg.n_layers)
    require_hooks(model, [names.pattern(0)])  # a model without layers has no bound
    _, cache = cached(model, tokens, [*(names.pattern(layer) for layer in layers), *_scales(model)])

    def shrunk(scale: str) -> Float[Tensor, "batch pos"]:
        like = cache[names.pattern(0)]
        return 1 / cache[scale][..., 0] if scale in cache else like.new_ones(tokens.shape)

    mixing, growth = [], []
    for layer in layers:
        weights = head_weights(model, layer)
        size = torch.linalg.matrix_norm(folded(weights.W_V, norm_gain(model, layer)) @ weights.W_O, 2)
        mixed = torch.einsum("bhqk,h->bqk", cache[names.pattern(layer)].abs(), size)
        mixing.append(mixed * shrunk(_scale(layer, 1))[:, None])
        growth.append(_mlp_slope(model, layer) * shrunk(_scale(layer, 2)))
    w = final_gain(model).w
    largest = 1.0 if w is None else w.abs().max()
    return Constants(tuple(mixing), tuple(growth), largest * shrunk(names.FINAL_SCALE)[:, -1])


def _scale(layer: int, which: int) -> str:
    return f"blocks.{layer}.ln{which}.hook_scale"


def _scales(model) -> list[str]:
    """The scales of the norms that the model has: without one of them there is no bound."""
    found = [] if final_gain(model).kind is None else [names.FINAL_SCALE]
    for layer in range(model.cfg.n_layers):
        if norm_gain(model, layer).kind is not None:
            found += [_scale(layer, 1)] if _mlp(model, layer) is None else [_scale(layer, 1), _scale(layer, 2)]
    return found


def _mlp(model, layer: int):
    return getattr(model.blocks[layer], "mlp", None)


def _mlp_slope(model, layer: int) -> float | Float[Tensor, ""]:
    """A Lipschitz constant of the MLP as a function of what the norm divides by its scale."""
    mlp, act = _mlp(model, layer), getattr(model.cfg, "act_fn", None)
    if mlp is None:
        return 0.0
    gated = getattr(mlp, "W_gate", None) is not None
    if gated or act not in LIPSCHITZ:
        kind = "gated" if gated else f"act_fn={act!r}"
        raise ProbeInputError(f"layer {layer} has a {kind} MLP: its slope is known for plain {', '.join(LIPSCHITZ)}")
    w = getattr(getattr(model.blocks[layer], "ln2", None), "w", None)
    W_in = mlp.W_in if w is None else w[:, None] * mlp.W_in
    return LIPSCHITZ[act] * torch.linalg.matrix_norm(W_in, 2) * torch.linalg.matrix_norm(mlp.W_out, 2)
