"""Rotary positions: coordinate pair c of q and k is turned by the angle `position * base**(-2c / d_rotary)`.

Then q_i . k_j depends on i - j alone.  Pairs are (c, c + d_rotary/2), the layout of GPT-NeoX, Llama and
TransformerLens.  Source: Su et al. 2021, arXiv:2104.09864, section 3.2.
"""

import math
from dataclasses import dataclass

import torch

from toy_models.positions.code import PositionCode, PositionSpec


class RopeCode(PositionCode):
    """Turns the first `d_rotary` coordinates; holds no weights."""

    def __init__(self, d_rotary: int, base: float):
        super().__init__()
        self.d_rotary, self.base = d_rotary, base

    def rotation(self, positions):
        half = self.d_rotary // 2
        # Angles in float64, so that far positions keep their phase; one small table per forward pass.
        exponent = torch.arange(half, device=positions.device, dtype=torch.float64) / half
        angle = (positions.double()[..., None] * self.base**-exponent)[..., None, :]  # batch pos 1 half
        cos, sin = angle.cos(), angle.sin()

        def rotate(x):
            work = torch.promote_types(x.dtype, torch.float32)
            c, s = cos.to(work), sin.to(work)
            a, b, rest = x[..., :half].to(work), x[..., half : 2 * half].to(work), x[..., 2 * half :]
            return torch.cat([(a * c - b * s).to(x.dtype), (b * c + a * s).to(x.dtype), rest], dim=-1)

        return rotate


@dataclass(frozen=True)
class Rope(PositionSpec):
    """Args: base: of the geometric ladder of frequencies;  fraction: share of d_head that is turned."""

    base: float = 10000.0
    fraction: float = 1.0
    where = "rotation"

    def d_rotary(self, d_head: int) -> int:
        return round(d_head * self.fraction)

    def refuses(self, config) -> str | None:
        d_rotary = self.d_rotary(config.d_head)
        if not (0 < self.base < math.inf and 0 < self.fraction <= 1):
            return f"rope needs base > 0 and 0 < fraction <= 1, not base={self.base}, fraction={self.fraction}"
        if d_rotary % 2 or d_rotary == 0:
            return (
                f"rope turns pairs: fraction={self.fraction} of d_head={config.d_head} is {d_rotary} coordinates, "
                f"which must be even and positive: change d_head or fraction"
            )
        return None

    def build(self, config) -> RopeCode:
        return RopeCode(self.d_rotary(config.d_head), self.base)
