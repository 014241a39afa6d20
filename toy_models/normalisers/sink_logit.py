"""Sink logit: p_j = exp(s_j) / (exp(b) + sum_k exp(s_k)), with a score b that each head learns.

Softmax with a virtual key that has no value, as `off_by_one`, where b is 0 for good.  Scores are products, so a head
without a bias in its queries cannot move them all at once; here it moves the threshold in their place.

Source: gpt-oss (OpenAI 2025, arXiv:2508.10925), which learns one per head; the one that starts at 0 starts as
`off_by_one`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from toy_models.errors import ConfigError
from toy_models.normalisers.spec import SoftmaxOf


@dataclass(frozen=True)
class SinkLogit(SoftmaxOf):
    """Args: start: the score of the virtual key before training, in nats.

    Rows sum to less than 1; row statistics count the virtual key, their `unassigned_mass`.
    """

    start: float = 0.0
    sums_to_one: ClassVar[bool] = False
    virtual_key: ClassVar[bool] = True

    def __post_init__(self):
        if not math.isfinite(self.start):
            raise ConfigError(f"sink_logit needs a finite start, not start={self.start}: 0 starts as off_by_one")

    @property
    def per_head(self) -> dict[str, float]:
        return {"sink_logit": self.start}

    def sink_logit(self, like, sink_logit: torch.Tensor | None = None):
        return like.new_full(like.shape[1:2], self.start) if sink_logit is None else sink_logit
