"""log_n: softmax of s * ln(n) * score, for a query that may look at n keys:

    p_j = n^(s * score_j) / sum_k n^(s * score_k)

What s means: it counts margins.  A key that scores m nats above n - 1 others of equal score gets
n^(s m) / (n^(s m) + n - 1), which tends to 1 with growing n if s * m > 1, to 1/2 if s * m = 1 and to 0 if
s * m < 1; plain softmax always tends to 0.  At n0 = exp(1 / s) keys it is plain softmax, sharper beyond and
flatter before, so s = 1 / ln(n0) keeps what a model learned at n0 keys.

Sources: Chiang and Cholak 2022, arXiv:2202.12172 (s = 1, n the length of the text); Nakanishi 2025,
arXiv:2501.19399, which learns an s per head.  Here n is counted for each query, so that a causal row has its own.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from toy_models.canonical import added
from toy_models.errors import ConfigError
from toy_models.normalisers.spec import SoftmaxOf


@dataclass(frozen=True)
class LogN(SoftmaxOf):
    """Args: s: factor on ln(n), without unit; positive;  learned: every head learns its own, from s on.

    Rows sum to 1, or are empty.  A row with one visible key gives it the weight 1: there ln(n) = 0, and every score
    will do.  Row statistics are those of the scores times s ln(n).
    """

    s: float = 1.0
    learned: bool = added(False)
    counts_keys: ClassVar[bool] = True

    def __post_init__(self):
        if not 0 < self.s < math.inf:
            raise ConfigError(f"log_n needs a positive and finite s, not s={self.s}: s=1 multiplies scores by ln(n)")

    @property
    def per_head(self) -> dict[str, float]:
        return {"s": self.s} if self.learned else {}

    def unfused(self, config) -> str | None:
        """Fused, the queries are multiplied, which reaches neither what is added to the products nor a cap's inside."""
        if config.attn_scores_soft_cap is not None:
            return f"multiplies scores behind attn_scores_soft_cap={config.attn_scores_soft_cap}"
        if config.position.where == "bias":
            return f"multiplies the bias of position={config.position} as well"
        return None

    def factor(self, n_keys, s: torch.Tensor | None = None):
        return n_keys.log() * (self.s if s is None else s[:, None, None].to(n_keys))
