"""Two contexts after each other, curried at once or one behind the other: in outputs, and in weights."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.currying.extent.divergences import bare_logits, divergence, heads, share
from analyses.currying.extent.lengths import from_the_word
from analyses.currying.extent.subjects import Queries, kept_apart
from analyses.currying.nets.asking import fit_and_held, own_queries
from probes.currying.curried import Curried, compose, curry, updated
from probes.currying.distances import factors
from probes.currying.oracle import Oracle
from probes.locality import norm
from probes.weights import head_weights
from toy_models.seeding import generator
from toy_models.tasks.in_deployment import SWITCHED, InDeployment

THEN = " then "
METHODS = ("sink", "lsq_o")


@dataclass(frozen=True, eq=False)
class Pair:
    """Two contexts x1 and x2 of one model.  Args: held: queries behind both;  again: queries behind both, for a second
    fit of the same;  fit: for the first."""

    name: str
    first: Int[Tensor, " context"]
    second: Int[Tensor, " context"]
    model: Any = field(repr=False)
    fit: Int[Tensor, "fit query"] = field(repr=False)
    again: Int[Tensor, "fit query"] = field(repr=False)
    held: Int[Tensor, "held query"] = field(repr=False)
    d_symbols: int

    @property
    def whole(self) -> Int[Tensor, " context"]:
        """x1 x2."""
        return torch.cat([self.first, self.second])


def pair(name: str, task: InDeployment, model: Any, length: int, sizes: Queries, seed: int) -> Pair:
    """The halves of one context of a source, or a context of one source and then one of another, of half the length."""
    if THEN in name:
        first, second = (_half(task, source, length // 2, seed) for source in name.split(THEN))
    else:
        text = _half(task, name, length, seed)
        first, second = text[: length // 2], text[length // 2 :]
    whole, wanted = torch.cat([first, second]), (sizes.fit, sizes.held_out)
    fit, held = fit_and_held(model, whole, wanted, sizes.length, generator(seed, "queries", name), task.switch)
    again = own_queries(model, whole, sizes.fit, sizes.length, generator(seed, "again", name), task.switch)
    return Pair(name, first, second, model, fit, again, kept_apart(held, again), task.switch)


def _half(task: InDeployment, source: str, length: int, seed: int) -> Tensor:
    """A text of a source; behind the word, if that is the source, from the word on."""
    if source == SWITCHED:
        return from_the_word(task, length, seed)[0]
    return task.text(source, 1, length, generator(seed, "half", source))[0]


def asked_behind(one: Pair, model: Any, context: Tensor, sizes: Queries, seed: int, *words: str) -> Tensor:
    """Own queries of a model behind one half, without those that are held out."""
    drawn = own_queries(model, context, sizes.fit, sizes.length, generator(seed, one.name, *words), one.d_symbols)
    seen = {tuple(row) for row in one.held.tolist()}
    return torch.tensor([row for row in drawn.tolist() if tuple(row) not in seen])


def measured(one: Pair, method: str, sizes: Queries, seed: int) -> dict[str, float]:
    """Everything about one pair and one method, by column.

    Every operator knows of its own context alone: C(x1) is fitted on the model's samples behind x1, and what follows
    on those of the curried model behind x2.
    """

    def put(model: Any, context: Tensor, *words: str) -> Curried:
        return curry(model, context, method, asked_behind(one, model, context, sizes, seed, *words))

    def behind(first: Curried, context: Tensor, *words: str) -> Curried:
        return compose(first, context, asked_behind(one, first.model, context, sizes, seed, *words))

    direct, again = (curry(one.model, one.whole, method, some) for some in (one.fit, one.again))
    x1, x2 = put(one.model, one.first, "first"), put(one.model, one.second, "second")
    composed, swapped = behind(x1, one.second, "then"), behind(x2, one.first, "back")
    added = updated(one.model, summed(x1.weight_update, x2.weight_update))
    oracle, held = Oracle(one.model, one.whole), one.held
    other_way = Oracle(one.model, torch.cat([one.second, one.first]))
    with torch.no_grad():
        target, bare = oracle.logits(held), bare_logits(oracle, held)
        said = {
            "direct": direct.logits(held),
            "again": again.logits(held),
            "composed": composed.logits(held),
            "half": Oracle(x1.model, one.second).logits(held),
            "swapped": swapped.logits(held),
            "added": oracle.bare.read(added, held)[0],
            "first": x1.logits(held),
            "second": x2.logits(held),
            "oracle_swapped": other_way.logits(held),
        }
    baseline = divergence(target, bare)
    found = {"baseline_kl": baseline, "queries": len(held), "rho_last": heads(oracle, held)["rho_last"]}
    found |= {f"{name}_kl": divergence(target, logits) for name, logits in said.items()}
    found |= {f"{name}_share": share(found[f"{name}_kl"], baseline) for name in ("direct", "composed")}
    return found | in_weights(one.model, direct, composed, "composed") | in_weights(one.model, direct, again, "again")


def in_weights(model: Any, direct: Curried, other: Curried, name: str) -> dict[str, float]:
    """|other - direct| / |direct - W|, and the cosine of both changes: of all weights, and of the products QK and OV,
    which no change of basis inside a head changes."""
    one, two = direct.weight_update, other.weight_update
    apart = summed(two, {key: -change for key, change in one.items()})
    found = {f"{name}_apart": norm(apart) / norm(one), f"{name}_cosine": _dot(one, two) / (norm(one) * norm(two))}
    base, mine, its = (products(each) for each in (model, direct.model, other.model))
    a, b = mine - base, its - base
    found[f"{name}_free_apart"] = ((b - a).norm() / a.norm()).item()
    found[f"{name}_free_cosine"] = (torch.dot(a, b) / (a.norm() * b.norm())).item()
    return found


def products(model: Any) -> Float[Tensor, " entry"]:
    """Every entry of every head's Q K^T and V O, biases as rows: no change of basis inside a head changes them."""
    parts = []
    for layer in range(model.cfg.n_layers):
        q, k, v, o = factors(head_weights(model, layer))
        parts += [(q @ k.mT).flatten(), (v @ o.mT).flatten()]
    return torch.cat(parts)


def summed(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """Changes of parameters, added."""
    return {name: sum(part[name] for part in (one, other) if name in part) for name in dict.fromkeys((*one, *other))}


def _dot(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return sum((one[name].double() * other[name].double()).sum().item() for name in one if name in other)


@torch.no_grad()
def cache_error(one: Pair) -> float:
    """|extended - whole| / |whole| of logits behind x1 x2: by the cache of x1 extended by x2, by one pass over all."""
    model, n = one.model, len(one.held)
    past = model.empty_cache()
    bos = torch.tensor([model.cfg.bos_id])
    model(torch.cat([bos, one.first])[None], past=past)
    model(one.second[None], past=past)
    extended = model(one.held, past=past.prefix(past.length, n))
    text = torch.cat([bos, one.whole])
    whole = model(torch.cat([text.expand(n, -1), one.held], 1))[:, len(text) :]
    return ((extended - whole).norm() / whole.norm()).item()
