"""Two identities of the row statistics, in float64: how far their two sides are apart on random inputs."""

import numpy as np
import torch

from toy_models.attention import attend
from toy_models.seeding import generator

IDENTITY_N = 512  # tokens
ENTROPY, RENYI = (f"{name} identity: error over u max|s| (seed)" for name in ("entropy", "Renyi"))


def identities(config) -> dict[str, np.ndarray]:
    """The largest error of either identity over all rows, in units of u max(1, max|s|) with u = 2^-53; (seed,)."""
    found = {ENTROPY: [], RENYI: []}
    shape, scale = (1, IDENTITY_N, config.n_heads, config.d_head), config.d_head**-0.5
    for seed in config.seeds:
        source = generator(seed, "bench_attention", "identities")
        q, k, v = (torch.randn(shape, generator=source, dtype=torch.float64).to(config.device) for _ in "qkv")
        rows = attend(q, k, v, statistics=True).statistics
        doubled = attend(q, k, v, scale=2 * scale, statistics=True).statistics.logsumexp
        mean_score = scale * (q * attend(q, k, k).z).sum(-1).transpose(1, 2)
        largest = scale * torch.einsum("bqhd,bkhd->bhqk", q, k).tril().abs().max().clamp(min=1)
        for name, left, right in (
            (ENTROPY, rows.entropy, rows.logsumexp - mean_score),
            (RENYI, rows.sum_squares.log(), doubled - 2 * rows.logsumexp),
        ):
            found[name].append(((left - right).abs().max() / largest).item() * 2**53)
    return {name: np.array(errors) for name, errors in found.items()}
