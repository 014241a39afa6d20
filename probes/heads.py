"""Heads: what does every head do on any text, beside looking for a copy?

For one head of a decoder with pattern A (rows: queries i, columns: keys j <= i) on n tokens, means over the
queries i >= 1; query 0 sees one key and could not score otherwise:

    first token       mean of A[i, 0]                 share       0 to 1
    diagonal          mean of A[i, i]                 share       0 to 1
    entropy           mean of H(A[i])                 nats        0 (one key) to ln(n!) / (n - 1) (uniform)
    relative entropy  mean of H(A[i]) / ln(i + 1)     fraction    0 to 1

with H(p) = -sum_j p_j ln p_j.  A head that ignores its input and attends to all keys alike scores
(H_n - 1) / (n - 1) on both shares, H_n = 1 + 1/2 + ... + 1/n: zero is not the baseline.

Source: Xiao et al. 2023, arXiv:2309.17453 (mass on the first token); Barbero et al. 2024, arXiv:2410.06205,
section 5 (diagonal heads); entropy as in `probes.sharpness`.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int

from probes.errors import ProbeInputError
from probes.model import HookedModel, patterns
from probes.sharpness import causal, sharpness


@dataclass(frozen=True)
class Heads:
    """Means over queries, for every head; `entropy` in nats, the others from 0 to 1."""

    first_token: Float[torch.Tensor, "layer head"]
    diagonal: Float[torch.Tensor, "layer head"]
    entropy: Float[torch.Tensor, "layer head"] = field(metadata={"unit": "nats"})
    relative_entropy: Float[torch.Tensor, "layer head"]


def heads(model: HookedModel, tokens: Int[torch.Tensor, "batch pos"]) -> Heads:
    """Score every head of a hooked decoder on these tokens, in one forward pass.

    Raises:
        ProbeInputError: a text of one token, a model without pattern hooks, or one whose patterns are not those
            of a decoder (see `entropy`).
    """
    found = patterns(model, tokens)

    def stack(score):
        return torch.stack([score(pattern) for pattern in found])

    return Heads(
        first_token=stack(first_token),
        diagonal=stack(diagonal),
        entropy=stack(entropy),
        relative_entropy=stack(relative_entropy),
    )


def first_token(pattern: Float[torch.Tensor, "batch head query query"]) -> Float[torch.Tensor, " head"]:
    """Mean mass on position 0, over the queries after it."""
    return _later(pattern)[..., 0].mean((0, 2))


def diagonal(pattern: Float[torch.Tensor, "batch head query query"]) -> Float[torch.Tensor, " head"]:
    """Mean mass on the query's own position, over the queries after the first."""
    return _later(pattern).diagonal(1, dim1=-2, dim2=-1).mean((0, 2))


def entropy(pattern: Float[torch.Tensor, "batch head query query"]) -> Float[torch.Tensor, " head"]:
    """Mean entropy in nats, over the queries after the first.

    Raises:
        ProbeInputError: a row that does not sum to 1 over the keys up to its query, as `probes.sharpness` says:
            attention in both directions, or weights that are no softmax.
    """
    return _entropies(pattern).mean((0, 2))


def relative_entropy(pattern: Float[torch.Tensor, "batch head query query"]) -> Float[torch.Tensor, " head"]:
    """Mean over the queries i >= 1 of the entropy as a fraction of ln(i + 1), that of uniform attention.

    A window of attention shows fewer keys than that, and keeps the fraction below 1.

    Raises:
        ProbeInputError: as for `entropy`.
    """
    found = _entropies(pattern)
    keys = torch.arange(2, pattern.shape[-1] + 1, device=found.device, dtype=found.dtype)
    return (found / keys.log()).mean((0, 2))


def _entropies(pattern) -> Float[torch.Tensor, "batch head later"]:
    _later(pattern)  # refuses a text of one token in the words of this probe
    return sharpness(pattern, causal(pattern.shape[-1], device=pattern.device)).entropy[..., 1:]


def _later(pattern) -> Float[torch.Tensor, "batch head later key"]:
    """The rows of the queries that have a choice, in float32 or better."""
    if pattern.shape[-1] < 2:
        raise ProbeInputError("the text has one token: its one query has no choice, give two tokens or more")
    return pattern[..., 1:, :].to(torch.promote_types(pattern.dtype, torch.float32))
