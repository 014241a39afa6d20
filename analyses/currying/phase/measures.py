"""One pool's model after some updates: which predictor it speaks as, and what its contexts need."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.currying.nets.asking import fit_and_held, uniform_fit_and_held
from analyses.currying.nets.contexts import Case, pooled
from probes.algorithm_weights import algorithm_weights
from probes.currying.curried import curry
from probes.currying.oracle import Oracle
from probes.currying.report import compare
from toy_models.seeding import generator
from toy_models.tasks.chain_pool import WAYS, ChainPool

NULLS = ("bias", "steer", "bigram_shift")
SIBLING = "sibling"
LATE = 16  # positions before it tell too little of a chain


@dataclass(frozen=True)
class Voice:
    """As which predictor a model speaks.  Args: weights: by WAYS, nan for those that there are not;  residual: nats;
    losses: of the model on texts of the pool and on fresh chains, nats;  exact: of the exact predictors there."""

    weights: np.ndarray
    residual: float
    losses: tuple[float, float]
    exact: tuple[float, float]


def ways_of(task: ChainPool) -> tuple[str, ...]:
    """The predictors that there are: without a pool nothing can be retrieved."""
    return WAYS if task.n_chains else tuple(name for name in WAYS if name.endswith("inference"))


def texts(task: ChainPool, fresh: ChainPool, n: int, seed: int) -> list:
    """n texts of the pool and n of fresh chains."""
    return [one.sample(n, generator(seed, "texts", one.n_chains)) for one in (task, fresh)]


@torch.no_grad()
def voice(model, task: ChainPool, fresh: ChainPool, n: int, seed: int) -> Voice:
    """Weights of the four ways over texts of the pool and of fresh chains together, from position LATE on."""
    drawn = texts(task, fresh, n, seed)
    told = [model(one.tokens).double() for one in drawn]
    known = [torch.stack([task.way(name, one.tokens) for name in ways_of(task)]) for one in drawn]
    fit = algorithm_weights(torch.cat(told)[:, LATE:], torch.cat(known, 1)[:, :, LATE:])
    weights = np.full(len(WAYS), np.nan)
    weights[[WAYS.index(name) for name in ways_of(task)]] = fit.weights.numpy()
    exact = [of.predict(one.tokens) for of, one in zip((task, fresh), drawn, strict=True)]
    losses = [_loss(one, batch.targets) for one, batch in zip(told, drawn, strict=True)]
    best = [_loss(one, batch.targets) for one, batch in zip(exact, drawn, strict=True)]
    return Voice(weights, fit.residual.item(), tuple(losses), tuple(best))


def calibrated(task: ChainPool, fresh: ChainPool, n: int, seed: int) -> float:
    """The weight that the fit gives to the exact predictor when it is that predictor that speaks."""
    drawn = torch.cat([one.tokens for one in texts(task, fresh, n, seed)])
    known = torch.stack([task.way(name, drawn) for name in ways_of(task)])
    own = ways_of(task).index("bigram retrieval" if task.n_chains else "bigram inference")
    return algorithm_weights(known[own][:, LATE:], known[:, :, LATE:]).weights[own].item()


def _loss(logits: Float[Tensor, "batch pos d_vocab"], targets: Int[Tensor, "batch pos"]) -> float:
    """Mean cross entropy from position LATE on, nats."""
    said = logits.log_softmax(-1).gather(-1, targets[..., None])
    return -said[:, LATE:].mean().item()


def curried(
    model, task: ChainPool, config, seed: int, index: int, *, born: bool = False, beside: bool = False
) -> dict[str, float]:
    """Share of the KL that sink removes for one context, and what heads take from it.

    Args:
        born: the model is untrained, and is asked uniform tokens.
        beside: the shares of other methods too.
    """
    case = pooled(task, config.context_length, seed, index)
    sizes = (config.queries.fit, config.queries.held_out)
    length = config.queries.length
    draw = generator(seed, "queries", task.n_chains, index)
    if born:
        fit, held = uniform_fit_and_held(model, sizes, length, draw)
    else:
        fit, held = fit_and_held(model, case.context, sizes, length, draw)
    oracle = Oracle(model, case.context)
    reports = {
        method: compare(curry(model, case.context, method, fit), oracle, held)
        for method in ("sink", *(("lsq_o", *NULLS) if beside else ()))
    }
    shares = {method: _known(report.share_removed) for method, report in reports.items()}
    if beside:
        shares[SIBLING] = _sibling(model, case, oracle, held, sizes, length, seed, index)
    rho = reports["sink"].rho.double().mean(-1)
    told = {"rho_first": rho[0].item(), "rho_last": rho[-1].item(), "rho_look_up": looked_up(case, held)}
    return {"baseline_kl": reports["sink"].baseline_kl.item(), **shares, **told}


def _sibling(model, case: Case, oracle: Oracle, held: Tensor, sizes, length: int, seed: int, index: int) -> float:
    """The share that sink's W' of another context of the same chain removes."""
    fit, _ = fit_and_held(model, case.sibling, sizes, length, generator(seed, "sibling's queries", case.name, index))
    seen = {tuple(row) for row in held.tolist()}
    fit = torch.tensor([row for row in fit.tolist() if tuple(row) not in seen])
    return _known(compare(curry(model, case.sibling, "sink", fit), oracle, held).share_removed)


def looked_up(case: Case, held: Int[Tensor, "batch query"]) -> float:
    """rho of a head that returns what followed the query's token in the context, the mean of one-hot vectors."""
    text, size = case.context, int(max(case.context.max(), held.max())) + 1
    followed = torch.zeros(size, size, dtype=torch.float64)
    followed.index_put_((text[:-1], text[1:]), torch.ones(len(text) - 1, dtype=torch.float64), accumulate=True)
    seen = followed.sum(-1)
    asked = held.flatten()[seen[held.flatten()] > 0]
    told = followed[asked] / seen[asked, None]
    return 1 - (told.mean(0).square().sum() / told.square().sum(-1).mean()).item()


def _known(share: float | None) -> float:
    return float("nan") if share is None else share
