"""Rows of one seed: distances from Bayes's rule, evidence in updates and outputs, the martingale test."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from analyses.core.results import trainings
from analyses.currying.evidence.dice import NewDice
from analyses.currying.evidence.distance import distances
from analyses.currying.evidence.martingale import behind_text, exact, gap_and_move, in_weights, order_variance
from analyses.currying.evidence.odds import Many, explained, log_odds, many, relative, spread_out
from analyses.currying.nets.asking import own_queries
from analyses.currying.nets.contexts import mixed, pooled
from probes.currying.curried import curry
from toy_models.checkpoints import RunConfig, TrainedRun, train_or_load
from toy_models.config import TransformerConfig
from toy_models.seeding import generator
from toy_models.tasks.hidden_source import BIASED, BOS, FAIR

BAYES, ODDS, MARTINGALE = "bayes", "odds", "martingale"
TRAINED, UNTRAINED = "trained", "untrained"
WEIGHTS, OUTPUTS, BY_LSQ = "weights", "outputs", "weights, lsq_o"
DICE = "two dice"
RETRIEVING = 16  # chains in the largest pool whose posterior is held against updates
SHORTEST = 4  # of the contexts whose posterior is
QUERY, FITTED = 12, 48  # tokens of a query, and how many the updates of many contexts share
ARMS = {"1 layer, none": (1, "none"), "2 layers, none": (2, "none"), "2 layers, rope": (2, "rope")}
LENGTHS = (2, 4, 8, 16, 28)
TEXTS, ORDERS = 200, 12
Row = dict[str, object]


# Distances ----------------------------------------------------------------------------------------


def bayes_rows(config, seed: int) -> Iterator[Row]:
    """KL(Bayes || each) of every context of every net."""
    for n in config.n_chains:
        model, task = config.pools.trained(n, seed).model, config.pools.task_of(n, seed)
        cases = [pooled(task, config.pool_length, seed, i) for i in range(config.contexts)]
        yield from _distances(config, seed, model, cases, None)
    model, task = config.net.trained(seed).model, config.net.task_of(seed)
    cases = [mixed(task, one, config.context_length, seed, i) for one in config.sources for i in range(config.contexts)]
    yield from _distances(config, seed, model, cases, task.switch)


def _distances(config, seed: int, model, cases: list, d_symbols: int | None) -> Iterator[Row]:
    for i, case in enumerate(cases):
        draw = generator(seed, "queries", case.name, i)
        found = distances(model, case, config.queries, QUERY, draw, d_symbols)
        for method, value in found.items():
            yield {"part": BAYES, "net": case.name, "what": method, "at": i, "quantity": "kl", "value": value}


# Evidence -----------------------------------------------------------------------------------------


def odds_rows(config, seed: int) -> tuple[list[Row], dict[str, np.ndarray]]:
    """How many dimensions updates and outputs have, and how much of them the posterior says; points to draw."""
    rows, arrays = [], {}
    for n in (n for n in config.n_chains if 1 < n <= RETRIEVING):
        run, task = config.pools.trained(n, seed), config.pools.task_of(n, seed)
        contexts = list(_of_a_pool(task, config, generator(seed, "many", n)))
        told = torch.stack([task.posterior(_text(x))[0, -1] for x in contexts])
        queries = _from_nothing(run, generator(seed, "asked", n))
        for moment, model in ((TRAINED, run.model), (UNTRAINED, run.at(0))):
            found = many(model, contexts, queries, "sink")
            rows += _evidence(f"K={n}", moment, found, told, generator(seed, "shuffled", n))
            if moment == TRAINED:
                arrays[f"points K={n}"] = _points(found, told)
        rows.append(_row(f"K={n}", BY_LSQ, TRAINED, "participation", _spread_of(run.model, contexts, queries)))
    of_dice, points = _dice(config, seed)
    return [*rows, *of_dice], {**arrays, "dice": points}


def _dice(config, seed: int) -> tuple[list[Row], np.ndarray]:
    """Contexts between a fair and a biased die; arrays (context, log odds then the gate bias of every head)."""
    run, task = config.net.trained(seed), config.net.task_of(seed)
    draw = generator(seed, "two dice")
    contexts = [_between_dice(task, config.context_length, draw) for _ in range(config.many)]
    believed = torch.stack([task.posterior(_text(x))[0, -1] for x in contexts])
    told = believed[:, [task.sources.index(FAIR), task.sources.index(BIASED)]]
    queries = torch.cat([task.text(name, FITTED // 2, QUERY, draw) for name in (FAIR, BIASED)])
    rows, points = [], None
    for moment, model in ((TRAINED, run.model), (UNTRAINED, run.at(0))):
        found = many(model, contexts, queries, "sink")
        rows += _evidence(DICE, moment, found, told, generator(seed, "shuffled dice"))
        odds = log_odds(told)
        fits = [explained(odds, one[:, None]) for one in found.gate_bias.T]
        rows.append(_row(DICE, "gate bias", moment, "R2 odds", max(fits)))
        if moment == TRAINED:
            points = torch.cat([odds, found.gate_bias], 1).numpy()
    return rows, points


def _between_dice(task, length: int, draw: torch.Generator) -> Tensor:
    """Throws of two dice, the biased one's share uniform."""
    fair, biased = (task.text(name, 1, length, draw)[0] for name in (FAIR, BIASED))
    share = torch.rand((), generator=draw)
    return torch.where(torch.rand(length, generator=draw) < share, biased, fair)


def _evidence(net: str, moment: str, found: Many, told: Tensor, draw: torch.Generator) -> Iterator[Row]:
    odds, mixed_up = log_odds(told), torch.randperm(len(told), generator=draw)
    for what, vectors in ((WEIGHTS, found.weights), (OUTPUTS, found.outputs)):
        yield _row(net, what, moment, "participation", spread_out(vectors))
        yield _row(net, what, moment, "R2 odds", explained(odds, vectors))
        yield _row(net, what, moment, "R2 posterior", explained(told, vectors))
        yield _row(net, what, moment, "R2 shuffled", explained(told[mixed_up], vectors))


def _row(net: str, what: str, moment: str, quantity: str, value: float) -> Row:
    return {"part": ODDS, "net": net, "what": f"{what}, {moment}", "at": 0, "quantity": quantity, "value": value}


def _spread_of(model, contexts: list[Tensor], queries: Tensor) -> float:
    return spread_out(torch.stack([relative(curry(model, x, "lsq_o", queries), model) for x in contexts]))


def _points(found: Many, told: Tensor) -> np.ndarray:
    """(context, 5): two principal coordinates of the weights and of the outputs, and the likeliest chain."""
    flat = []
    for vectors in (found.weights, found.outputs):
        left, size, _ = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
        flat.append(left[:, :2] * size[:2])
    return torch.cat([*flat, told.argmax(1, keepdim=True).double()], 1).numpy()


def _of_a_pool(task, config, draw: torch.Generator) -> Iterator[Tensor]:
    for _ in range(config.many):
        chain = int(torch.randint(task.n_chains, (1,), generator=draw))
        length = int(torch.randint(SHORTEST, config.pool_length + 1, (1,), generator=draw))
        yield task.text(chain, 1, length, draw)[0]


def _from_nothing(run: TrainedRun, draw: torch.Generator) -> Tensor:
    """The trained model's own samples behind BOS alone: queries that favour no context."""
    return own_queries(run.model, torch.tensor([], dtype=torch.long), FITTED, QUERY, draw)


def _text(x: Tensor) -> Tensor:
    return torch.cat([torch.tensor([BOS]), x])[None]


# The martingale test ------------------------------------------------------------------------------


def martingale_rows(config, seed: int) -> Iterator[Row]:
    """Gap, move and variance over orders, by length of the text, of every predictor."""
    task = NewDice()
    for arm, (layers, position) in ARMS.items():
        model = TransformerConfig(
            **{"n_layers": layers, "n_heads": 2, "d_model": 32, "d_mlp": 64, "d_vocab": task.d_vocab},
            **{"n_ctx": task.n_ctx, "position": position, "normalization_type": "RMS", "bos_id": BOS},
        )
        run = RunConfig(model=model, task=task, train=config.dice, seed=seed)
        trained = train_or_load(run, **trainings(), show_progress=False)
        last = list(ARMS)[-1]
        readers = {arm: (behind_text(trained.model), TEXTS)}
        if arm == last:
            readers |= {
                "Bayes": (exact(task), TEXTS),
                f"{arm}, untrained": (behind_text(trained.at(0)), TEXTS),
                f"{arm}, W'": (in_weights(trained.model, FITTED, generator(seed, "uniform")), config.texts),
            }
        for name, (predict, n) in readers.items():
            yield from _tested(name, predict, task, n, seed)


def _tested(name: str, predict: Callable, task: NewDice, n: int, seed: int) -> Iterator[Row]:
    for length in LENGTHS:
        draw = generator(seed, "throws", length)
        texts = task.text(n, length + 1, draw)
        gap, move = gap_and_move(predict, texts[:, :-1], texts[:, -1], task.n_sides)
        found = {"gap": gap, "move": move}
        if n == TEXTS:
            found["order variance"] = order_variance(predict, texts[:, :-1], texts[:, -1], ORDERS, draw)
        for quantity, value in found.items():
            yield {
                "part": MARTINGALE,
                "net": "new dice",
                "what": name,
                "at": length,
                "quantity": quantity,
                "value": value,
            }
