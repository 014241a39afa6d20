"""Shortformer positions: q_i, k_i read LN(x_i) + W_pos[i] in every layer; values and the stream do not.

Source: Press et al. 2020, arXiv:2012.15832, section 4.  The attention-only models of Elhage et al. 2021 use it,
because the residual stream then holds no absolute position.
"""

from dataclasses import dataclass

from toy_models.positions.code import PositionSpec, PositionTable


class ShortformerCode(PositionTable):
    """Adds its rows to what queries and keys read."""

    def embed_attention(self, positions):
        return self.rows(positions)


@dataclass(frozen=True)
class Shortformer(PositionSpec):
    """No options; the table has n_ctx rows, shared by all layers."""

    where = "embed_attention"

    def build(self, config) -> ShortformerCode:
        return ShortformerCode(config)
