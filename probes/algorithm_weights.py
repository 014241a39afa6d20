"""Algorithm weights: as which mixture of known predictors does a model speak?

    w = argmax over the simplex of   E_rows sum_s T(s) ln sum_a w_a p_a(s)    the least E KL(T || sum_a w_a p_a)

T is what the model says in a row (one position of a text), p_a what reference predictor a says there.  The problem is
concave, so expectation-maximisation finds it:  w_a <- E_rows sum_s T(s) w_a p_a(s) / sum_b w_b p_b(s).

    weights     share of each predictor, sum 1
    residual    E KL(T || mixture)      nats       0 when the model is a mixture of these, with one w everywhere
    alone       E KL(T || p_a)          nats       infinite where a predictor excludes what the model says

Predictors that agree on the rows share their weight in no determined way: choose texts that tell them apart, and read
`alone` beside the weights.

Source: linear interpolation of algorithms, Park et al. 2024, arXiv:2412.01003, section 4, which fits squared errors in
place of the divergence.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from probes.errors import ProbeInputError

SUM_TOLERANCE = 1e-4
EXCLUDED = 0.99  # of a row; an untrained model may well put half of one on BOS


@dataclass(frozen=True)
class AlgorithmWeights:
    """Shares of the reference predictors, and how far from the model their mixture and each of them alone are."""

    weights: Float[Tensor, " predictor"] = field(metadata={"unit": "share"})
    residual: Float[Tensor, ""] = field(metadata={"unit": "nats"})
    alone: Float[Tensor, " predictor"] = field(metadata={"unit": "nats"})


def algorithm_weights(
    logits: Float[Tensor, "*rows token"],
    references: Float[Tensor, "predictor *rows token"],
    steps: int = 500,
) -> AlgorithmWeights:
    """Fit one mixture of the references to all rows.

    Args:
        logits: of the model; any constant per row may be added.
        references: log probabilities of the predictors, -inf where they exclude a token.
        steps: of expectation-maximisation, each at least as good as the one before.

    Raises:
        ProbeInputError: references that do not sum to 1, or a row where all of them exclude what the model says.
    """
    said = logits.double().log_softmax(-1).flatten(0, -2)
    known = references.double().flatten(1, -2).exp()
    off = (known.sum(-1) - 1).abs().max().item()
    if not off <= SUM_TOLERANCE:  # written so that NaN fails too
        raise ProbeInputError(f"references must be log probabilities: rows sum to 1 but for {off:.3g}")
    possible = (known > 0).any(0)
    told = said.exp().where(possible, 0)
    lost = 1 - told.sum(-1).min().item()
    if not lost <= EXCLUDED:
        raise ProbeInputError(
            f"all references exclude what the model says with probability {lost:.4g} in a row: add a predictor"
        )
    told = told / told.sum(-1, keepdim=True)  # tokens that nobody expects, such as BOS, are nobody's to explain
    weights = known.new_full((len(known),), 1 / len(known))
    for _ in range(steps):
        mixed = torch.einsum("p,prt->rt", weights, known)
        ratio = torch.where(possible, told / mixed.where(possible, 1), 0)
        weights = weights * torch.einsum("prt,rt->p", known, ratio) / len(told)
    mixed = torch.einsum("p,prt->rt", weights, known)
    each = torch.stack([_divergence(told, one) for one in (mixed, *known)])
    return AlgorithmWeights(weights=weights, residual=each[0], alone=each[1:])


def _divergence(told: Float[Tensor, "row token"], known: Float[Tensor, "row token"]) -> Float[Tensor, ""]:
    """E KL(told || known), nats; infinite where known excludes what is told."""
    return (torch.special.xlogy(told, told) - torch.special.xlogy(told, known)).sum(-1).mean()
