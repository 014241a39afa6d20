"""ReLU: p_j = max(0, s_j) / n, for a query that may look at n keys.

A key of score 0 or less weighs nothing, and a row may be all zeros: no key has to take what the others leave.

Source: Wortsman et al. 2023, arXiv:2309.08586, where n is the length of the text; here n is counted for each query.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float

from toy_models.normalisers.hidden import n_visible


@dataclass(frozen=True)
class Relu:
    """No options.  Rows sum to the mean of the positive parts of their scores."""

    fused: ClassVar[bool] = False
    sums_to_one: ClassVar[bool] = False

    def __call__(
        self,
        scores: Float[torch.Tensor, "batch head query key"],
        visible: Bool[torch.Tensor, "#batch 1 query key"],
    ) -> Float[torch.Tensor, "batch head query key"]:
        """Weights of 0 or more, in nats of score per key; a row without a key is zeros."""
        return scores.relu() / n_visible(visible, scores)
