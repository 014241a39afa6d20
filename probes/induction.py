"""Induction: which heads look for the token that followed the last time?

For one head with pattern A (rows: queries i, columns: keys j) on tokens t_0 t_1 ...

    prefix matching  mean over queries of sum of A[i, j] over every j <= i with t_{j-1} = t_i
    previous token   mean over queries i >= 1 of A[i, i-1]
    duplicate token  mean over queries of sum of A[i, j] over every j < i with t_j = t_i

    displaced        prefix matching with t_{j-s} = t_i for a shift s of 2, 3, ...

each a share of attention, 0 to 1.  Queries without any such key are left out of the mean: they cannot
score.  An untrained head scores about (number of such keys) / (number of visible keys).

Source: Olsson et al. 2022, arXiv:2209.11895, "head activation evaluators"; there the text is random
tokens repeated four times, and the mass on every earlier correct position counts.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int

from probes.errors import ProbeInputError
from probes.model import HookedModel, patterns


@dataclass(frozen=True)
class Induction:
    """Shares of attention in [0, 1], for every head."""

    prefix_matching: Float[torch.Tensor, "layer head"]
    previous_token: Float[torch.Tensor, "layer head"]
    duplicate_token: Float[torch.Tensor, "layer head"]


def induction(model: HookedModel, tokens: Int[torch.Tensor, "batch pos"]) -> Induction:
    """Score every head of a hooked model on these tokens, in one forward pass.

    Raises:
        ProbeInputError: a text of one token, none that is ever repeated, or a model without pattern hooks.
    """
    if tokens.shape[1] < 2:
        raise ProbeInputError("the text has one token: no head can look back")
    found = patterns(model, tokens)

    def stack(score, *args):
        return torch.stack([score(pattern, *args) for pattern in found])

    return Induction(
        prefix_matching=stack(prefix_matching, tokens),
        previous_token=stack(previous_token),
        duplicate_token=stack(duplicate_token, tokens),
    )


def prefix_matching(
    pattern: Float[torch.Tensor, "batch head query query"], tokens: Int[torch.Tensor, "batch query"], shift: int = 1
) -> Float[torch.Tensor, " head"]:
    """Mean mass on the positions `shift` after earlier occurrences of the query's token.

    With `shift=1` those hold the token that followed last time.  A circuit may also look a few positions
    further on and read that token from what an earlier layer moved there: the score at larger shifts finds it.
    """
    if not 1 <= shift < tokens.shape[1]:
        raise ProbeInputError(
            f"shift={shift} must lie in [1, {tokens.shape[1]}) for a text of {tokens.shape[1]} tokens"
        )
    after = torch.zeros(*tokens.shape, tokens.shape[1], dtype=torch.bool, device=tokens.device)
    after[:, :, shift:] = tokens[:, :, None] == tokens[:, None, :-shift]
    return _mean_mass(pattern, after.tril())


def duplicate_token(
    pattern: Float[torch.Tensor, "batch head query query"], tokens: Int[torch.Tensor, "batch query"]
) -> Float[torch.Tensor, " head"]:
    """Mean mass on earlier occurrences of the query's own token."""
    return _mean_mass(pattern, (tokens[:, :, None] == tokens[:, None, :]).tril(-1))


def previous_token(pattern: Float[torch.Tensor, "batch head query query"]) -> Float[torch.Tensor, " head"]:
    """Mean mass on the position just before the query; the first query, which has none, is left out."""
    if pattern.shape[-1] < 2:
        raise ProbeInputError("the text has one token: no query has a previous one")
    return _wide(pattern).diagonal(-1, dim1=-2, dim2=-1).mean((0, 2))


def _mean_mass(pattern, keys: Bool[torch.Tensor, "batch query key"]) -> Float[torch.Tensor, " head"]:
    can_score = keys.any(-1)
    if not can_score.any():
        raise ProbeInputError(
            "no token of the text has an earlier occurrence far enough back: there is nothing to match"
        )
    mass = torch.einsum("bhqk,bqk->hbq", _wide(pattern), keys.to(_wide(pattern).dtype))
    return mass[:, can_score].mean(-1)


def _wide(pattern):
    return pattern.to(torch.promote_types(pattern.dtype, torch.float32))
