"""How far somebody moves when a text grows by a token: W', the model with the text before it, and Bayes's rule.

The first two answer the same queries y; Bayes's rule says which source it is.  With p_t what is said behind the first t
tokens written, a row for every token of y, and one of the posterior,

    kl           KL(p_{t+1} || p_t), nats, mean over rows: what the new token taught
    squared      |p_{t+1} - p_t|^2, mean over rows
    from_start   |p_{t+1} - p_0|^2, mean over rows
    weight_step  |W'_{t+1} - W'_t| / |W|, over all matrices that change

If the writer's text brings no evidence beyond what is expected, p is a martingale, its steps are orthogonal in the
mean, and squared adds up to from_start (Doob).
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.curried import Curried, curry
from probes.currying.oracle import Oracle
from toy_models.tasks.hidden_source import BOS

Numbers = dict[str, float]


def moves(
    said: list[Float[Tensor, "batch query d_vocab"]], weight_steps: list[float] | None = None
) -> Iterator[Numbers]:
    """The numbers of every step, from log probabilities behind 0, 1, ... tokens; what is impossible adds nothing."""
    for t in range(len(said) - 1):
        before, after = said[t], said[t + 1]
        gained = after.exp() * (after - before)
        yield {
            "t": t,
            "kl": gained.where(after > -torch.inf, 0.0).sum(-1).mean().item(),
            "squared": (after.exp() - before.exp()).square().sum(-1).mean().item(),
            "from_start": (after.exp() - said[0].exp()).square().sum(-1).mean().item(),
            "weight_step": math.nan if weight_steps is None else weight_steps[t],
        }


def in_weights(
    model, texts: list[Int[Tensor, " pos"]], fit: Int[Tensor, "batch query"], held: Int[Tensor, "batch query"]
) -> tuple[list[Tensor], list[float]]:
    """log p of W' of every text, by sink on the same queries, and the steps of W'."""
    made = [curry(model, text, "sink", fit) for text in texts]
    steps = [weight_step(model, *pair) for pair in pairwise(made)]
    return [one.logits(held).double().log_softmax(-1) for one in made], steps


def weight_step(model, before: Curried, after: Curried) -> float:
    """|W'_after - W'_before| / |W|, over all matrices that change."""
    names = sorted(after.weight_update)
    moved = sum((after.weight_update[name] - before.weight_update[name]).double().square().sum() for name in names)
    size = sum(model.get_parameter(name).detach().double().square().sum() for name in names)
    return (moved / size).sqrt().item()


def behind_text(model, texts: list[Tensor], held: Tensor) -> list[Tensor]:
    """log p of the model with every text before the queries."""
    return [Oracle(model, text).logits(held).double().log_softmax(-1) for text in texts]


def by_bayes(task, texts: list[Tensor]) -> list[Float[Tensor, "one one source"]]:
    """log p(source | text), by Bayes's rule: as if it were one row."""
    starts = (torch.cat([torch.tensor([BOS]), text])[None] for text in texts)
    return [task.posterior(start)[:, -1:].log() for start in starts]


def expected_gap(task, texts: list[Int[Tensor, " pos"]]) -> float:
    """|E_z[p(source | text, z)] - p(source | text)|, the largest of all texts and sources, z by Bayes's own rule.

    z runs over the symbols: the word "in deployment" ends every source and is left out.
    """
    worst = 0.0
    for text in texts:
        start = torch.cat([torch.tensor([BOS]), text])[None]
        symbols = torch.arange(1, task.n_symbols + 1)
        weight = task.predict(start)[0, -1, 1 : task.n_symbols + 1].softmax(-1)
        then = task.posterior(torch.cat([start.expand(len(symbols), -1), symbols[:, None]], 1))[:, -1]
        worst = max(worst, (weight @ then - task.posterior(start)[0, -1]).abs().max().item())
    return worst
