"""The rotation of a model beside its formulas, and Propositions 3.1 and 3.2 of arXiv:2410.06205 on random vectors.

With frequencies f_c, one per pair of coordinates, the score of a query q with a key k that stands d tokens before is

    q . R(-d) k,    R(d) turns pair c by f_c d

Prop 3.1: k = R(r) q gives sum_c |q_c|^2 cos(f_c (d - r)), which is largest at d = r and there alone, as 1 radian a
token never comes round.  Prop 3.2: independent standard normal q and k have mean score 0 at every distance; with
q = k the mean is 2 sum_c cos(f_c d), which does decay.  All in float64, by the model's own rotation.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from toy_models.config import TransformerConfig
from toy_models.positions.rope import Rope
from toy_models.positions.rope_scaling import LinearScaling
from toy_models.seeding import generator
from toy_models.transformer import Transformer

CHUNK = 64  # queries at a time, for the memory


@dataclass(frozen=True)
class RandomScores:
    """Of one seed and base.  `share` of random queries and distances whose key of Prop 3.1 wins at that distance;
    `mean` score of independent q and k with its standard `error`, and of q = k (`same`), at distances 0, 1, ..."""

    share: float
    mean: Float[np.ndarray, " distance"]
    error: Float[np.ndarray, " distance"]
    same: Float[np.ndarray, " distance"]


def turned(config: TransformerConfig, x: Float[torch.Tensor, "n d_head"], positions) -> Float[torch.Tensor, "n p d"]:
    """Every vector at every position, as the model turns it."""
    rotate = config.position.build(config).rotation(positions[None])
    return rotate(x[None, None].expand(1, len(positions), -1, -1))[0].transpose(0, 1)


def scores(config: TransformerConfig, q, k, distances: int) -> Float[torch.Tensor, "n distance"]:
    """q . R(-d) k for d = 0, ..., distances - 1."""
    place = torch.arange(distances)
    rows = [
        (turned(config, a, place[-1:]) * turned(config, b, place)).sum(-1).flip(-1)
        for a, b in zip(q.split(CHUNK), k.split(CHUNK), strict=True)
    ]
    return torch.cat(rows)


def of_seed(config: TransformerConfig, n: int, distances: int, seed: int) -> RandomScores:
    """n random pairs of vectors, and as many random distances."""
    draw = generator(seed, "propositions")
    q, k = torch.randn(2, n, config.d_head, generator=draw, dtype=torch.float64)
    wanted = torch.randint(distances, (n,), generator=draw)
    independent = scores(config, q, k, distances)
    own = config.position.build(config).rotation(wanted[:, None])(q[:, None, None])[:, 0, 0]  # R(r) q
    return RandomScores(
        share=(scores(config, q, own, distances).argmax(-1) == wanted).double().mean().item(),
        mean=independent.mean(0).numpy(),
        error=(independent.std(0) / math.sqrt(n)).numpy(),
        same=scores(config, q, q, distances).mean(0).numpy(),
    )


def frequencies(config: TransformerConfig, distances: int) -> Float[np.ndarray, " pair"]:
    """Radians a token, from the angle that each pair has turned through after `distances` tokens, fastest first."""
    half = config.position.d_rotary(config.d_head) // 2
    units = torch.eye(config.d_head, dtype=torch.float64)[:half]
    at = turned(config, units, torch.arange(distances + 1))  # (pair, position, d_head)
    a, b = (torch.stack([at[c, :, c + first] for c in range(half)]) for first in (0, half))
    return np.unwrap(torch.atan2(b, a).numpy(), axis=-1)[:, -1] / distances


def formula(config: TransformerConfig) -> Float[np.ndarray, " pair"]:
    """base**(-2 c / d_rotary), radians a token."""
    d_rotary = config.position.d_rotary(config.d_head)
    return config.position.base ** (-np.arange(0, d_rotary, 2) / d_rotary)


def first_negative(config: TransformerConfig) -> int:
    """The first distance at which a key that equals the query in the slowest pair alone scores below zero."""
    half, slowest = config.position.d_rotary(config.d_head) // 2, formula(config)[-1]
    one = torch.zeros(1, config.d_head, dtype=torch.float64)
    one[:, half - 1] = 1
    found = scores(config, one, one, int(2 / slowest) + 2)[0]  # a quarter wavelength is pi / 2 / slowest
    return int((found < 0).long().argmax())


@torch.no_grad()
def without_turning(config: TransformerConfig, seed: int) -> float:
    """Largest difference of logits between a model without positions and one with rope whose pairs do not turn."""
    still = Rope(scaling=LinearScaling(factor=1e300))
    tokens = torch.randint(config.d_vocab, (2, config.n_ctx), generator=generator(seed, "tokens"))
    one, other = (Transformer(replace(config, position=code), seed=seed) for code in (config.position, still))
    return (one(tokens) - other(tokens)).abs().max().item()
