"""No position code (NoPE): order reaches the model through the causal mask alone."""

from dataclasses import dataclass

from toy_models.positions.code import PositionSpec


@dataclass(frozen=True)
class NoPosition(PositionSpec):
    """Source: Kazemnejad et al. 2023, arXiv:2305.19466."""
