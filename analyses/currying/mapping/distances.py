"""Distances between contexts, a map of them, and how many have one of their own source nearest.

    behaviour   mean over rows of the same queries of KL(p_i || p_j) + KL(p_j || p_i), nats; p of T_{W'(x_i)}
    weights     |W'_i - W'_j|, each matrix over the size |W| of its own

Classical scaling (Torgerson 1952) puts points in the plane: with J = 1 - 11^T / n and D the distances, the leading
eigenvectors of -J D^2 J / 2 times the roots of their eigenvalues.  On the distances of vectors it is their principal
components.  The divergence stands for a squared distance, which it is to second order.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def divergences(logs: Float[Tensor, "context row d_vocab"]) -> Float[Tensor, "context context"]:
    """Symmetric KL between every two, mean over rows, from log probabilities; nats, 0 on the diagonal."""
    p = logs.exp()
    own = (p * logs).sum((1, 2)) / logs.shape[1]
    cross = torch.einsum("irv,jrv->ij", p, logs) / logs.shape[1]
    one_way = own[:, None] - cross
    return (one_way + one_way.T).clamp(min=0).fill_diagonal_(0)


def lengths(vectors: Float[Tensor, "context number"]) -> Float[Tensor, "context context"]:
    """Euclidean distance between every two."""
    return torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(0)


def in_the_plane(squared: Float[Tensor, "context context"], dimensions: int = 2) -> Float[Tensor, "context axis"]:
    """Classical scaling of squared distances; an axis of no length is zeros."""
    n = len(squared)
    centre = torch.eye(n, dtype=squared.dtype) - 1 / n
    values, vectors = torch.linalg.eigh(-0.5 * centre @ squared @ centre)
    return vectors[:, -dimensions:].flip(1) * values[-dimensions:].flip(0).clamp(min=0).sqrt()


def nearest_is_own(distance: Float[Tensor, "context context"], source: list[str]) -> float:
    """Share of contexts whose nearest other one is of the same source, 0 to 1."""
    away = distance.clone().fill_diagonal_(torch.inf)
    return sum(source[i] == source[j] for i, j in enumerate(away.argmin(1).tolist())) / len(source)


def by_chance(source: list[str]) -> float:
    """The same, expected where the nearest is any other at random."""
    return sum(source.count(one) - 1 for one in source) / (len(source) * (len(source) - 1))
