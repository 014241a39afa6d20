"""How normalisers pass over hidden keys, whose scores are -inf: products and gradients must stay finite."""

import torch
from jaxtyping import Bool, Float


def scaled(
    scores: Float[torch.Tensor, "batch head query key"], factor: Float[torch.Tensor, "#batch #head query 1"]
) -> Float[torch.Tensor, "batch head query key"]:
    """scores * factor, where hidden keys stay at -inf: neither 0 * -inf nor a gradient to the factor from them."""
    gone = torch.isneginf(scores)
    return (scores.masked_fill(gone, 0.0) * factor).masked_fill(gone, -torch.inf)


def n_visible(
    visible: Bool[torch.Tensor, "#batch 1 query key"], like: torch.Tensor
) -> Float[torch.Tensor, "#batch 1 query 1"]:
    """How many keys each query may look at, in the type of `like`; 1 for a row without any, whose weights are 0."""
    return visible.sum(-1, keepdim=True).clamp(min=1).to(like)
