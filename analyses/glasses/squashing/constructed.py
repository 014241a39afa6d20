"""Models whose sensitivity is known in closed form: x <- x + gain P x, with P set by hand, and no norm.

    uniform   P_ij = 1 / (i + 1) for j <= i                  probes.position_law
    window    the same over the last w positions             powers of a banded matrix
    sink      the first token counts K times                 the law of a text longer by K - 1, whose first K are one

A sink is exact in this form because no token of the longer text that stands among its first K is seen apart.
"""

import math

import torch
from jaxtyping import Float

from probes.position_law import position_law
from toy_models.config import TransformerConfig

D_MODEL = 4  # three coordinates for the tokens, one that no token has
VOCABULARY = 8


@torch.no_grad()
def averaging(n: int, depth: int, gain: float, *, window: int | None = None, sink: int = 1, slope: float = 0.0):
    """A float64 model in which every position adds `gain` times the mean of what it sees.

    Args:
        sink: how many tokens the first one counts for.
        slope: of the score by a coordinate in which no token has anything: the weights are the same for any slope, and
            with it grows what a change of a token does through the softmax.
    """
    from toy_models import Transformer

    size = {"n_layers": depth, "n_heads": 1, "d_model": D_MODEL, "d_vocab": VOCABULARY, "n_ctx": n, "d_mlp": 0}
    options = {"normalization_type": None, "position": "shortformer", "attn_scale": 1.0, "window": window}
    model = Transformer(TransformerConfig(**size, **options, dtype=torch.float64))
    model.W_pos.zero_()
    model.W_E[:, -1] = 0
    model.W_pos[0, -1] = math.log(sink)
    one = torch.eye(D_MODEL, dtype=torch.float64)
    for block in model.blocks:
        for weight in (block.attn.W_Q, block.attn.W_K):
            weight.zero_()
        block.attn.W_K[0, -1, -1] = 1.0
        block.attn.b_Q[0, -1] = slope if slope else float(sink > 1)
        block.attn.W_V[0], block.attn.W_O[0] = one, gain * one
    return model


def known(
    n: int, depth: int, gain: float, *, window: int | None = None, sink: int = 1, slope: float = 0.0
) -> Float[torch.Tensor, " pos"]:
    """What `averaging` of the same options makes of a unit change of each position, weights held fixed: the slope of
    the scores does not count."""
    share, grown = gain / (1 + gain), (1 + gain) ** depth
    if window is None:
        law = position_law(n + sink - 1, depth, share)
        return grown * torch.cat([law[:sink].sum()[None], law[sink:]])
    at = torch.arange(n)
    seen = ((at[:, None] >= at) & (at[:, None] - at < window)).double()
    mean = seen / seen.sum(-1, keepdim=True)
    row = torch.eye(n, dtype=torch.float64)[-1]
    for _ in range(depth):
        row = row + gain * row @ mean
    return row
