"""One step of gradient descent as W', with every benefit of the doubt: its length is found on the fit queries.

    W'_k = W_k - eta_k d_k       k: attention's matrices
    gradient           g = d/dW of L(x) = mean next-token cross entropy on [BOS, x]: the context is data to learn from
    distill_gradient   g = d/dW of the mean KL(oracle || model) on the fit queries: what the best step could know

    direction d   plain    g
                  sign     sign(g)
                  rms      g_k with the root mean square of W_k, matrix by matrix
                  fisher   (F + lambda)^-1 g, F = mean_t g_t g_t^T over the context's n tokens, matrices together

F is the empirical Fisher matrix; by Woodbury its step is G^T (G G^T / n + lambda)^-1 1/n with the g_t as rows of G.
eta >= 0 makes KL(oracle || model) on the fit queries least: the lengths eta |d| / |W| from 1e-4 to 3, refined by
golden sections; eta = 0, which is no step, is among them.  So no step is ever worse there than none.

Sources: Question 1 of the seminar that this package serves; empirical Fisher: Kunstner et al. 2019, arXiv:1905.12558,
equation 3.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.curried import Fit
from probes.currying.fitted import PARTS, Problem, Update, parameters, rms
from probes.currying.objective import descend, split
from probes.currying.oracle import Oracle
from probes.currying.reading import AfterBos
from probes.errors import ProbeInputError

DIRECTIONS = ("plain", "sign", "rms", "fisher")
LENGTHS = tuple(10 ** (k / 2) for k in range(-8, 2))  # of the step over that of W
GOLDEN = (math.sqrt(5) - 1) / 2
SECTIONS = 6
FACTORS = (0.0, 0.25, 0.5, 2.0, 4.0)
SWEEPS = 3
MOST_NUMBERS = 2**30  # that the context's token gradients may have together


def gradient(
    oracle: Oracle,
    queries: Int[Tensor, "batch query"],
    *,
    parts: Sequence[str] = PARTS,
    direction: str = "plain",
    damping: float = 1e-3,
    eta: float | dict[str, float] | None = None,
    per_matrix: bool = False,
    batch: int = 64,
) -> Fit:
    """One step on the context's own loss.

    Args:
        parts: some of Q, K, V, O.
        damping: lambda over the mean of diag(G G^T / n), for "fisher".
        eta: the step size, one or by parameter name; None searches; `provenance.chosen` has what was taken.
        per_matrix: whether every matrix has a step size of its own.

    Raises:
        ProbeInputError: an option out of range, a context with nothing to predict, or too large for "fisher".
    """
    d, spent = descent(oracle, parts, direction, damping)
    return _stepped(Problem(oracle, queries, parts, "kl", 0.0, batch), d, eta, per_matrix, spent)


def distill_gradient(
    oracle: Oracle,
    queries: Int[Tensor, "batch query"],
    *,
    parts: Sequence[str] = PARTS,
    direction: str = "plain",
    eta: float | dict[str, float] | None = None,
    per_matrix: bool = False,
    batch: int = 64,
) -> Fit:
    """One step on the divergence from the oracle itself.  Arguments as in `gradient`; no "fisher".

    Raises:
        ProbeInputError: an option out of range.
    """
    if direction not in DIRECTIONS[:3]:
        raise ProbeInputError(f"direction={direction!r} must be one of {', '.join(DIRECTIONS[:3])}")
    problem = Problem(oracle, queries, parts, "kl", 0.0, batch)
    found = scaled(problem.gradient(problem.within({})), problem.base, direction)
    return _stepped(problem, found, eta, per_matrix, 0)


def finetune(
    oracle: Oracle,
    queries: Int[Tensor, "batch query"],
    *,
    parts: Sequence[str] | None = PARTS,
    steps: int = 100,
    lr: float = 0.01,
    batch: int = 64,
) -> Fit:
    """What training would give: Adam on the next-token cross entropy of samples, behind BOS.

    The queries *are* the samples: texts of the distribution that the context comes from.  The oracle is never asked,
    and the context enters by where a query stands alone.

    Args:
        parts: some of Q, K, V, O; None is every parameter of the model.
        steps, lr: Adam's, as in `lsq` (a parameter of zeros counts as one of ones); the iterate with the least loss on
            all samples is kept.

    Raises:
        ProbeInputError: samples of one token, which have nothing to predict, or an option out of range.
    """
    if queries.shape[1] < 2:
        raise ProbeInputError("samples of 1 token have nothing to predict: give longer ones")
    model, bare, batches = oracle.copy_of_model().requires_grad_(False), oracle.bare, split(queries, batch)
    names = [name for name, _ in model.named_parameters()] if parts is None else parameters(model, parts)
    free = [model.get_parameter(name) for name in names]
    spent = 0

    def loss(i: int) -> Tensor:
        nonlocal spent
        some = batches[i]
        spent += (some.numel() + len(some) * bare.length) * (3 if torch.is_grad_enabled() else 1)
        return _next_token(bare.read(model, some)[0], some).mean()

    @torch.no_grad()
    def total() -> float:
        return sum(len(some) * loss(i).item() for i, some in enumerate(batches)) / len(queries)

    rates = [lr * (rms(weight) or 1.0) for weight in free]
    descend(free, rates, loss, total, len(batches), steps)
    update = {
        name: (weight - oracle.model.get_parameter(name)).detach() for name, weight in zip(names, free, strict=True)
    }
    return Fit(update, stored=sum(change.numel() for change in update.values()), token_forwards=spent)


def descent(
    oracle: Oracle, parts: Sequence[str] = PARTS, direction: str = "plain", damping: float = 1e-3
) -> tuple[Update, int]:
    """d by parameter name, and what it cost in token-forwards: what `gradient` steps along, -d downhill.

    Raises:
        ProbeInputError: as `gradient`.
    """
    if direction not in DIRECTIONS:
        raise ProbeInputError(f"direction={direction!r} must be one of {', '.join(DIRECTIONS)}")
    if not damping > 0:
        raise ProbeInputError(f"damping={damping} must be positive: the Fisher matrix has less than full rank")
    if oracle.text.shape[1] < 2:
        raise ProbeInputError("a context of 1 token without BOS has nothing to predict: give bos_id, or more tokens")
    names = parameters(oracle.model, parts)
    model = oracle.copy_of_model().requires_grad_(False)
    weights = [model.get_parameter(name).requires_grad_() for name in names]
    text, n = oracle.text, oracle.text.shape[1] - 1
    with torch.enable_grad():
        losses = _next_token(AfterBos(None).read(model, text)[0], text)[0]
        if direction != "fisher":
            found = torch.autograd.grad(losses.mean(), weights)
            base = {name: weight.detach() for name, weight in zip(names, weights, strict=True)}
            return scaled(dict(zip(names, found, strict=True)), base, direction), 3 * text.numel()
        found = _natural(losses, weights, damping)
    return dict(zip(names, found, strict=True)), (1 + 2 * n) * text.numel()


def scaled(gradient: Update, base: Update, direction: str) -> Update:
    """The direction that "plain", "sign" or "rms" makes of a gradient; zeros stay zeros."""
    if direction == "plain":
        return gradient
    if direction == "sign":
        return {name: g.sign() for name, g in gradient.items()}
    return {name: g * (rms(base[name]) / rms(g)) if g.any() else g for name, g in gradient.items()}


def step_sizes(weight_update: Update, d: Update) -> dict[str, float]:
    """eta by parameter name of a step taken along -d: |W' - W| / |d|, 0 where d is 0."""
    size = {name: change.norm().item() for name, change in d.items()}
    return {name: weight_update[name].norm().item() / size[name] if size[name] else 0.0 for name in d}


def _natural(losses: Float[Tensor, " token"], weights: list[Tensor], damping: float) -> list[Tensor]:
    """(F + lambda)^-1 g, from the gradients of single tokens."""
    numbers = len(losses) * sum(weight.numel() for weight in weights)
    if numbers > MOST_NUMBERS:
        raise ProbeInputError(
            f"direction='fisher' would hold {numbers} numbers, over {MOST_NUMBERS}: choose fewer parts or less context"
        )
    rows = [torch.autograd.grad(loss, weights, retain_graph=True) for loss in losses]
    n = len(rows)
    single = [torch.stack([row[k] for row in rows]).flatten(1) for k in range(len(weights))]
    gram = sum((g.double() @ g.double().T for g in single), losses.new_zeros(n, n, dtype=torch.float64)) / n
    gram += damping * gram.diagonal().mean() * torch.eye(n, dtype=gram.dtype, device=gram.device)
    share = torch.linalg.solve(gram, torch.full((n,), 1 / n, dtype=gram.dtype, device=gram.device))
    return [(share.to(g) @ g).view_as(weight) for g, weight in zip(single, weights, strict=True)]


def _next_token(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos-1"]:
    """Cross entropy of every token but the first, nats."""
    told = logits[:, :-1].double().log_softmax(-1)
    return -told.gather(2, tokens[:, 1:, None].to(told.device))[..., 0]


def _stepped(problem: Problem, d: Update, eta: float | dict[str, float] | None, per_matrix: bool, spent: int) -> Fit:
    """The step, with its size given or searched."""
    if isinstance(eta, dict) and set(eta) != set(d):
        raise ProbeInputError(f"eta has {', '.join(sorted(eta)) or 'no names'}: it must have {', '.join(d)}")
    if isinstance(eta, float | int):
        eta = dict.fromkeys(d, float(eta))
    if eta is None:
        eta = _searched(problem, d, per_matrix)
    update = {name: -eta[name] * change for name, change in d.items()}
    stored = sum(change.numel() for change in update.values())
    return Fit(update, stored=stored, token_forwards=spent + problem.token_forwards, chosen={"eta": eta})


def _searched(problem: Problem, d: Update, per_matrix: bool) -> dict[str, float]:
    """The step sizes with the least objective: one, and then, if asked for, each in turn from there."""

    def at(eta: dict[str, float]) -> float:
        return problem.total({name: -eta[name] * change for name, change in d.items()})

    unit = _unit(problem.base, d)
    if not unit:
        return dict.fromkeys(d, 0.0)
    eta = dict.fromkeys(d, unit * _line(lambda length: at(dict.fromkeys(d, unit * length))))
    if not per_matrix:
        return eta
    own = {name: _unit({name: problem.base[name]}, {name: change}) for name, change in d.items()}
    best = at(eta)
    for _ in range(SWEEPS):
        before = best
        for name in d:
            around = eta[name] or LENGTHS[4] * own[name]
            for factor in FACTORS:
                tried = {**eta, name: factor * around}
                if (now := at(tried)) < best:
                    best, eta = now, tried
        if best == before:
            break
    return eta


def _unit(base: Update, d: Update) -> float:
    """The eta of a step as long as W; 0 where there is no direction."""
    size = [math.sqrt(sum(x.double().square().sum().item() for x in which.values())) for which in (base, d)]
    return size[0] / size[1] if size[1] else 0.0


def _line(value: Callable[[float], float]) -> float:
    """The length with the least value: 0, the best of LENGTHS, or one between its neighbours."""
    tried = {0.0: value(0.0)} | {length: value(length) for length in LENGTHS}
    best = min(tried, key=lambda length: tried[length])
    if not best:
        return best
    low, high = math.log(best) - math.log(10) / 2, math.log(best) + math.log(10) / 2
    for _ in range(SECTIONS):
        inner, outer = (math.exp(high - GOLDEN * (high - low)), math.exp(low + GOLDEN * (high - low)))
        for length in (inner, outer):
            if length not in tried:
                tried[length] = value(length)
        low, high = (low, math.log(outer)) if tried[inner] <= tried[outer] else (math.log(inner), high)
    return min(tried, key=lambda length: tried[length])
