"""Frozen context: do its entities stop changing, has each a near stand-in, and would one key speak for many?

The picture tested is that a context settles in the lower layers, and that a query's own tokens can then stand for it.
For the stream e of a context's token t before layer l, the values v, and the scores s of one head and query:

    change     |e_t^(l+1) - e_t^l| / |e_t^l|                       0 (settled) and up; per layer and token
    nearest    min_j |v_t - v_j| / |v_t|, j a query's token        0 (the same value) and up; per head and token
    control    the same for a query's token, j another one         what "near" is among tokens that nobody freezes
    gap        log sum_t exp(s_t) - max_t s_t, t in the context    0 (one key has it all) to log n; nats
    ceiling    log n, n the context's keys that the query sees     nats

Lengths of values are those of v W_O, so that a change of basis inside a head changes nothing here.

Source: ours, after the argument that a log-sum-exp is nearly its largest term; theory/frozen.md.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes import names
from probes.errors import ProbeInputError
from probes.model import HookedModel, cached
from probes.weights import head_weights


@dataclass(frozen=True)
class Frozen:
    """What the module's head defines; `context` and `query` count tokens, `asked` the queries of `gap`."""

    change: Float[Tensor, "layer batch context"] = field(metadata={"unit": "1"})
    nearest: Float[Tensor, "layer batch head context"] = field(metadata={"unit": "1"})
    control: Float[Tensor, "layer batch head query"] = field(metadata={"unit": "1"})
    gap: Float[Tensor, "layer batch head query"] = field(metadata={"unit": "nats"})
    ceiling: Float[Tensor, "layer query"] = field(metadata={"unit": "nats"})


@torch.no_grad()
def frozen(model: HookedModel, tokens: Int[Tensor, "batch pos"], context: Bool[Tensor, " pos"]) -> Frozen:
    """Measure every layer on whole texts.

    Args:
        tokens: BOS, a context, and the query behind it.
        context: True at the context's tokens; what stands behind the last of them is the query.

    Raises:
        ProbeInputError: no context, fewer than two tokens behind it, a window that hides it, or a missing hook.
    """
    query = _behind(context)
    layers = range(model.cfg.n_layers)
    streams = [names.resid_pre(layer) for layer in layers] + [names.resid_post(model.cfg.n_layers - 1)]
    values = [f"blocks.{layer}.attn.hook_v" for layer in layers]
    scores = [names.scores(layer) for layer in layers]
    _, seen = cached(model, tokens, [*streams, *values, *scores])
    nearest, control, gap, ceiling = [], [], [], []
    for layer in layers:
        said = _written(seen[values[layer]], head_weights(model, layer).W_O)
        nearest.append(nearest_value(said[:, :, context], said[:, :, query]))
        control.append(nearest_value(said[:, :, query], said[:, :, query], itself=False))
        asked = seen[scores[layer]][:, :, query][..., context]
        gap.append(hard_max_gap(asked))
        ceiling.append((~asked[0, 0].isneginf()).sum(-1).to(gap[-1]).log())
    entities = torch.stack([seen[name][:, context] for name in streams])
    return Frozen(change(entities), *(torch.stack(parts) for parts in (nearest, control, gap, ceiling)))


def change(entities: Float[Tensor, "one_more_layer *token d_model"]) -> Float[Tensor, "layer *token"]:
    """|e^(l+1) - e^l| / |e^l|; infinite or NaN where an entity is zero."""
    wide = entities.to(torch.promote_types(entities.dtype, torch.float32))
    return (wide[1:] - wide[:-1]).norm(dim=-1) / wide[:-1].norm(dim=-1)


def nearest_value(
    values: Float[Tensor, "*head token width"], others: Float[Tensor, "*head other width"], *, itself: bool = True
) -> Float[Tensor, "*head token"]:
    """min_j |v_t - v_j| / |v_t|.

    Args:
        itself: False leaves out j = t, for values that are their own others.
    """
    # Not by the square of a sum: what is near is small, and would be lost in rounding.
    apart = torch.cdist(values, others, compute_mode="donot_use_mm_for_euclid_dist")
    if not itself:
        apart = apart.masked_fill(torch.eye(apart.shape[-1], dtype=torch.bool, device=apart.device), torch.inf)
    return apart.min(-1).values / values.norm(dim=-1)


def hard_max_gap(scores: Float[Tensor, "*row key"]) -> Float[Tensor, " *row"]:
    """log-sum-exp less the largest, nats: 0 to the log of how many keys are visible.

    Raises:
        ProbeInputError: a row that sees no key.
    """
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    largest = wide.max(-1).values
    if torch.isneginf(largest).any():
        raise ProbeInputError("a query sees no key of the context: leave out queries whose window ends before it")
    return wide.logsumexp(-1) - largest


def _behind(context: Bool[Tensor, " pos"]) -> Bool[Tensor, " pos"]:
    """True behind the last token of the context."""
    places = context.nonzero()
    n = len(context) - 1 - int(places.max()) if len(places) else 0
    if n < 2:
        raise ProbeInputError(
            f"{len(places)} of {len(context)} tokens are the context's and {n} stand behind it: one and two are needed"
        )
    return torch.arange(len(context), device=context.device) >= len(context) - n


def _written(
    values: Float[Tensor, "batch key kv_head d_head"], W_O: Float[Tensor, "head d_head d_model"]
) -> Float[Tensor, "batch head key d_head"]:
    """Values whose lengths and distances are those of what the head writes: v R^T with W_O^T = Q R."""
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    wide = wide.repeat_interleave(len(W_O) // values.shape[2], dim=2)
    lengths = torch.linalg.qr(W_O.to(wide).transpose(1, 2)).R
    return torch.einsum("bkhe,hfe->bhkf", wide, lengths)
