"""ALiBi: score_ij = scale * q_i . k_j - m_h |i - j|, with a fixed slope m_h per head (nats per token).

Slopes are 2^(-8 (h + 1) / n_heads), as in TransformerLens; where n_heads is no power of two the source takes others.
Source: Press et al. 2021, arXiv:2108.12409, section 3; its models are causal, where |i - j| = i - j.
"""

import math
from dataclasses import dataclass

import torch

from toy_models.positions.code import PositionCode, PositionSpec, distances


class AlibiCode(PositionCode):
    """Penalises distance; holds no weights."""

    def __init__(self, slopes: tuple[float, ...]):
        super().__init__()
        self.slopes = slopes

    def bias(self, query_positions, key_positions):
        distance = distances(query_positions, key_positions)
        return -self.alibi_slopes().to(distance.device)[:, None, None] * distance.abs()

    def alibi_slopes(self):
        return torch.tensor(self.slopes, dtype=torch.float64)


@dataclass(frozen=True)
class Alibi(PositionSpec):
    """Args: slopes: one per head, nats per token, in place of the geometric ladder."""

    slopes: tuple[float, ...] | None = None
    where = "bias"

    def refuses(self, config) -> str | None:
        if self.slopes is None:
            return None
        if len(self.slopes) != config.n_heads or not all(map(math.isfinite, self.slopes)):
            return f"alibi needs a finite slope for each of n_heads={config.n_heads} heads, not slopes={self.slopes}"
        return None

    def build(self, config) -> AlibiCode:
        n = config.n_heads
        return AlibiCode(self.slopes or tuple(2.0 ** (-8 * (head + 1) / n) for head in range(n)))
