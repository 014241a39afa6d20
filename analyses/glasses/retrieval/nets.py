"""A net that was trained to find the largest of a few items, and the same net at birth, on sets of any size.

Each set is scored once; the same scores go through every normaliser, so that their errors compare set by set.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from probes.sharpness import missed_mass, peak_bound, retrieval_loss, sharpness
from toy_models.normalisers.adaptive import Adaptive
from toy_models.normalisers.log_n import LogN
from toy_models.normalisers.softmax import Softmax
from toy_models.seeding import generator
from toy_models.set_retrieval import SetRetrieval, learn
from toy_models.tasks.item_sets import MaxRetrieval

SOFTMAX, ADAPTIVE, LOG_N, HARD_MAX = "softmax", "adaptive", "log_n", "hard_max"
TRAINED, UNTRAINED = "trained", "untrained"
MAX_RETRIEVAL, NEEDLE = "max_retrieval", "needle"
# Entropies (nats) at and beyond which the fit of the adaptive temperature is below 1.  The polynomial is 1 at 0.84858
# and 5.94452; these lie further out by more than an entropy in float32 is off by, so that no row is on the edge.
DEAD_BELOW, DEAD_ABOVE = 0.8485, 5.9446
ITEMS_AT_ONCE = 2**13  # what the processor's cache holds of one layer
SPARED = 4  # all but the trained net on max retrieval answer one of so many sets: far from any bound, they need fewer


def rows(config, seed: int) -> Iterator[dict]:
    """Rows of one seed: both nets, both tasks, every length and normaliser."""
    tasks = {MAX_RETRIEVAL: config.task, NEEDLE: config.needle}
    for model in (UNTRAINED, TRAINED):
        net = SetRetrieval(replace(config.model, device=config.device), seed)
        if model == TRAINED:
            for _ in learn(net, config.task, config.train, seed=seed):
                pass
        for name, task in tasks.items():
            for length in config.lengths:
                n_sets = min(config.sets, config.items // length)
                n_sets = n_sets if (model, name) == (TRAINED, MAX_RETRIEVAL) else n_sets // SPARED
                stream = generator(seed, "test", name, length)
                found = measure(net, task.at(length), n_sets, stream, unchanged_at=config.task.longest)
                for normaliser, numbers in found.items():
                    place = {"model": model, "task": name, "normaliser": normaliser, "seed": seed, "length": length}
                    yield place | {"sets": n_sets} | numbers


@torch.no_grad()
def measure(
    net: SetRetrieval, task: MaxRetrieval, n_sets: int, stream: torch.Generator, unchanged_at: int
) -> dict[str, dict[str, float]]:
    """By normaliser, the numbers of COLUMNS over sets of one size; log_n is softmax at `unchanged_at` items."""
    n = task.longest
    pieces: list[dict[str, dict[str, torch.Tensor]]] = []
    while n_sets:
        some = min(n_sets, max(1, ITEMS_AT_ONCE // n))
        pieces.append(_one_piece(net, task.sample(some, stream).to(net.cfg.device), unchanged_at))
        n_sets -= some
    return {
        normaliser: summary({name: torch.cat([piece[normaliser][name] for piece in pieces]) for name in columns}, n)
        for normaliser, columns in pieces[0].items()
    }


def _one_piece(net: SetRetrieval, batch, unchanged_at: int) -> dict[str, dict[str, torch.Tensor]]:
    """Per normaliser, numbers of shape (set,)."""
    head = net.blocks[0].attn
    query, items = net.encode(batch.tokens)
    scores, values = head.scores(query, items), head.values(items)

    def errors(weights):
        return (net.unembed(head.out(weights, values)).argmax(-1) != batch.targets)[:, 0].double()

    found = {}
    for name, weights in weightings(scores, unchanged_at).items():
        loss = retrieval_loss(scores, errors, weights)
        missed = missed_mass(weights[:, 0, 0], batch.places)
        told = {"ranking": loss.ranking, "dispersion": loss.dispersion, "accuracy": 1 - loss.total}
        found[name] = per_set(scores, weights) | told | {"target_weight": 1 - missed}
        if name == SOFTMAX:
            found[name]["spread"] = spread_of(scores)
            hard = {"ranking": loss.ranking, "dispersion": 0 * loss.ranking, "accuracy": 1 - loss.ranking}
    return found | {HARD_MAX: hard}


def weightings(scores: torch.Tensor, unchanged_at: int) -> dict[str, torch.Tensor]:
    """Softmax of the scores, and what else is made of them: (batch, head, query, key) each."""
    specs = {SOFTMAX: Softmax(), ADAPTIVE: Adaptive(), LOG_N: LogN(s=1 / math.log(unchanged_at))}
    visible = torch.ones(1, 1, 1, scores.shape[-1], dtype=torch.bool, device=scores.device)
    return {name: spec(scores, visible) for name, spec in specs.items()}


def spread_of(scores: torch.Tensor) -> torch.Tensor:
    """Largest less smallest score of each set, (set,), in nats."""
    return (scores.amax(-1) - scores.amin(-1))[:, 0, 0]


def per_set(scores: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """Numbers of shape (set,): how sharp one row of weights is, and whether it is that of softmax to the bit."""
    visible = torch.ones(1, scores.shape[-1], dtype=torch.bool, device=scores.device)
    plain = Softmax()(scores, visible[None, None])
    found, entropy = sharpness(weights, visible), sharpness(plain, visible).entropy[:, 0, 0]
    changed = (weights != plain).any(-1)[:, 0, 0]
    below, above = entropy <= DEAD_BELOW, entropy >= DEAD_ABOVE
    return {
        "entropy": found.entropy[:, 0, 0],
        "peak": found.peak[:, 0, 0],
        "changed": changed,
        "dead_below": below,
        "dead_above": above,
        "dead_changed": changed & (below | above),
    }


def summary(columns: Mapping[str, torch.Tensor], n: int) -> dict[str, float]:
    """Means over the sets; counts of sets in the dead zones; with a spread, the bound and the worst set against it."""
    told = {name: column.double() for name, column in columns.items()}
    worst = {}
    if "spread" in told:
        told["peak_bound"] = peak_bound(told["spread"], torch.tensor([n]))
        worst["peak_excess"] = (told["peak"].log() + math.log(n) - told["spread"]).max().item()
    counts = {
        name: told.pop(name).sum().item() for name in ("dead_below", "dead_above", "dead_changed") if name in told
    }
    return {name: column.mean().item() for name, column in told.items()} | counts | worst
