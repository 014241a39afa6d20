"""Weights: a model's matrices by TransformerLens's names, as any probe of weights needs them.

    head_weights    W_Q, W_K, W_V  [head, d_model, d_head],  W_O  [head, d_head, d_model],  and their biases
    embedding       W_E            [d_vocab, d_model]
    unembedding     W_U            [d_model, d_vocab_out],   b_U
    norm_gain       what stands between the stream and a layer's heads;  final_gain: and the unembedding

Rows are read first: a stream x (1, d_model) becomes x W.  Every tensor is detached and may share its memory
with the model: read it, do not write into it.  theory/weights.md says what folding a norm's gain means.

Source: the layout is TransformerLens's (HookedRootModule, TransformerBridge); gains and folding follow Elhage
et al. 2021, A Mathematical Framework for Transformer Circuits, appendix on LayerNorm.
"""

import difflib
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from probes.errors import ProbeInputError

REMEDY = "give a model in TransformerLens's layout, such as a TransformerBridge"


@dataclass(frozen=True)
class HeadWeights:
    """One layer's heads.  Grouped keys and values are repeated, so that index h is query head h in each.

    `n_kv` is how many different key-value heads there are.  A bias is None where the model has none.
    """

    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "head d_model d_head"]
    W_V: Float[Tensor, "head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    b_Q: Float[Tensor, "head d_head"] | None
    b_K: Float[Tensor, "head d_head"] | None
    b_V: Float[Tensor, "head d_head"] | None
    b_O: Float[Tensor, " d_model"] | None
    n_kv: int


@dataclass(frozen=True)
class NormGain:
    """x -> centre(x) / scale * w + b.  `kind` is "LN" (centres), "RMS" (does not), or None: nothing stands there.

    `w` and `b` are None where the norm has none: RMS has no `b`, a norm whose gain was folded has neither.
    """

    kind: str | None
    w: Float[Tensor, " d_model"] | None
    b: Float[Tensor, " d_model"] | None


def head_weights(model: Any, layer: int) -> HeadWeights:
    """The weights of every head of a layer.

    Raises:
        ProbeInputError: no such layer, a model that keeps its heads under other names, or weights that are not finite.
    """
    check_layer(model, layer)
    at = f"blocks.{layer}.attn"
    weights = {name: _matrix(model, f"{at}.{name}", 3) for name in ("W_Q", "W_K", "W_V", "W_O")}
    attn = _find(model, at)
    biases = {name: _optional(attn, name) for name in ("b_Q", "b_K", "b_V", "b_O")}
    n_heads, n_kv = len(weights["W_Q"]), len(weights["W_K"])
    if n_heads % n_kv or len(weights["W_V"]) != n_kv:
        raise ProbeInputError(
            f"{at} has {n_heads} query, {n_kv} key and {len(weights['W_V'])} value heads: "
            f"keys and values must be as many, and divide the queries"
        )
    for name in ("W_K", "W_V"):
        weights[name] = weights[name].repeat_interleave(n_heads // n_kv, 0)
    for name in ("b_K", "b_V"):
        if biases[name] is not None:
            biases[name] = biases[name].repeat_interleave(n_heads // n_kv, 0)
    return HeadWeights(**weights, **biases, n_kv=n_kv)


def embedding(model: Any) -> Float[Tensor, "d_vocab d_model"]:
    """W_E, one row per token.

    Raises:
        ProbeInputError: the model has no embed.W_E.
    """
    return _matrix(model, "embed.W_E", 2)


def unembedding(model: Any) -> tuple[Float[Tensor, "d_model d_vocab_out"], Float[Tensor, " d_vocab_out"] | None]:
    """W_U, one column per token, and b_U, or None where there is none.

    Raises:
        ProbeInputError: the model has no unembed.W_U.
    """
    return _matrix(model, "unembed.W_U", 2), _optional(_find(model, "unembed"), "b_U")


def norm_gain(model: Any, layer: int) -> NormGain:
    """The norm through which the heads of a layer read the stream.

    Where norms come after the addition (`norm_position="post"`) nothing stands between stream and heads.

    Raises:
        ProbeInputError: no such layer, or a norm that is neither LN nor RMS by name or parameters.
    """
    check_layer(model, layer)
    return _gain(model, getattr(_find(model, f"blocks.{layer}"), "ln1", None), f"blocks.{layer}.ln1")


def final_gain(model: Any) -> NormGain:
    """The norm through which the unembedding reads the stream.

    Raises:
        ProbeInputError: a norm that is neither LN nor RMS by name or parameters.
    """
    return _gain(model, getattr(model, "ln_final", None), "ln_final")


def folded(weight: Float[Tensor, "*head d_model width"], gain: NormGain) -> Float[Tensor, "*head d_model width"]:
    """The weight that reads x / scale as `weight` reads the norm's output: diag(w) W, and rows centred under LN."""
    if gain.w is not None:
        weight = gain.w[:, None].to(weight) * weight
    return weight - weight.mean(-2, keepdim=True) if gain.kind == "LN" else weight


def layer_count(model: Any) -> int:
    """How many blocks there are.

    Raises:
        ProbeInputError: the model has no blocks.
    """
    return len(_find(model, "blocks"))


def check_layer(model: Any, layer: int) -> None:
    """Refuse a layer that the model does not have.

    Raises:
        ProbeInputError: with the layers that there are.
    """
    n_layers = layer_count(model)
    if not 0 <= layer < n_layers:
        raise ProbeInputError(f"layer={layer} must lie in [0, {n_layers}): the model has {n_layers} layers")


def check_head(model: Any, layer: int, head: int) -> None:
    """Refuse a head, or a layer, that the model does not have.

    Raises:
        ProbeInputError: with the heads that there are.
    """
    check_layer(model, layer)
    n_heads = len(_matrix(model, f"blocks.{layer}.attn.W_Q", 3))
    if not 0 <= head < n_heads:
        raise ProbeInputError(f"head={head} must lie in [0, {n_heads}): layer {layer} has {n_heads} heads")


# Looking up ---------------------------------------------------------------------------------------


def _find(model: Any, path: str) -> Any:
    """Follow a dotted path; where it breaks off, say what was looked for and what is there in its place."""
    here, walked = model, []
    for step in path.split("."):
        try:
            here = here[int(step)] if step.isdigit() else getattr(here, step)
        except (AttributeError, IndexError, KeyError):
            place = ".".join(walked) or type(model).__name__
            there = _names(here)
            near = difflib.get_close_matches(step, there, n=3, cutoff=0.0)
            raise ProbeInputError(
                f"the model has no {path}: looked for {step} on {place}, nearest there: "
                f"{', '.join(near) or 'nothing'}; {REMEDY}"
            ) from None
        walked.append(step)
    return here


def _names(thing: Any) -> list[str]:
    if not isinstance(thing, nn.Module):
        return [name for name in dir(thing) if not name.startswith("_")]
    # Properties count: the weights of a bridge are derived tensors, not parameters.
    derived = [name for name in dir(type(thing)) if name.startswith(("W_", "b_"))]
    return [*thing._parameters, *thing._modules, *thing._buffers, *derived]


def _matrix(model: Any, path: str, ndim: int) -> Tensor:
    weight = _find(model, path)
    if not isinstance(weight, Tensor) or weight.ndim != ndim:
        shape = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        wanted = "[head, d_model, d_head] or [head, d_head, d_model]" if ndim == 3 else "a matrix"
        raise ProbeInputError(f"{path} is {shape}: {wanted} is needed; {REMEDY}")
    if not weight.isfinite().all():
        raise ProbeInputError(f"{path} holds NaN or infinity: take a checkpoint from before the training broke down")
    return weight.detach()


def _optional(thing: Any, name: str) -> Tensor | None:
    value = getattr(thing, name, None)
    return value.detach() if isinstance(value, Tensor) else None


def _gain(model: Any, norm: Any, path: str) -> NormGain:
    cfg = getattr(model, "cfg", None)
    if norm is None or isinstance(norm, nn.Identity) or getattr(cfg, "norm_position", "pre") == "post":
        return NormGain(None, None, None)
    w, b = _optional(norm, "w"), _optional(norm, "b")
    declared = getattr(cfg, "normalization_type", None)
    # "LNPre" and "RMSPre" are TransformerLens's names for norms whose gain has been folded away.
    kind = next((kind for kind in ("LN", "RMS") if str(declared).startswith(kind)), None)
    if kind is None and declared is None and w is not None:
        kind = "RMS" if b is None else "LN"
    if kind is None:
        raise ProbeInputError(
            f"{path} is a {type(norm).__name__} and cfg.normalization_type={declared!r}: "
            f"looked for 'LN' or 'RMS' there, or for {path}.w"
        )
    if w is not None and getattr(norm, "uses_weight_offset", False):  # Gemma's gain is 1 + its parameter
        w = 1 + w
    return NormGain(kind, w, b)
