"""Off by one: p_j = exp(s_j) / (1 + sum_k exp(s_k)), softmax with a virtual key of score 0 and no value.

What the virtual key takes is missing from 1, so that a head can leave its output near zero without a sink among
the real keys.  The 1 stands for exp(0): adding a constant to all scores changes the weights.

Sources: Miller 2023, "Attention is off by one", evanmiller.org/attention-is-off-by-one.html; Xiao et al. 2023,
arXiv:2309.17453, which trains with it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float

from toy_models.attention.reference import softmax


@dataclass(frozen=True)
class OffByOne:
    """No options.  Rows sum to less than 1."""

    fused: ClassVar[bool] = False
    sums_to_one: ClassVar[bool] = False

    def __call__(
        self,
        scores: Float[torch.Tensor, "batch head query key"],
        visible: Bool[torch.Tensor, "#batch 1 query key"],
    ) -> Float[torch.Tensor, "batch head query key"]:
        """`visible` is not needed: hidden keys have score -inf."""
        return softmax(scores, sink_logit=scores.new_zeros(scores.shape[1]))
