"""Own-token map: what is lost where a head writes a fixed affine map of its own token instead?

A replacement for `probes.ablation`: on reference texts the head's z is fitted by an affine map of what the head reads
at the query (the stream as the layer's norm leaves it, before the gain), by least squares of least norm in float64;
then the head writes that map of what it reads, on any text, at every query but the first, which has no other token to
tell of and stays as it is.

    ablate(model, tokens, [(0, 3)], OwnTokenMap(reference)).change          nats per prediction

Nothing is lost where a head only re-adds its own token (a diagonal head), or writes one vector everywhere; the change
is what the head tells about *other* tokens.  `probes.sinks.own_token` says how much of its output that map explains.

Source: Barbero et al. 2024, arXiv:2410.06205, section 5 (a diagonal head re-adds its own value); the replacement is
this project's.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes import names
from probes.ablation import ByLayer, Edit
from probes.errors import ProbeInputError
from probes.model import HookedModel, cached
from probes.weights import norm_gain


@dataclass(frozen=True)
class OwnTokenMap:
    """The heads write the affine map of what they read that fits them best on `reference`, query 0 left out there.

    Within a layer all heads are fitted at once; the reference runs through the model as it is.
    """

    reference: Int[Tensor, "batch pos"]

    def edits(self, model: HookedModel, heads: ByLayer) -> list[Edit]:
        """Per layer: edits that take down what it reads, and one that writes the map.

        Raises:
            ProbeInputError: too few reference queries for the width of the stream, or hooks that the model lacks.
        """
        kinds = {layer: norm_gain(model, layer).kind for layer in heads}
        wanted = [f(layer) for layer in heads for f in (names.resid_pre, names.z)]
        _, cache = cached(model, self.reference, wanted + [_scale(layer) for layer in heads if kinds[layer]])
        edits: list[Edit] = []
        for layer, which in heads.items():
            kind = kinds[layer]
            read = _read(cache[names.resid_pre(layer)], cache[_scale(layer)] if kind else None, kind)
            edits += _Layer(*_fit(read, cache[names.z(layer)][:, :, which]), which, kind).edits(layer)
        return edits


class _Layer:
    """One layer's map and what the running text lets it read."""

    def __init__(self, weights: Tensor, offset: Tensor, heads: list[int], kind: str | None):
        self.weights, self.offset, self.heads, self.kind = weights, offset, heads, kind
        self.stream: Tensor | None = None
        self.scale: Tensor | None = None

    def edits(self, layer: int) -> list[Edit]:
        taken = [(names.resid_pre(layer), self._take_stream)]
        taken += [(_scale(layer), self._take_scale)] if self.kind else []
        return [*taken, (names.z(layer), self._write)]

    def _take_stream(self, stream: Tensor, hook: Any) -> Tensor:
        self.stream = stream
        return stream

    def _take_scale(self, scale: Tensor, hook: Any) -> Tensor:
        self.scale = scale
        return scale

    def _write(self, z: Tensor, hook: Any) -> Tensor:
        new = z.clone()
        found = _read(self.stream, self.scale, self.kind)[:, 1:] @ self.weights + self.offset
        new[:, 1:, self.heads] = found.unflatten(-1, (len(self.heads), -1)).to(z.dtype)
        return new


def _fit(
    read: Float[Tensor, "batch pos d_model"], z: Float[Tensor, "batch pos head d_head"]
) -> tuple[Float[Tensor, "d_model width"], Float[Tensor, " width"]]:
    """Weights and offset of the affine map, over all queries but the first."""
    x, y = read[:, 1:].flatten(0, 1), z[:, 1:].flatten(0, 1).flatten(1).double()
    if len(x) < x.shape[1] + 2:
        raise ProbeInputError(
            f"reference has {len(x)} queries after the first: more than d_model + 1 = {x.shape[1] + 1} are needed"
        )
    centre, mean = x.mean(0), y.mean(0)
    weights = torch.linalg.pinv(x - centre, rtol=max(x.shape) * torch.finfo(z.dtype).eps) @ (y - mean)
    return weights, mean - centre @ weights


def _read(stream: Tensor, scale: Tensor | None, kind: str | None) -> Float[Tensor, "batch pos d_model"]:
    """The stream as the norm leaves it, before its gain, in float64."""
    x = stream.double()
    x = x - x.mean(-1, keepdim=True) if kind == "LN" else x
    return x if scale is None else x / scale.double()


def _scale(layer: int) -> str:
    """What a layer's first norm divides by, (batch, pos, 1)."""
    return f"blocks.{layer}.ln1.hook_scale"
