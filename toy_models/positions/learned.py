"""Learned absolute positions: e_i = W_E[token_i] + W_pos[i] (GPT-2)."""

from dataclasses import dataclass

from toy_models.positions.code import PositionSpec, PositionTable


class LearnedCode(PositionTable):
    """Adds its rows to the stream."""

    def embed(self, positions):
        return self.rows(positions)


@dataclass(frozen=True)
class Learned(PositionSpec):
    """No options; the table has n_ctx rows."""

    where = "embed"

    def build(self, config) -> LearnedCode:
        return LearnedCode(config)
