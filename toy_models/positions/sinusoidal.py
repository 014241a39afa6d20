"""Sinusoidal positions: e_i = W_E[token_i] + p_i, a fixed code.

p_i[2c] = sin(i w_c) and p_i[2c + 1] = cos(i w_c), with w_c = 10000^(-2c / d_model) radians per token.
Nothing is learned and no position is out of reach.  The source also multiplies W_E by sqrt(d_model); here it is
not, so at birth the code, of norm sqrt(d_model / 2), outweighs the token embedding, of norm about 0.8.
Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
"""

from dataclasses import dataclass

import torch

from toy_models.positions.code import PositionCode, PositionSpec

BASE = 10000.0


class SinusoidalCode(PositionCode):
    """Adds sines and cosines to the stream; holds no weights."""

    def __init__(self, d_model: int):
        super().__init__()
        self.d_model = d_model

    def embed(self, positions):
        even = torch.arange(0, self.d_model, 2, device=positions.device, dtype=torch.float64)
        angle = positions.double()[..., None] * BASE ** (-even / self.d_model)
        # An odd d_model ends on a sine.
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)[..., : self.d_model]


@dataclass(frozen=True)
class Sinusoidal(PositionSpec):
    """No options."""

    where = "embed"

    def build(self, config) -> SinusoidalCode:
        return SinusoidalCode(config.d_model)
