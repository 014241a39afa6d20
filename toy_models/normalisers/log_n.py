"""log_n: softmax of s * ln(n) * score, for a query that may look at n keys:

    p_j = n^(s * score_j) / sum_k n^(s * score_k)

What s means: it counts margins.  A key that scores m nats above n - 1 others of equal score gets
n^(s m) / (n^(s m) + n - 1), which tends to 1 with growing n if s * m > 1, to 1/2 if s * m = 1 and to 0 if
s * m < 1; plain softmax always tends to 0.  At n0 = exp(1 / s) keys it is plain softmax, sharper beyond and
flatter before, so s = 1 / ln(n0) keeps what a model learned at n0 keys.

Sources: Chiang and Cholak 2022, arXiv:2202.12172 (s = 1, n the length of the text); Nakanishi 2025,
arXiv:2501.19399, which learns an s per head.  Here s is fixed, and n is counted for each query, so that a causal
row has its own.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float

from toy_models.attention.reference import softmax
from toy_models.errors import ConfigError
from toy_models.normalisers.hidden import n_visible, scaled


@dataclass(frozen=True)
class LogN:
    """Args: s: factor on ln(n), without unit; positive.  Rows sum to 1, or are empty."""

    s: float = 1.0
    fused: ClassVar[bool] = False
    sums_to_one: ClassVar[bool] = True

    def __post_init__(self):
        if not 0 < self.s < math.inf:
            raise ConfigError(f"log_n needs a positive and finite s, not s={self.s}: s=1 multiplies scores by ln(n)")

    def __call__(
        self,
        scores: Float[torch.Tensor, "batch head query key"],
        visible: Bool[torch.Tensor, "#batch 1 query key"],
    ) -> Float[torch.Tensor, "batch head query key"]:
        """A row with one visible key gives it the weight 1: there ln(n) = 0, and every score will do."""
        return softmax(scaled(scores, self.s * n_visible(visible, scores).log()))
