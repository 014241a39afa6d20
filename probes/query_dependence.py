"""Query dependence: does a head take the same from a context, whoever asks?

For one head and one query, split the visible keys into a context and the rest.  With Z the sum of exp(score) over a
part, and the values averaged within each part by that part's own softmax,

    gate      g = Z_context / (Z_context + Z_rest)      the context's share of the attention, 0 to 1
    average   c = context's average value               what the context says to this query
    rest      n = the rest's average value              what the head would say without the context
    output    z = n + g (c - n)                         exact for softmax attention

    rho       sum |c - mean c|^2 / sum |c|^2            0 (all queries are told the same) to 1, over texts and queries

A context of rho 0 can be replaced by one key-value pair, the same for every query; the gate says how much it matters.
With W_O given, |.| is the length of what is written into the stream: then a change of basis inside a head, which
changes nothing that the model does, does not change rho either.

Source: the split is He et al. 2022, arXiv:2110.04366, section 3.1; that a prefix acts through g and c alone, Petrov et
al. 2024, arXiv:2310.19698.  theory/query_dependence.md derives both.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.errors import ProbeInputError


@dataclass(frozen=True)
class QueryDependence:
    """What a context does to every query of one layer, and how much of it depends on the query."""

    gate: Float[Tensor, "batch head query"] = field(metadata={"unit": "share"})
    average: Float[Tensor, "batch query head d_head"]
    rest: Float[Tensor, "batch query head d_head"]
    rho: Float[Tensor, " head"] = field(metadata={"unit": "share"})

    @property
    def output(self) -> Float[Tensor, "batch query head d_head"]:
        """n + g (c - n), the head's output before W_O."""
        gate = self.gate.transpose(1, 2).unsqueeze(-1)
        return self.rest + gate * (self.average - self.rest)


def query_dependence(
    scores: Float[Tensor, "batch head query key"],
    values: Float[Tensor, "#batch key head d_head"],
    context: Bool[Tensor, " key"],
    W_O: Float[Tensor, "head d_head d_model"] | None = None,
) -> QueryDependence:
    """Split one layer's attention into a context and the rest.

    Args:
        scores: before the softmax, in nats, -inf where a key is hidden; `attn.hook_attn_scores` has them.
        values: one per key and query head (grouped ones repeated); a single batch row serves all texts.
        context: True for the keys of the context.
        W_O: what the head writes with; None measures rho in the head's own coordinates.

    Raises:
        ProbeInputError: no key, or every key, is the context's; a query that sees none of one part.
    """
    if not context.any() or context.all():
        part = "every key" if context.all() else "no key"
        raise ProbeInputError(f"{part} of {len(context)} is the context's: both parts need one")
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    inside, outside = wide[..., context], wide[..., ~context]
    for name, part in (("context", inside), ("rest", outside)):
        if torch.isneginf(part).all(-1).any():
            raise ProbeInputError(f"a query sees no key of the {name}: leave out queries whose window ends before it")
    gate = (inside.logsumexp(-1) - outside.logsumexp(-1)).sigmoid()
    average, rest = _mixed(inside, values[:, context]), _mixed(outside, values[:, ~context])
    return QueryDependence(gate=gate, average=average, rest=rest, rho=spread(average, W_O))


def spread(
    average: Float[Tensor, "batch query head d_head"], W_O: Float[Tensor, "head d_head d_model"] | None = None
) -> Float[Tensor, " head"]:
    """rho: the share of the averages' energy that differs between queries; NaN where a head's averages are all zero."""
    rows = average.flatten(0, 1)  # row head d_head
    if W_O is not None:
        rows = torch.einsum("rhe,hef->rhf", rows, _root(W_O.to(rows)))
    return (rows - rows.mean(0)).pow(2).sum((0, 2)) / rows.pow(2).sum((0, 2))


def _mixed(scores: Tensor, values: Tensor) -> Tensor:
    values = values.to(scores.dtype).expand(len(scores), -1, -1, -1)
    return torch.einsum("bhqk,bkhe->bqhe", scores.softmax(-1), values)


def _root(W_O: Float[Tensor, "head d_head d_model"]) -> Float[Tensor, "head d_head rank"]:
    """R with |c R| = |c W_O|, and no more columns than rows: rows of W_O^T = Q R^T."""
    return torch.linalg.qr(W_O.transpose(-1, -2)).R.transpose(-1, -2)
