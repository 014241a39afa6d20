"""What the W' of one context is worth behind another: the share of KL(oracle || none) that it removes."""

import math
from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from analyses.currying.mapping.contexts import Mapped
from analyses.currying.nets.asking import fit_and_held, uniform_fit_and_held
from probes.currying.comparable import SMALLEST_BASELINE
from probes.currying.curried import NULLS, curry
from probes.currying.oracle import Oracle
from probes.currying.solving import kl
from toy_models.seeding import generator

ITSELF = "itself"


def transfers(config, model, found: Mapped, task, seed: int, *, born: bool = False) -> Iterator[dict[str, object]]:
    """Rows of the oracles of the first contexts of every source.

    Queries are the model's own samples behind the oracle's context, and uniform tokens for one that was just born;
    nulls and the context's own W' are fitted on others of these, and the W' of the other contexts are as they were
    mapped.
    """
    few, held_out = config.transferred
    sizes = (config.queries[0], held_out)
    for i, (source, context) in enumerate(zip(found.source, found.contexts, strict=True)):
        index = i % config.contexts
        if index >= few:
            continue
        draw = generator(seed, "behind", source, index)
        if born:
            fit, held = uniform_fit_and_held(model, sizes, config.query_length, draw)
        else:
            fit, held = fit_and_held(model, context, sizes, config.query_length, draw, task.switch)
        oracle = Oracle(model, context)
        goal = oracle.logits(held)
        nothing = kl(goal, curry(model, context, "none").logits(held)).mean().item()
        row = {"source": source, "index": index}
        for method in (*NULLS, "sink"):
            said = curry(model, context, method, fit).logits(held)
            yield {**row, "what": ITSELF if method == "sink" else method, "value": share(goal, said, nothing)}
        for other in dict.fromkeys(found.source):
            of_it = [one for j, one in enumerate(found.made) if found.source[j] == other and j != i]
            shares = [share(goal, one.logits(held), nothing) for one in of_it]
            yield {**row, "what": other, "value": sum(shares) / len(shares)}


def share(goal: Float[Tensor, "*rows d_vocab"], said: Tensor, nothing: float) -> float:
    """1 - KL(goal || said) / KL(goal || none); nan where that is below 1e-3 nats."""
    if nothing < SMALLEST_BASELINE:
        return math.nan
    return 1 - kl(goal, said).mean().item() / nothing
