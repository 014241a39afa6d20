"""The negative control of `repeated_blocks`: one period for every sequence.

A single layer solves it by attending a fixed distance back, scores a high prefix matching and knows
nothing of induction: at any other period it fails.
"""

from dataclasses import dataclass

from toy_models.tasks.repeated_blocks import RepeatedBlocks


@dataclass(frozen=True)
class FixedPeriod(RepeatedBlocks):
    """`shortest` and `longest` are the one period."""

    shortest: int = 12
    longest: int = 12
    held_out: tuple[int, ...] = ()
