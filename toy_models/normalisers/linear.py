"""Linear: p_j = s_j / n, the scores themselves, divided by the number n of keys that the query may look at.

The output is then the mean over those keys of v_j * s_j, linear in queries, keys and values each, and does not grow
with the text.  Weights may be negative.  Models of gradient descent in context are built of it.

Sources: Ahn et al. 2023, arXiv:2306.00297, divides by n; von Oswald et al. 2022, arXiv:2212.07677, does not: with
a fixed n that is a factor on W_O.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float

from toy_models.normalisers.hidden import n_visible


@dataclass(frozen=True)
class Linear:
    """No options.  Rows sum to the mean of their scores."""

    fused: ClassVar[bool] = False
    sums_to_one: ClassVar[bool] = False

    def __call__(
        self,
        scores: Float[torch.Tensor, "batch head query key"],
        visible: Bool[torch.Tensor, "#batch 1 query key"],
    ) -> Float[torch.Tensor, "batch head query key"]:
        """Weights of either sign, in nats of score per key; a row without a key is zeros."""
        return scores.masked_fill(torch.isneginf(scores), 0.0) / n_visible(visible, scores)
