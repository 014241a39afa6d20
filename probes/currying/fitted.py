"""`lsq` and `lora`: attention's weights fitted by descent, from the best closed form that they contain.

    W' = argmin  objective(W + Delta) + reg sum_k |Delta_k|^2 / |W_k|^2       k: the matrices chosen, all layers
    lora: Delta_k = A_k B_k with r columns in A_k, heads side by side as in `distances`

The objective is `entity` or `kl` (objective.py) on the fit queries.  Both start from the best of no change, `sink` and
`lsq_o` that their matrices can hold, lora from the nearest Delta of rank r, and keep the best iterate.  So neither is
worse there than `sink`, and lora of full rank is no worse than `lsq_o`.  Columns of A_k that the start leaves free are
the leading singular vectors of the gradient there, with B_k zero: nothing is drawn.

Sources: low rank: Hu et al. 2021, arXiv:2106.09685, section 4.1; factors from the gradient: Wang et al. 2024,
arXiv:2407.05000 (LoRA-GA); the objective on entities is ours.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.curried import Fit
from probes.currying.least_squares import lsq_o
from probes.currying.objective import Objective, descend
from probes.currying.oracle import Oracle
from probes.currying.sink import sink
from probes.errors import ProbeInputError

PARTS = ("Q", "K", "V", "O")
STARTS = ("best", "none", "sink", "lsq_o")
Update = dict[str, Tensor]


def lsq(
    oracle: Oracle,
    queries: Int[Tensor, "batch query"],
    *,
    parts: Sequence[str] = PARTS,
    objective: str = "entity",
    reg: float = 0.0,
    steps: int = 100,
    lr: float = 0.01,
    batch: int = 64,
    start: str = "best",
) -> Fit:
    """Fit whole matrices.

    Args:
        parts: some of Q, K, V, O.
        reg: what a change as large as the matrix itself costs, in the objective's unit.
        steps: of Adam, on `batch` queries each in turn, with a cosine schedule.
        lr: Adam's step size over the root mean square of the matrix.
        start: "best" tries "none" and whichever of "sink" and "lsq_o" changes only `parts`.

    Raises:
        ProbeInputError: an option out of range, or a start that refuses the model.
    """
    problem = Problem(oracle, queries, parts, objective, reg, batch)
    begun = [problem.within(fit.weight_update) for fit in problem.starts(start)]
    found = min(begun, key=problem.total)
    free = {name: change.clone() for name, change in found.items()}
    rates = [lr * rms(problem.base[name]) for name in free]
    problem.descend(list(free.values()), rates, lambda: free, steps)
    stored = sum(change.numel() for change in free.values())
    return Fit(free, stored=stored, token_forwards=problem.token_forwards)


def lora(
    oracle: Oracle,
    queries: Int[Tensor, "batch query"],
    *,
    rank: int = 1,
    parts: Sequence[str] = PARTS,
    objective: str = "entity",
    reg: float = 0.0,
    steps: int = 100,
    lr: float = 0.01,
    batch: int = 64,
    start: str = "best",
) -> Fit:
    """Fit changes of rank `rank`, over all heads of a layer together; matrices of less rank have their own.

    Args:
        lr: Adam's step size: of A_k, whose columns have root mean square 1 at the start; of B_k over that of W_k.
        parts, objective, reg, steps, batch, start: as in `lsq`.

    Raises:
        ProbeInputError: a rank below 1 or above every matrix's, and what `lsq` raises.
    """
    problem = Problem(oracle, queries, parts, objective, reg, batch)
    most = max(min(wide(name, weight).shape) for name, weight in problem.base.items())
    if not 1 <= rank <= most:
        raise ProbeInputError(f"rank={rank} must lie between 1 and {most}, the largest rank of the matrices chosen")
    near = [_nearest(problem.within(fit.weight_update), rank) for fit in problem.starts(start)]
    factors = min(near, key=lambda one: problem.total(_multiplied(one, problem.base)))
    gradient = problem.gradient(_multiplied(factors, problem.base))
    factors = {name: _completed(*factors[name], wide(name, gradient[name]), rank) for name in factors}
    free = [factor for pair in factors.values() for factor in pair]
    rates = [rate for name in factors for rate in (lr, lr * rms(problem.base[name]))]
    problem.descend(free, rates, lambda: _multiplied(factors, problem.base), steps)
    stored = sum(factor.numel() for factor in free)
    return Fit(_multiplied(factors, problem.base), stored=stored, token_forwards=problem.token_forwards)


class Problem:
    """The matrices to be changed, the objective, and a copy of the model that updates are tried on."""

    def __init__(self, oracle: Oracle, queries: Tensor, parts: Sequence[str], objective: str, reg: float, batch: int):
        if not reg >= 0:
            raise ProbeInputError(f"reg={reg} must be 0 or more")
        self.oracle, self.queries, self.parts, self.reg = oracle, queries, tuple(parts), reg
        self.base = {name: oracle.model.get_parameter(name).detach() for name in parameters(oracle.model, parts)}
        self.objective = Objective(oracle, queries, objective, batch)
        self._model = Rewritable(oracle.model, self.base)
        self._spent = 0

    @property
    def token_forwards(self) -> int:
        """Build cost so far, starts included."""
        return self._spent + self.objective.token_forwards

    def starts(self, start: str) -> list[Fit]:
        """The fits to begin from, "none" first."""
        if start not in STARTS:
            raise ProbeInputError(f"start={start!r} must be one of {', '.join(STARTS)}")
        inside = tuple(part for part in ("K", "V") if part in self.parts)
        found = [Fit({})] if start in ("best", "none") else []
        try:
            if inside and start in ("best", "sink"):
                found.append(sink(self.oracle, self.queries, parts=inside))
            if "O" in self.parts and start in ("best", "lsq_o"):
                found.append(lsq_o(self.oracle, self.queries))
        except ProbeInputError as error:
            raise ProbeInputError(f"the search begins at closed forms: {error}; or give start='none'") from None
        if not found:
            raise ProbeInputError(f"start={start!r} changes none of parts={self.parts}: give start='none'")
        self._spent += sum(fit.token_forwards for fit in found)
        return found

    def within(self, update: Update) -> Update:
        """The same update, zeros where it is silent."""
        return {name: update.get(name, torch.zeros_like(weight)) for name, weight in self.base.items()}

    @torch.no_grad()
    def total(self, update: Update) -> float:
        """Objective and penalty on all queries."""
        model = self._model.at(update)
        return self.objective.total(model, self.oracle.bare) + self._penalty(update).item()

    def loss(self, update: Update, i: int) -> Float[Tensor, ""]:
        """Objective and penalty on a batch."""
        return self.objective.loss(self._model.at(update), self.oracle.bare, i) + self._penalty(update)

    @torch.enable_grad()
    def gradient(self, update: Update) -> Update:
        """Of `total`, by matrix."""
        free = {name: change.detach().clone().requires_grad_() for name, change in update.items()}
        for i in range(len(self.objective.batches)):
            (self.objective.share(i) * self.loss(free, i)).backward()
        return {name: change.grad for name, change in free.items()}

    def descend(self, free: list[Tensor], rates: list[float], update: Any, steps: int) -> None:
        """Move `free`, from which `update()` is made."""
        n = len(self.objective.batches)
        descend(free, rates, lambda i: self.loss(update(), i), lambda: self.total(update()), n, steps)

    def _penalty(self, update: Update) -> Float[Tensor, ""]:
        size = [(change.square().sum() / self.base[name].square().sum()).double() for name, change in update.items()]
        return self.reg * torch.stack(size).sum()


class Rewritable:
    """A copy of a model whose named weights are plain tensors, so that gradients reach what they are made from."""

    def __init__(self, model: Any, base: Update):
        self._model, self._base = copy.deepcopy(model).requires_grad_(False), base
        for name in base:
            owner, last = self._place(name)
            delattr(owner, last)

    def at(self, update: Update) -> Any:
        """The model at W + update."""
        for name, change in update.items():
            owner, last = self._place(name)
            setattr(owner, last, self._base[name] + change)
        return self._model

    def _place(self, name: str) -> tuple[Any, str]:
        path, _, last = name.rpartition(".")
        return self._model.get_submodule(path), last


def parameters(model: Any, parts: Sequence[str]) -> list[str]:
    """The names of attention's matrices in all layers.

    Raises:
        ProbeInputError: no part, or one that is not Q, K, V or O.
    """
    if not parts or set(parts) - set(PARTS):
        raise ProbeInputError(f"parts={tuple(parts)} must be some of {', '.join(PARTS)}")
    return [f"blocks.{layer}.attn.W_{part}" for layer in range(model.cfg.n_layers) for part in parts]


def wide(name: str, weight: Float[Tensor, "head row column"]) -> Float[Tensor, "reads writes"]:
    """Heads side by side: W_Q, W_K, W_V d_model by (head d_head), W_O (head d_head) by d_model."""
    return weight.flatten(0, 1) if name.endswith("W_O") else weight.transpose(0, 1).flatten(1)


def rms(weight: Tensor) -> float:
    """Root mean square of its entries."""
    return weight.double().square().mean().sqrt().item()


def _multiplied(factors: dict[str, tuple[Tensor, Tensor]], base: Update) -> Update:
    """A B of every matrix, in the matrix's own layout."""
    update = {}
    for name, (a, b) in factors.items():
        heads, rows, columns = base[name].shape
        product = a @ b
        if name.endswith("W_O"):
            update[name] = product.unflatten(0, (heads, rows))
        else:
            update[name] = product.unflatten(1, (heads, columns)).transpose(0, 1)
    return update


def _nearest(update: Update, rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Factors of the nearest change of that rank, without columns that are zero but for rounding."""
    found = {}
    for name, change in update.items():
        u, s, v = torch.linalg.svd(wide(name, change), full_matrices=False)
        k = min(rank, int((s > s[0] * len(s) * torch.finfo(s.dtype).eps).sum()))
        scale = len(u) ** 0.5
        found[name] = (scale * u[:, :k], s[:k, None] * v[:k] / scale)
    return found


def _completed(
    a: Float[Tensor, "reads k"], b: Float[Tensor, "k writes"], gradient: Float[Tensor, "reads writes"], rank: int
) -> tuple[Float[Tensor, "reads rank"], Float[Tensor, "rank writes"]]:
    """More columns for A, orthogonal to those there, the gradient's leading directions first; zeros for B."""
    k, scale = a.shape[1], len(a) ** 0.5
    basis = a / scale
    rest = gradient - basis @ (basis.T @ gradient)
    leading = torch.linalg.svd(rest, full_matrices=False).U
    new = torch.linalg.qr(torch.cat([basis, leading], dim=1)).Q[:, k : min(rank, *gradient.shape)]
    return torch.cat([a, scale * new], dim=1), torch.cat([b, b.new_zeros(new.shape[1], b.shape[1])])
