"""What W' of many contexts has to do with what Bayes's rule makes of them.

Contexts x_1 ... x_n, all curried on the same queries y.  Two vectors for each:

    weights    (W' - W) of every matrix, flat, over that matrix's size |W|
    outputs    log T_{W'}(y) - log T_W(y), every row of every query

and with s the singular values of the n vectors, centred,

    participation   (sum s^2)^2 / sum s^4        1 if they lie on a line, n - 1 at most
    R^2             of a ridge regression on what Bayes's rule says, on contexts left out, 1 at most

A posterior over K sources has K - 1 numbers.  The outputs do not change with the basis inside a head; the weights do.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.curried import Curried, curry
from probes.currying.distances import participation

LARGEST_ODDS = 8.0  # nats: beyond, evidence changes no probability by more than 4e-4
FOLDS, RIDGE = 8, 1e-2


@dataclass(frozen=True)
class Many:
    """Vectors of many contexts, and the mean score that BOS gains from W' in every head (nats)."""

    weights: Float[Tensor, "context number"]
    outputs: Float[Tensor, "context number"]
    gate_bias: Float[Tensor, "context head"]


def many(model, contexts: list[Int[Tensor, " context"]], queries: Int[Tensor, "batch query"], method: str) -> Many:
    """Curry every context on the same queries."""
    scores = [f"blocks.{layer}.attn.hook_attn_scores" for layer in range(model.cfg.n_layers)]
    nothing = curry(model, contexts[0][:0], method, queries)
    before, first = nothing.read(queries, scores)
    made = [curry(model, x, method, queries) for x in contexts]
    read = [one.read(queries, scores) for one in made]
    gained = [
        torch.cat([(found[name][..., 0] - first[name][..., 0]).double().mean((0, 2)) for name in scores])
        for _, found in read
    ]
    outputs = [(logits.double().log_softmax(-1) - before.double().log_softmax(-1)).flatten() for logits, _ in read]
    return Many(torch.stack([relative(one, model) for one in made]), torch.stack(outputs), torch.stack(gained))


def relative(curried: Curried, model) -> Float[Tensor, " number"]:
    """W' - W, each matrix over the size of its W, as one vector."""
    return torch.cat(
        [
            (change.double() / model.get_parameter(name).detach().double().norm()).flatten()
            for name, change in sorted(curried.weight_update.items())
        ]
    )


def spread_out(vectors: Float[Tensor, "context number"]) -> float:
    """Participation ratio of the centred vectors, 1 to one less than there are."""
    return participation(torch.linalg.svdvals(vectors - vectors.mean(0))).item()


def log_odds(posterior: Float[Tensor, "context source"]) -> Float[Tensor, "context fewer"]:
    """ln p(k) / p(0) for every further source, within LARGEST_ODDS."""
    logs = posterior.clamp(min=1e-300).log()
    return (logs[:, 1:] - logs[:, :1]).clamp(-LARGEST_ODDS, LARGEST_ODDS)


def explained(features: Float[Tensor, "context feature"], vectors: Float[Tensor, "context number"]) -> float:
    """R^2 of the vectors on the features, on contexts left out in turn: 1 all, 0 or less nothing."""
    unit = (features - features.mean(0)) / features.std(0).clamp(min=1e-9)
    unit = torch.cat([unit, torch.ones_like(unit[:, :1])], 1)
    fold = torch.arange(len(unit)) % FOLDS
    off = torch.zeros((), dtype=torch.float64)
    for one in range(FOLDS):
        inside, outside = unit[fold != one], unit[fold == one]
        damping = RIDGE * len(inside) * torch.eye(unit.shape[1], dtype=torch.float64)
        damping[-1, -1] = 0.0
        slopes = torch.linalg.solve(inside.T @ inside + damping, inside.T @ vectors[fold != one])
        off += (vectors[fold == one] - outside @ slopes).square().sum()
    return 1 - (off / (vectors - vectors.mean(0)).square().sum()).item()
