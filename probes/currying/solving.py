"""The closed forms behind the methods, in float64 on the CPU whatever the model computes in."""

import torch
from jaxtyping import Float
from torch import Tensor

from probes.errors import ProbeInputError


def ridge_solve(
    features: Float[Tensor, "*batch row feature"], targets: Float[Tensor, "*batch row target"], ridge: float
) -> Float[Tensor, "*batch feature target"]:
    """X with the least |features X - targets|^2 + lambda |X|^2, lambda = `ridge` times the mean of diag(features^T
    features); of several such X with ridge 0, the shortest.

    Raises:
        ProbeInputError: a negative ridge, or fewer rows than features.
    """
    if not ridge >= 0:
        raise ProbeInputError(f"ridge={ridge} must be 0 or more")
    rows, width = features.shape[-2:]
    if rows < width:
        raise ProbeInputError(
            f"{rows} query rows cannot fix {width} numbers per target: give at least {width}, by more or longer queries"
        )
    wide, goal = features.double().cpu(), targets.double().cpu()
    damping = (ridge * wide.square().sum(-2).mean(-1)).sqrt()  # *batch
    below = damping[..., None, None] * torch.eye(width, dtype=wide.dtype)
    stacked = torch.cat([wide, below], dim=-2)
    aim = torch.cat([goal, goal.new_zeros(*goal.shape[:-2], width, goal.shape[-1])], dim=-2)
    # By singular values: rank may be lacking where ridge is 0, and the default, "gelsy", differs from call to call.
    return torch.linalg.lstsq(stacked, aim, driver="gelsd").solution


def reading_direction(
    own: Float[Tensor, " d_model"], others: Float[Tensor, "row d_model"], damping: float
) -> Float[Tensor, " d_model"]:
    """u with u . own = 1 and the least mean (u . other)^2 + lambda |u|^2: u ~ S^-1 own.

    S = mean of other other^T + lambda, lambda = `damping` times the mean of its diagonal.  A weight changed by an
    outer product with u changes what `own` reads, and what the others read as little as can be.

    Source: Meng et al. 2022, arXiv:2202.05262, equation 2 (the rank-one edit of ROME).

    Raises:
        ProbeInputError: damping that is not positive, or an `own` of zeros.
    """
    if not damping > 0:
        raise ProbeInputError(f"damping={damping} must be positive: it keeps the direction from growing without bound")
    if not own.any():
        raise ProbeInputError("attention reads zeros from BOS: no weight can change what it says; take kv or lsq_o")
    target, rows = own.double().cpu(), others.double().cpu()
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    size = values.clamp(min=0)  # rounding leaves some below 0
    weight = vectors @ ((vectors.T @ target) / (size + damping * size.mean()))
    return weight / (weight @ target)


def kl(target: Float[Tensor, "*rows d_vocab"], logits: Float[Tensor, "*rows d_vocab"]) -> Float[Tensor, " *rows"]:
    """KL(softmax(target) || softmax(logits)) of every row, in nats, in float64."""
    p, q = target.double().log_softmax(-1), logits.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)
