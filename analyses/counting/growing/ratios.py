"""A text and the same text twice: without mask, positions and BOS a transformer gives both the same logits.

Attention is a mean over tokens, and a mean does not change when everything is there twice; nor does anything that is
done at each position by itself.  So only ratios of counts are seen: c ones of n and 2c of 2n are one text.  A single
BOS in front, a causal mask or a position code tells them apart.

Source: Barbero et al. 2024, arXiv:2406.04267, proposition 6.1 (B.9).
"""

import torch

from analyses.counting.growing.columns import CAUSAL, RATIOS, WITH_BOS, WITH_POSITIONS
from toy_models import Transformer
from toy_models.config import TransformerConfig
from toy_models.seeding import generator
from toy_models.tasks.count_symbols import ONE

ZERO, BOS = 2, 0


@torch.no_grad()
def ratio_rows(seed: int, lengths: tuple[int, ...] = (5, 12, 40)) -> list[dict]:
    """Largest difference of any logit at one token, over the largest logit; a row for every net and length."""
    rows = []
    for name in RATIOS:
        model = Transformer(
            TransformerConfig(
                **{"n_layers": 2, "n_heads": 4, "d_model": 32, "d_vocab": 3, "n_ctx": 1 + 2 * max(lengths)},
                **{"causal": name == CAUSAL, "position": "learned" if name == WITH_POSITIONS else "none"},
                **{"bos_id": 0, "dtype": torch.float64},
            ),
            seed=seed,
        ).double()
        for n in lengths:
            ones = torch.randperm(n, generator=generator(seed, "ratio", n)) < n // 2  # and zeros: both are there
            text = torch.where(ones, ONE, ZERO)[None]
            # under a mask the first token hears nothing but itself: there the last one is read
            at = -1 if name == CAUSAL else int(name == WITH_BOS)
            once, twice = (model(_marked(text.repeat(1, k), name))[0, at] for k in (1, 2))
            far = ((once - twice).abs().max() / once.abs().max()).item()
            rows.append({"net": name, "length": n, "difference": far})
    return rows


def _marked(text: torch.Tensor, name: str) -> torch.Tensor:
    return torch.cat([torch.full((1, 1), BOS), text], 1) if name == WITH_BOS else text
