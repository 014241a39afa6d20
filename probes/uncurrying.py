"""Uncurrying: is a change of the weights a context?  The best context for a given update, and what none can do.

W' = W + dW is given, and a context is sought that makes W do, before the query y, what W' does with y alone:

    left(X)   mean KL(T_{W'}(y) || T_W(X, y))      nats, over queries and positions; X nothing: what the step changed
    share     1 - left(X) / left(nothing)          1: the step is a context; 0: no better than none; below 0: worse

X is a few tokens, or as many free pairs of a key and a value in every layer and head, which hold every such context:
descent begins at the best of the token contexts tried and at BOS alone, and keeps the better.

What no context can do: behind one, a head says (1 - g) n + g c with a gate g and an average c of its own, and n, what
the query's own keys say, is mixed as before.  So

    moved     mean total variation between T_W' and T_W of the attention to the query's own tokens, renormalised;
              0 to 1, per layer and head, over rows that have two of them or more

is out of a context's reach in the first layer, where queries and keys depend on nothing before; above it, a context may
move it through what layers below write.

Source: a prefix acts through gate and average alone: Petrov et al. 2024, arXiv:2310.19698, section 4; the inverse
question and its measure are ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.curried import updated
from probes.currying.fitted import rms
from probes.currying.objective import descend
from probes.currying.oracle import PATTERN
from probes.currying.pairs import AfterPairs
from probes.currying.reading import AfterBos, check_queries
from probes.currying.solving import kl
from probes.errors import ProbeInputError

BISECTIONS = 40
Update = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Uncurried:
    """A context for an update.

    Args:
        pairs: the best free pairs.
        context: the best tokens of those tried.
        left: by "nothing", "tokens", "mean tokens" and "pairs", on the queries searched on, nats.
    """

    pairs: AfterPairs
    context: Int[Tensor, " context"]
    left: dict[str, float]


def uncurry(
    model: Any,
    update: Update,
    queries: Int[Tensor, "batch query"],
    contexts: Int[Tensor, "candidate context"],
    *,
    steps: int = 60,
    lr: float = 0.1,
) -> Uncurried:
    """Search for the context that an update is.

    Args:
        update: W' - W by parameter name.
        queries, contexts: tokens without BOS; of the contexts the best is where descent begins.
        steps: of Adam, on all queries, from each of the two starts.
        lr: its step size over the root mean square of a layer's keys, and of its values.

    Raises:
        ProbeInputError: no BOS, an update that changes nothing, or texts that do not fit.
    """
    bare = _bare(model)
    check_queries(model, queries, bare.length + contexts.shape[1])
    target = said(updated(model, update), queries)
    quiet = updated(model, {}).requires_grad_(False)
    nothing = left(quiet, bare, queries, target)
    if not nothing > 0:
        raise ProbeInputError("the update changes no output on these queries: give one that does")
    readers = [after_tokens(quiet, context) for context in contexts]
    tried = [left(quiet, reader, queries, target) for reader in readers]
    best = min(range(len(tried)), key=lambda i: tried[i])
    found = [
        _searched(quiet, reader, queries, target, steps, lr)
        for reader in (readers[best], after_tokens(quiet, contexts[0, :0]))
    ]
    pairs, reached = min(found, key=lambda one: one[1])
    known = {"nothing": nothing, "tokens": tried[best], "mean tokens": sum(tried) / len(tried), "pairs": reached}
    return Uncurried(pairs, contexts[best], known)


@torch.no_grad()
def after_tokens(model: Any, context: Int[Tensor, " context"]) -> AfterPairs:
    """BOS and these tokens as pairs, as far from the query as the tokens would be."""
    first = torch.tensor([_bare(model).bos_id])
    layers = range(model.cfg.n_layers)
    names = [f"blocks.{layer}.attn.hook_{half}" for half in "kv" for layer in layers]
    _, cache = model.run_with_cache(torch.cat([first, context])[None], names_filter=names)
    halves = [cache[name][0].detach().clone() for name in names]
    return AfterPairs(tuple(halves[: len(layers)]), tuple(halves[len(layers) :]))


@torch.no_grad()
def said(model: Any, queries: Int[Tensor, "batch query"]) -> Float[Tensor, "batch query d_vocab"]:
    """Logits of the query's rows behind BOS alone."""
    return _bare(model).read(model, queries)[0]


@torch.no_grad()
def left(model: Any, reader: Any, queries: Int[Tensor, "batch query"], target: Tensor) -> float:
    """Mean KL from the target to the model behind `reader`, nats."""
    return kl(target, reader.read(model, queries)[0]).mean().item()


def step_of(model: Any, direction: Update, queries: Int[Tensor, "batch query"], nats: float) -> Update:
    """The shortest multiple of a direction, on a grid of doublings refined by bisection, that changes the output by
    KL(T_{W + dW}(y) || T_W(y)) = nats, within 1 %.

    Raises:
        ProbeInputError: nats that are not positive, or a direction that never changes the output so much.
    """
    if not nats > 0:
        raise ProbeInputError(f"nats={nats} must be positive: a step that changes nothing is nobody's context")
    base, size = said(model, queries), math.sqrt(sum(x.double().square().sum().item() for x in direction.values()))
    if not 0 < size < math.inf:
        raise ProbeInputError(f"the direction's norm is {size:g}: give one that points somewhere")

    def change(length: float) -> float:
        moved = {name: length / size * x for name, x in direction.items()}
        return kl(said(updated(model, moved), queries), base).mean().item()

    high = 1e-3
    while change(high) < nats:
        high *= 2
        if high > 1e6:
            raise ProbeInputError(f"no step along the direction changes the output by {nats:g} nats: take fewer")
    low = high / 2
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        now = change(middle)
        if abs(now / nats - 1) < 0.01:
            break
        low, high = (middle, high) if now < nats else (low, middle)
    return {name: middle / size * x for name, x in direction.items()}


def loss_gradient(model: Any, texts: Int[Tensor, "batch pos"], names: Sequence[str]) -> Update:
    """The gradient of the mean next-token cross entropy on [BOS, text], by parameter name."""
    quiet = updated(model, {}).requires_grad_(False)
    weights = [quiet.get_parameter(name).requires_grad_() for name in names]
    with torch.enable_grad():
        told = _bare(model).read(quiet, texts)[0][:, :-1].double().log_softmax(-1)
        loss = -told.gather(2, texts[:, 1:, None]).mean()
        return dict(zip(names, torch.autograd.grad(loss, weights), strict=True))


@torch.no_grad()
def moved(model: Any, update: Update, queries: Int[Tensor, "batch query"]) -> Float[Tensor, "layer head"]:
    """Total variation of the attention to the query's own tokens: what a context cannot do in the first layer."""
    patterns = [own_attention(one, queries, _bare(model)) for one in (model, updated(model, update))]
    return (patterns[0] - patterns[1])[..., 1:, :].abs().sum(-1).mean((1, 3)) / 2


@torch.no_grad()
def own_attention(
    model: Any, queries: Int[Tensor, "batch query"], reader: Any
) -> Float[Tensor, "layer batch head query key"]:
    """Attention to the query's own tokens, renormalised among them, behind whatever stands before."""
    names = [f"blocks.{layer}.{PATTERN}" for layer in range(model.cfg.n_layers)]
    found = reader.read(model, queries, names)[1]
    own = torch.stack([found[name][..., -queries.shape[1] :].double() for name in names])
    return own / own.sum(-1, keepdim=True)


def _searched(
    model: Any, start: AfterPairs, queries: Tensor, target: Tensor, steps: int, lr: float
) -> tuple[AfterPairs, float]:
    """The best pairs that descent finds from these, and what they leave."""
    free, n = [half.clone() for half in (*start.keys, *start.values)], len(start.keys)
    found = AfterPairs(tuple(free[:n]), tuple(free[n:]))
    reached = descend(
        free,
        [lr * rms(half) for half in free],
        lambda i: kl(target, found.read(model, queries)[0]).mean(),
        lambda: left(model, found, queries, target),
        1,
        steps,
    )
    return found, reached


def _bare(model: Any) -> AfterBos:
    bos_id = getattr(model.cfg, "bos_id", None)
    if bos_id is None:
        raise ProbeInputError("a context begins with BOS, and cfg.bos_id is None: give a model with bos_id=<its token>")
    return AfterBos(bos_id)
