"""Sigmoid: p_j = 1 / (1 + exp(-(s_j + bias))).  Every key is weighed alone; rows sum to anything from 0 to n.

Without a given bias it is -ln(n): then n keys of score 0 weigh 1 / (n + 1) each, about what softmax gives
them, and a model starts to train as with softmax.

Source: Ramapuram et al. 2024, arXiv:2409.04431, where n is the length of the text; here n is the number of keys that
the query may look at, so that early rows of a causal model are not made faint.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float

from toy_models.errors import ConfigError
from toy_models.normalisers.hidden import n_visible
from toy_models.normalisers.spec import Normaliser


@dataclass(frozen=True)
class Sigmoid(Normaliser):
    """Args: bias: added to every score, in nats; -ln(n) of each row unless given."""

    bias: float | None = None

    def __post_init__(self):
        if self.bias is not None and not math.isfinite(self.bias):
            raise ConfigError(f"sigmoid needs a finite bias, not bias={self.bias}: None takes -ln(n) of each row")

    def __call__(
        self,
        scores: Float[torch.Tensor, "batch head query key"],
        visible: Bool[torch.Tensor, "#batch 1 query key"],
    ) -> Float[torch.Tensor, "batch head query key"]:
        """Weights from 0 to 1; a row without a key is zeros."""
        bias = -n_visible(visible, scores).log() if self.bias is None else self.bias
        return torch.sigmoid(scores + bias)
