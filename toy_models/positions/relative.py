"""Relative position buckets: score_ij = scale * q_i . k_j + W_bias[bucket(i - j), head].

Near distances have a bucket each, far ones share buckets that widen geometrically up to `max_distance`, and all
beyond share the last.  A causal model spends every bucket on the past; otherwise the second half serves the keys
that come after the query.  One table serves all layers.  The source divides its scores by 1: `attn_scale=1.0`.
Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1 (T5).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import nn

from toy_models.positions.code import PositionCode, PositionSpec, distances


def bucket(
    distance: Int[torch.Tensor, "query key"], *, causal: bool, num_buckets: int, max_distance: int
) -> Int[torch.Tensor, "query key"]:
    """The bucket of a distance `query - key` (tokens), in [0, num_buckets).

    With b buckets a side, of which e = b // 2 are exact, a distance n has bucket n if n < e, and else
    min(b - 1, e + floor((b - e) ln(n / e) / ln(max_distance / e))).  Causal: the future shares bucket 0.
    """
    side = num_buckets if causal else num_buckets // 2
    exact = side // 2
    n = distance.clamp(min=0) if causal else distance.abs()
    # In float32, as T5 has it: a distance on the edge of a bucket then falls to the same side as in its checkpoints.
    growth = (n.clamp(min=exact).float() / exact).log() / math.log(max_distance / exact)
    shared = (exact + (growth * (side - exact)).long()).clamp(max=side - 1)
    index = n.where(n < exact, shared)
    return index if causal else index + side * (distance < 0)


class RelativeCode(PositionCode):
    """Looks the bias up: `W_bias` (num_buckets, n_heads), nats."""

    def __init__(self, spec: "Relative", config):
        super().__init__()
        self.spec, self.causal = spec, config.causal
        self.W_bias = nn.Parameter(torch.empty(spec.num_buckets, config.n_heads, dtype=config.dtype))

    def bias(self, query_positions, key_positions):
        index = bucket(
            distances(query_positions, key_positions),
            causal=self.causal,
            num_buckets=self.spec.num_buckets,
            max_distance=self.spec.max_distance,
        )
        return self.W_bias.T[:, index]


@dataclass(frozen=True)
class Relative(PositionSpec):
    """Args: num_buckets: rows of the table;  max_distance: from where on distances are not told apart (tokens)."""

    num_buckets: int = 32
    max_distance: int = 128
    where = "bias"

    def refuses(self, config) -> str | None:
        sides = 1 if config.causal else 2
        if self.num_buckets < 2 * sides or self.num_buckets % sides:
            even = " and even, since keys lie on both sides" if sides == 2 else ""
            return f"num_buckets={self.num_buckets} must be at least {2 * sides}{even}"
        if self.max_distance <= (exact := self.num_buckets // sides // 2):
            return f"relative tells {exact} distances apart exactly: max_distance={self.max_distance} must be larger"
        return None

    def build(self, config) -> RelativeCode:
        return RelativeCode(self, config)
