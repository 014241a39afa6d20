"""What fitted methods make small, and Adam.

    entity   mean over sites of sum |e' - e|^2 / max(sum |e - mean e|^2, 0.03^2 sum |e|^2)   sums over all rows
    kl       mean over rows of KL(oracle || fitted model), nats

The first is the mean square of `CurryReport.entity_error`, the second its `kl`, both on the fit queries.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.comparable import ENTITY_FLOOR
from probes.currying.oracle import Oracle
from probes.currying.reading import Reader, sites
from probes.currying.solving import kl
from probes.errors import ProbeInputError

OBJECTIVES = ("entity", "kl")
CHECKS = 10  # how often a search looks at all queries


class Objective:
    """How far a reading is from the oracle, on all queries or on the i-th batch of them.

    Batches are taken in the order of the queries, so nothing is drawn.  `token_forwards` grows with every use: 1 for
    a token forward, 2 more where gradients are on.

    Raises:
        ProbeInputError: an unknown name, or a batch below 1.
    """

    def __init__(self, oracle: Oracle, queries: Int[Tensor, "batch query"], name: str = "entity", batch: int = 64):
        if name not in OBJECTIVES:
            raise ProbeInputError(f"objective={name!r} must be one of {', '.join(OBJECTIVES)}")
        self._wanted = sites(oracle.model) if name == "entity" else ()
        self.batches = split(queries, batch)
        read = [oracle.read(some, self._wanted) for some in self.batches]
        self._logits = [] if self._wanted else [logits for logits, _ in read]
        self._entities = [found for _, found in read] if self._wanted else []
        self._size = {site: _size(torch.cat([found[site] for found in self._entities])) for site in self._wanted}
        self.token_forwards = oracle.text.numel() + queries.numel()

    def loss(self, model: Any, reader: Reader, i: int) -> Float[Tensor, ""]:
        """On batch i, scaled as on all queries; differentiable in the model's weights."""
        some = self.batches[i]
        self.token_forwards += some.numel() * (3 if torch.is_grad_enabled() else 1)
        self.token_forwards += len(some) * reader.length * (3 if torch.is_grad_enabled() else 1)
        logits, found = reader.read(model, some, self._wanted)
        if not self._wanted:
            return kl(self._logits[i], logits).mean()
        off = [(found[site] - goal).double().square().sum() / self._size[site] for site, goal in self._pairs(i)]
        return torch.stack(off).mean() / self.share(i)

    @torch.no_grad()
    def total(self, model: Any, reader: Reader) -> float:
        """On all queries."""
        return sum(self.share(i) * self.loss(model, reader, i).item() for i in range(len(self.batches)))

    def share(self, i: int) -> float:
        """Batch i's part of all queries."""
        return len(self.batches[i]) / sum(map(len, self.batches))

    def _pairs(self, i: int) -> list[tuple[str, Tensor]]:
        return [(site, self._entities[i][site]) for site in self._wanted]


def split(queries: Int[Tensor, "batch query"], batch: int) -> tuple[Tensor, ...]:
    """Batches of that many, in order.

    Raises:
        ProbeInputError: below 1.
    """
    if batch < 1:
        raise ProbeInputError(f"batch={batch} must be at least 1")
    return queries.split(batch)


def _size(entities: Float[Tensor, "batch query d_model"]) -> Float[Tensor, ""]:
    rows = entities.double().flatten(0, 1)
    return torch.maximum((rows - rows.mean(0)).square().sum(), ENTITY_FLOOR**2 * rows.square().sum())


@torch.enable_grad()
def descend(
    free: Sequence[Tensor],
    rates: Sequence[float],
    loss: Callable[[int], Tensor],
    total: Callable[[], float],
    n_batches: int,
    steps: int,
) -> float:
    """Lessen `total` by Adam on batches in turn, with a cosine schedule, and leave `free` at the best found.

    The start counts, so the result is never worse; `total` is asked there and ten times on the way.

    Args:
        free: leaves to be changed in place; they end without gradients.
        rates: Adam's first step size, one per leaf.
        loss: of batch i.

    Returns:
        the least `total`.

    Raises:
        ProbeInputError: negative steps, or a start whose total is not finite.
    """
    if steps < 0:
        raise ProbeInputError(f"steps={steps} must be 0 or more")
    for leaf in free:
        leaf.requires_grad_(True)
    best, kept = total(), [leaf.detach().clone() for leaf in free]
    if not math.isfinite(best):
        raise ProbeInputError(f"the objective is {best} before the first step: check the model's weights")
    search = torch.optim.Adam([{"params": [leaf], "lr": rate} for leaf, rate in zip(free, rates, strict=True)])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(search, max(steps, 1))
    every = max(1, steps // CHECKS)
    for step in range(1, steps + 1):
        search.zero_grad()
        loss((step - 1) % n_batches).backward()
        search.step()
        schedule.step()
        if step % every == 0 or step == steps:
            now = total()
            if now < best:
                best, kept = now, [leaf.detach().clone() for leaf in free]
    with torch.no_grad():
        for leaf, value in zip(free, kept, strict=True):
            leaf.requires_grad_(False).copy_(value)
            leaf.grad = None
    return best
