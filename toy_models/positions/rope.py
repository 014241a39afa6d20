"""Rotary positions: coordinate pair c of q and k is turned by the angle `position * base**(-2c / d_rotary)`.

Then q_i . k_j depends on i - j alone.  Pairs are (c, c + d_rotary/2), the layout of GPT-NeoX, Llama and
TransformerLens.  Source: Su et al. 2021, arXiv:2104.09864, section 3.2.
"""

import math
from dataclasses import dataclass

import torch

from toy_models.canonical import added
from toy_models.positions.code import PositionCode, PositionSpec
from toy_models.positions.rope_scaling import LinearScaling, Llama3Scaling, YarnScaling


class RopeCode(PositionCode):
    """Turns the first `d_rotary` coordinates; holds no weights."""

    def __init__(self, spec: "Rope", d_rotary: int):
        super().__init__()
        self.spec, self.d_rotary = spec, d_rotary

    def rotation(self, positions, local=False):
        spec, half = self.spec, self.d_rotary // 2
        local = local and spec.local_base is not None
        base, scaling = (spec.local_base, None) if local else (spec.base, spec.scaling)
        # Angles in float64, so that far positions keep their phase; one small table per forward pass.
        exponent = torch.arange(half, device=positions.device, dtype=torch.float64) / half
        frequency = base**-exponent
        if scaling is not None:
            frequency = scaling.scaled(frequency, base)
        angle = (positions.double()[..., None] * frequency)[..., None, :]  # batch pos 1 half
        cos, sin = angle.cos(), angle.sin()
        if scaling is not None:
            cos, sin = cos * scaling.amplitude, sin * scaling.amplitude

        def rotate(x):
            work = torch.promote_types(x.dtype, torch.float32)
            c, s = cos.to(work), sin.to(work)
            a, b, rest = x[..., :half].to(work), x[..., half : 2 * half].to(work), x[..., 2 * half :]
            return torch.cat([(a * c - b * s).to(x.dtype), (b * c + a * s).to(x.dtype), rest], dim=-1)

        return rotate


@dataclass(frozen=True)
class Rope(PositionSpec):
    """Rotary positions.

    Args:
        base: of the geometric ladder of frequencies.
        fraction: share of d_head that is turned.
        local_base: the base in layers that have a window, where nothing is scaled; None: as in the others (Gemma 3).
        scaling: changes the frequencies, see `toy_models.positions.rope_scaling`.
    """

    base: float = 10000.0
    fraction: float = 1.0
    local_base: float | None = added(None)
    scaling: LinearScaling | Llama3Scaling | YarnScaling | None = added(None)  # noqa: RUF009  (it makes a field)
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
        if self.local_base is not None:
            if not 0 < self.local_base < math.inf:
                return f"rope needs local_base > 0, not {self.local_base}"
            if all(window is None for window in config.windows):
                return f"local_base={self.local_base} is for layers with a window: give window, or leave it out"
        return self._bad_scaling()

    def _bad_scaling(self) -> str | None:
        if self.scaling is None:
            return None
        if not isinstance(self.scaling, LinearScaling | Llama3Scaling | YarnScaling):
            return f"scaling={self.scaling!r} must be None or a spec from toy_models.positions.rope_scaling"
        if isinstance(self.scaling, YarnScaling) and not self.base > 1:
            return f"base={self.base} must be above 1 for {self.scaling}"
        reason = self.scaling.refuses()
        return reason and f"{type(self.scaling).__name__}: {reason}"

    def build(self, config) -> RopeCode:
        return RopeCode(self, self.d_rotary(config.d_head))
