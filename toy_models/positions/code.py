"""What a position code may do.  Each file beside this one overrides one method."""

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import nn

from toy_models.errors import InputError

Rotation = Callable[[Float[torch.Tensor, "batch pos head d_head"]], Float[torch.Tensor, "batch pos head d_head"]]


class PositionCode(nn.Module):
    """A code that does nothing: every method answers None."""

    def embed(self, positions: Int[torch.Tensor, "#batch pos"]) -> Float[torch.Tensor, "#batch pos d_model"] | None:
        """Added to the residual stream, once, beside the token embedding; the model casts it to its own type."""
        return None

    def embed_attention(
        self, positions: Int[torch.Tensor, "#batch pos"]
    ) -> Float[torch.Tensor, "#batch pos d_model"] | None:
        """Added in every layer to what queries and keys read, and not to what values read."""
        return None

    def rotation(self, positions: Int[torch.Tensor, "#batch pos"], local: bool = False) -> Rotation | None:
        """Turns queries and keys; the scores then depend on differences of position.

        `local` asks for the rotation of layers that have a window.
        """
        return None

    def bias(
        self, query_positions: Int[torch.Tensor, "#batch query"], key_positions: Int[torch.Tensor, "#batch key"]
    ) -> Float[torch.Tensor, "head query key"] | None:
        """Added to the scaled scores of every layer, in nats; the model casts it to the scores' type."""
        return None

    def alibi_slopes(self) -> Float[torch.Tensor, " head"] | None:
        """For a bias of `-slope * |distance|`, the slopes, in nats per token: the model then takes these, and never
        makes the (query, key) table of `bias`, which says the same written out."""
        return None


def distances(
    query_positions: Int[torch.Tensor, "#batch query"], key_positions: Int[torch.Tensor, "#batch key"]
) -> Int[torch.Tensor, "query key"]:
    """query - key, in tokens.  Rows differ by an offset alone, which a difference cancels: the first row serves all."""
    return query_positions[0, :, None] - key_positions[0, None, :]


class PositionSpec:
    """Options of one code.  `where` says which method the built code overrides; None: no method."""

    where: ClassVar[str | None] = None

    def refuses(self, config) -> str | None:
        """Why the code cannot serve this TransformerConfig, or None."""
        return None

    def build(self, config) -> PositionCode:
        """The module for a model of this TransformerConfig."""
        return PositionCode()


class PositionTable(PositionCode):
    """A learned vector per position, `W_pos` (n_ctx, d_model)."""

    def __init__(self, config):
        super().__init__()
        self.W_pos = nn.Parameter(torch.empty(config.n_ctx, config.d_model, dtype=config.dtype))

    def rows(self, positions: Int[torch.Tensor, "#batch pos"]) -> Float[torch.Tensor, "#batch pos d_model"]:
        n_ctx = self.W_pos.shape[0]
        if positions.numel() and int(positions.max()) >= n_ctx:
            raise InputError(f"position {int(positions.max())} is beyond the table of n_ctx={n_ctx} positions")
        # Positions below zero belong to left padding, which no query sees.
        return self.W_pos[positions.clamp(min=0)]
