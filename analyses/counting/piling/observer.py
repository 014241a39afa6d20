"""What a Bayesian observer answers who holds a noisy count and a prior over counts.

Likelihood: C[t, a] = P(a | t), how often a net that counted under a uniform prior tells a where t is true, read as a
noisy inner count a.  The observer who holds a answers r by the posterior,

    P(r | a) = prior[r] C[r, a] / sum_s prior[s] C[s, a]        answers[t, r] = sum_a C[t, a] P(r | a)

so that answers shrink towards frequent counts where the inner count is unsure, and nowhere else: without confusions
(C the identity) the prior changes nothing.

Text by text there is a shorter way: the net's probabilities under a uniform prior are its posterior, and logits + ln
prior is the posterior under another, if they are calibrated.

Answers are compared by total variation, half the sum of |p - q| (0 to 1), a mean over the true counts.
"""

import numpy as np
import torch
from jaxtyping import Float, Int


def confusions(
    true: Int[torch.Tensor, " text"], logits: Float[torch.Tensor, "text count"]
) -> Float[np.ndarray, "true told"]:
    """Shares of the answers of each true count, drawn by the net's own probabilities: their mean over its texts; NaN
    rows for counts that no text has."""
    counts = logits.shape[-1]
    which = torch.nn.functional.one_hot(true, counts).double()
    return (which.T @ logits.double().softmax(-1) / which.sum(0)[:, None]).numpy()


def observer(
    likelihood: Float[np.ndarray, "true told"], prior: Float[np.ndarray, " true"]
) -> Float[np.ndarray, "true answer"]:
    """Shares of the observer's answers; an inner count that no true count gives is never held."""
    joint = prior[:, None] * likelihood
    held = joint.sum(0)
    posterior = np.divide(joint, held, out=np.zeros_like(joint), where=held > 0)
    return likelihood @ posterior.T


def total_variation(one: Float[np.ndarray, "true told"], other: Float[np.ndarray, "true told"]) -> float:
    """Mean over the true counts of half the sum of the differences."""
    return float((np.abs(one - other).sum(-1) / 2).mean())
