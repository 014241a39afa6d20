"""Rotary frequencies changed so that a model trained on short texts reads long ones.

Each class maps the plain frequencies (radians per token, from high to low) to scaled ones, and has an `amplitude` that
multiplies rotated queries and keys, hence the scores by its square.  `original_n_ctx` is the length, in tokens, of the
texts that the plain frequencies were trained on.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float


@dataclass(frozen=True)
class LinearScaling:
    """Position interpolation: every frequency divided by `factor`.  Source: Chen et al. 2023, arXiv:2306.15595."""

    factor: float
    amplitude = 1.0

    def scaled(self, frequency: Float[torch.Tensor, " half"], base: float) -> Float[torch.Tensor, " half"]:
        """Radians per token."""
        return frequency / self.factor

    def refuses(self) -> str | None:
        """Why these numbers make no scaling, or None."""
        return _not_positive(self)


@dataclass(frozen=True)
class Llama3Scaling:
    """Frequencies that turn seldom within the original length are divided by `factor`, those that turn often stay.

    With r = original_n_ctx * frequency / (2 pi) turns and s = clip((r - low) / (high - low), 0, 1), the frequency
    becomes (s + (1 - s) / factor) times itself.  Source: the released Llama 3.1 models.
    """

    factor: float
    original_n_ctx: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    amplitude = 1.0

    def scaled(self, frequency: Float[torch.Tensor, " half"], base: float) -> Float[torch.Tensor, " half"]:
        """Radians per token."""
        turns = self.original_n_ctx * frequency / (2 * math.pi)
        kept = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return (kept + (1 - kept) / self.factor) * frequency

    def refuses(self) -> str | None:
        """Why these numbers make no scaling, or None."""
        if not self.low_freq_factor < self.high_freq_factor:
            return f"low_freq_factor={self.low_freq_factor} must be below high_freq_factor={self.high_freq_factor}"
        return _not_positive(self)


@dataclass(frozen=True)
class YarnScaling:
    """YaRN: like Llama3Scaling, with a ramp over the pairs' index instead of their turns, and larger scores.

    The ramp falls from 1 to 0 between the pairs that make `beta_fast` and `beta_slow` turns within the original length
    (rounded outwards if `truncate`).  `attention_factor` is 0.1 ln(factor) + 1 unless given.
    Source: Peng et al. 2023, arXiv:2309.00071, sections 3.2 and 3.4.
    """

    factor: float
    original_n_ctx: int
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    @property
    def amplitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1 if self.factor > 1 else 1.0

    def scaled(self, frequency: Float[torch.Tensor, " half"], base: float) -> Float[torch.Tensor, " half"]:
        """Radians per token."""
        width = 2 * len(frequency)

        def pair(turns: float) -> float:
            return width * math.log(self.original_n_ctx / (turns * 2 * math.pi)) / (2 * math.log(base))

        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        if low == high:  # a step, where the ramp has no width
            high += 1e-3
        index = torch.arange(len(frequency), dtype=frequency.dtype, device=frequency.device)
        kept = 1 - ((index - low) / (high - low)).clamp(0, 1)
        return (kept + (1 - kept) / self.factor) * frequency

    def refuses(self) -> str | None:
        """Why these numbers make no scaling, or None."""
        if self.beta_fast < self.beta_slow:
            return f"beta_fast={self.beta_fast} must be at least beta_slow={self.beta_slow}"
        return _not_positive(self)


def _not_positive(scaling) -> str | None:
    for name, value in vars(scaling).items():
        if value is not None and not (isinstance(value, int | float) and 0 <= value < math.inf):
            return f"{name}={value!r} must be a finite number that is not negative"
    for name in ("factor", "original_n_ctx"):
        if not getattr(scaling, name, 1) > 0:
            return f"{name}={getattr(scaling, name)!r} must be positive"
    return None
