"""Direct logit attribution: which part of the model wrote this logit?

The stream that is read out is a sum of parts: the embedding, positions, every head's output, every layer's attention
bias, every MLP's output.  With the final norm's scale held at the value it had, the readout is linear, so the logit
of a token (or the difference of two) is a sum of one number per part:

    contribution of a part x = u . x,   u = C (w * d) / scale,   d = W_U[:, target] - W_U[:, against]

    C takes the mean off (LayerNorm) or does nothing (RMSNorm, no norm); w is the norm's gain.  The norm's own bias
    adds b . d, the unembedding's adds b_U[target] - b_U[against].

in units of logits, any sign; all of them add up to the logit (difference) to rounding, which is checked at every call.
A head is read from `hook_z` and W_O, so that its output is never stored.

"Direct" leaves out what a part does through later parts, and a scale held fixed leaves out what it does to the scale.

Source: nostalgebraist 2020 (logit lens) and Elhage et al. 2021, A Mathematical Framework for Transformer Circuits
(the stream as a sum); used as here in Wang et al. 2022, arXiv:2211.00593, section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes import names
from probes.errors import ProbeInputError
from probes.model import HookedModel, cached, check_tokens
from probes.weights import final_gain, head_weights, unembedding

Token = int | Int[Tensor, "..."]
ROUNDINGS = 8  # how often the sum of the parts' sizes may be rounded before a difference means a part is missing


@dataclass(frozen=True)
class Part:
    """One summand: `kind` is embed, pos_embed, head, attn_bias, mlp, norm_bias or unembed_bias."""

    kind: str
    layer: int | None = None
    head: int | None = None

    @property
    def label(self) -> str:
        """Such as "L1H0", "L1 mlp" or "embed"."""
        if self.layer is None:
            return self.kind
        return f"L{self.layer} {self.kind}" if self.head is None else f"L{self.layer}H{self.head}"


@dataclass(frozen=True)
class Attribution:
    """Contributions in logits.  `contributions` sums over its parts to `logit`; `heads` is the mean of each head's
    over texts and positions."""

    parts: tuple[Part, ...]
    contributions: Float[Tensor, "part batch position"] = field(metadata={"unit": "logits"})
    logit: Float[Tensor, "batch position"] = field(metadata={"unit": "logits"})
    heads: Float[Tensor, "layer head"] = field(metadata={"unit": "logits"})

    def rows(self) -> list[dict[str, Any]]:
        """A row per part, in the model's order: its names, and its mean contribution over texts and positions."""
        means = self.contributions.mean((1, 2)).tolist()
        return [
            {"part": p.label, "kind": p.kind, "layer": p.layer, "head": p.head, "contribution": mean}
            for p, mean in zip(self.parts, means, strict=True)
        ]


def attribution(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    target: Token,
    against: Token | None = None,
    positions: Sequence[int] = (-1,),
) -> Attribution:
    """Split a logit, or the difference of two, over the parts of the model, in one forward pass.

    Args:
        target: the token whose logit is split: one for all, or of shape (batch,) or (batch, position).
        against: its logit is subtracted; likewise.
        positions: where the logits are read, negative ones from the end.

    Raises:
        ProbeInputError: a token or position out of range, hooks or weights that the model lacks, or parts that do
            not add up to the model's own logit.
    """
    layers = range(model.cfg.n_layers)
    optional = (names.POS_EMBED, *(names.mlp_out(layer) for layer in layers))  # a model may do without either
    logits, cache = cached(model, tokens, _needed(model), optional)
    return attribution_from_cache(model, cache, logits, target, against, positions)


@torch.no_grad()
def attribution_from_cache(
    model: HookedModel,
    cache: Any,
    logits: Float[Tensor, "batch pos d_vocab"],
    target: Token,
    against: Token | None = None,
    positions: Sequence[int] = (-1,),
) -> Attribution:
    """The same from `logits, cache = model.run_with_cache(...)`: of a run that hooks have changed, for example.

    Raises:
        ProbeInputError: as `attribution`, and for a cache without one of the hooks.
    """
    for name in _needed(model):
        if name not in cache:
            raise ProbeInputError(f"the cache has no {name}: let run_with_cache keep it")
    at = _positions(positions, logits.shape[1])
    shape = (logits.shape[0], len(at))
    target = _spread(target, shape, logits)
    against = None if against is None else _spread(against, shape, logits)
    biases, u = _readout(model, cache, at, target, against)
    parts, contributions, size = _stream(model, cache, at, u)
    parts += [part for part, _ in biases]
    contributions = torch.cat([contributions, *(value[None] for _, value in biases)])
    read = _wide(logits[:, at])
    logit = _pick(read, target) - (0 if against is None else _pick(read, against))
    size = size + sum((value.abs() for _, value in biases), torch.zeros_like(logit))
    _refuse_a_rest(contributions.sum(0), logit, ROUNDINGS * torch.finfo(logits.dtype).eps * size)
    by_head = [value for part, value in zip(parts, contributions.mean((1, 2)), strict=False) if part.kind == "head"]
    heads = torch.stack(by_head) if by_head else contributions.new_zeros(0)
    n_layers = model.cfg.n_layers
    return Attribution(tuple(parts), contributions, logit, heads.reshape(n_layers, len(by_head) // max(n_layers, 1)))


def _needed(model: HookedModel) -> list[str]:
    """The hooks that every model read here must have."""
    needed = [names.EMBED, *(names.z(layer) for layer in range(model.cfg.n_layers))]
    return needed if final_gain(model).kind is None else [*needed, names.FINAL_SCALE]


def _positions(positions: Sequence[int], n: int) -> list[int]:
    outside = [p for p in positions if not -n <= p < n]
    if outside or not len(positions):
        what = f"position {outside[0]} must lie" if outside else "positions is empty: name at least one"
        raise ProbeInputError(f"{what} in [-{n}, {n}), a text of {n} tokens")
    return [p % n for p in positions]


def _spread(token: Token, shape: tuple[int, int], logits: Tensor) -> Int[Tensor, "batch position"]:
    """The token of each text and position."""
    given = torch.as_tensor(token, device=logits.device)
    if tuple(given.shape) not in ((), shape[:1], shape):
        raise ProbeInputError(
            f"tokens of shape {tuple(given.shape)} must be one for all, (batch,) = {shape[:1]} or "
            f"(batch, position) = {shape}"
        )
    check_tokens(given, logits.shape[-1])
    given = given[:, None] if given.ndim == 1 else given
    return given.long().expand(shape)


def _readout(model, cache, at, target, against):
    """Contributions of the biases behind the stream, and the direction u that a part is read along."""
    W_U, b_U = unembedding(model)
    norm = final_gain(model)
    d = _wide(W_U).T[target]
    d = d if against is None else d - _wide(W_U).T[against]
    biases = []
    if norm.b is not None:
        biases.append((Part("norm_bias"), d @ _wide(norm.b)))
    if b_U is not None:
        b_U = _wide(b_U)
        biases.append((Part("unembed_bias"), b_U[target] - (0 if against is None else b_U[against])))
    u = d if norm.w is None else d * _wide(norm.w)
    u = u - u.mean(-1, keepdim=True) if norm.kind == "LN" else u
    return biases, u if norm.kind is None else u / _wide(cache[names.FINAL_SCALE][:, at])


def _stream(model, cache, at, u: Float[Tensor, "batch position d_model"]):
    """Parts of the stream, what each contributes, and the sum of the sizes |x| |u| that rounding is judged by."""
    parts, contributions, sizes = [], [], []

    def add(part, x):
        parts.append(part)
        contributions.append((x * u).sum(-1))
        sizes.append(x.norm(dim=-1) * u.norm(dim=-1))

    for kind, name in (("embed", names.EMBED), ("pos_embed", names.POS_EMBED)):
        if name in cache:
            add(Part(kind), _wide(cache[name]).expand(len(u), -1, -1)[:, at])
    for layer in range(model.cfg.n_layers):
        weights = head_weights(model, layer)
        z, W_O = _wide(cache[names.z(layer)][:, at]), _wide(weights.W_O)
        parts += [Part("head", layer, head) for head in range(len(W_O))]
        # The direction is carried back through W_O, which costs d_head numbers a head, not d_model.
        contributions += (z * torch.einsum("hed,bpd->bphe", W_O, u)).sum(-1).unbind(-1)
        sizes += (z.norm(dim=-1) * W_O.flatten(1).norm(dim=1) * u.norm(dim=-1, keepdim=True)).unbind(-1)
        if weights.b_O is not None:
            add(Part("attn_bias", layer), _wide(weights.b_O))
        if names.mlp_out(layer) in cache:
            add(Part("mlp", layer), _wide(cache[names.mlp_out(layer)][:, at]))
    return parts, torch.stack(contributions), torch.stack(sizes).sum(0)


def _refuse_a_rest(total: Tensor, logit: Tensor, tolerance: Tensor) -> None:
    off = (total - logit).abs()
    if not (off <= tolerance).all():  # written so that NaN fails too
        worst = int((off - tolerance).nan_to_num(torch.inf).argmax())
        raise ProbeInputError(
            f"the parts add up to {total.flatten()[worst].item():.6g}, the model's logit is "
            f"{logit.flatten()[worst].item():.6g}: attribution needs a stream that parts are only added to, an LN or "
            f"RMS norm or none before the unembedding, and logits as they leave it"
        )


def _pick(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.gather(-1, tokens[..., None])[..., 0]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
