"""Softmax: p_j = exp(s_j) / sum_k exp(s_k).  Every row sums to 1, or is empty."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float

from toy_models.attention.reference import softmax


@dataclass(frozen=True)
class Softmax:
    """No options.  Rows without a visible key become zeros."""

    fused: ClassVar[bool] = True
    sums_to_one: ClassVar[bool] = True

    def __call__(
        self,
        scores: Float[torch.Tensor, "batch head query key"],
        visible: Bool[torch.Tensor, "#batch 1 query key"],
    ) -> Float[torch.Tensor, "batch head query key"]:
        """`visible` is not needed: hidden keys have score -inf, unless a hook chose to reveal them."""
        return softmax(scores)
