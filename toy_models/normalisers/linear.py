"""Linear: p_j = s_j / n, the scores themselves, divided by the number n of keys that the query may look at.

The output is then the mean over those keys of v_j * s_j, linear in queries, keys and values each, and does not grow
with the text.  Weights may be negative.  Models of gradient descent in context are built of it.  With `mean=False`
nothing is divided: what one key adds does not depend on how many others there are, so that contexts add up.

Sources: Ahn et al. 2023, arXiv:2306.00297, divides by n; von Oswald et al. 2022, arXiv:2212.07677, does not: with
a fixed n that is a factor on W_O.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float

from toy_models.canonical import added
from toy_models.normalisers.hidden import n_visible
from toy_models.normalisers.spec import Normaliser


@dataclass(frozen=True)
class Linear(Normaliser):
    """mean: divide by the number of visible keys; rows then sum to the mean of their scores, else to their sum."""

    mean: bool = added(True)

    def __call__(
        self,
        scores: Float[torch.Tensor, "batch head query key"],
        visible: Bool[torch.Tensor, "#batch 1 query key"],
    ) -> Float[torch.Tensor, "batch head query key"]:
        """Weights of either sign, in nats of score per key; a row without a key is zeros."""
        weights = scores.masked_fill(torch.isneginf(scores), 0.0)
        return weights / n_visible(visible, scores) if self.mean else weights
