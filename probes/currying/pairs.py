"""`kv_r`: r learned pairs of a key and a value per layer and key-value head, in BOS's place.

Pair 0 stands where BOS would, pair j at j positions before it; weights stay as they are.  One pair starts as BOS's key
and value in `sink`'s W', several from what one fewer came to and a new one: the context token t that the pairs there
serve worst, where p_it is the oracle's weight of t for query i and v a value,

    t = argmax_t  sum_i p_it min_a |v_t - v_a|^2        k_new = argmin_k sum_i (s_it - q_i . k / scale)^2 + lambda |k|^2

per layer and key-value head, v_new = v_t.  The best iterate of any number up to r is kept: more pairs never do worse on
the fit queries.  Not in weight space: these are the same numbers that a prefix would keep.

Source: learned prefixes: Li and Liang 2021, arXiv:2101.00190, section 4; keys and values for a document: Eyuboglu et
al. 2025, arXiv:2506.06266 (Cartridges).  The starts are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.curried import Fit, updated
from probes.currying.fitted import rms
from probes.currying.objective import Objective, descend
from probes.currying.oracle import PATTERN, SCORES, Oracle
from probes.currying.reading import Read
from probes.currying.sink import sink
from probes.currying.solving import ridge_solve
from probes.errors import ProbeInputError

RIDGE = 1e-3
Pair = Float[Tensor, "pair kv_head d_head"]


@dataclass(frozen=True, eq=False)
class AfterPairs:
    """The query behind key-value pairs of its own, through which gradients flow.

    Args:
        keys, values: per layer, as `hook_k` and `hook_v` would leave them; pair 0, in BOS's place, is the last row.
        skipped: hidden positions between BOS's place and the query, as in `AfterBos`.
    """

    keys: tuple[Pair, ...]
    values: tuple[Pair, ...]
    skipped: int = 0

    @property
    def length(self) -> int:
        """How many positions are taken before the query."""
        return len(self.keys[0]) + self.skipped

    @property
    def stored(self) -> int:
        """The pairs."""
        return sum(pair.numel() for pair in (*self.keys, *self.values))

    def read(self, model: Any, queries: Int[Tensor, "batch query"], wanted: Sequence[str] = ()) -> Read:
        """Logits and activations of the query's rows."""
        past, copies = model.empty_cache(), len(queries)
        for layer, pair in enumerate(zip(self.keys, self.values, strict=True)):
            past.extend(layer, *(self._padded(half) for half in pair))
        past.length = self.length
        given = {"past": past.prefix(self.length, copies), "position_offset": 1 - len(self.keys[0])}
        if self.skipped:
            seen = torch.ones(copies, self.length + queries.shape[1], dtype=torch.bool)
            seen[:, len(self.keys[0]) : self.length] = False
            given["attention_mask"] = seen
        found: dict[str, Tensor] = {}

        def keep(value: Tensor, hook: Any) -> None:
            found[hook.name] = value

        with model.hooks(fwd_hooks=[(name, keep) for name in wanted]):
            logits = model(queries, **given)
        return logits, found

    def _padded(self, half: Pair) -> Float[Tensor, "1 key kv_head d_head"]:
        return torch.cat([half, half.new_zeros(self.skipped, *half.shape[1:])])[None]


def kv_r(
    oracle: Oracle,
    queries: Int[Tensor, "batch query"],
    *,
    pairs: int = 1,
    objective: str = "entity",
    steps: int = 100,
    lr: float = 0.03,
    batch: int = 64,
) -> Fit:
    """Learn pairs by descent, one more at a time.

    Args:
        pairs: r, at most as many as BOS and the context have.
        steps: of Adam, for every number of pairs up to r.
        lr: Adam's step size over the root mean square of the layer's first key, and of the oracle's values.

    Raises:
        ProbeInputError: pairs out of range, an option out of range, or a model that `sink` refuses.
    """
    if not 1 <= pairs <= oracle.text.shape[1]:
        raise ProbeInputError(
            f"pairs={pairs} must lie between 1 and {oracle.text.shape[1]}, the keys of BOS and context: `kv` is exact"
        )
    begun = sink(oracle, queries)
    goal = Objective(oracle, queries, objective, batch)
    reader = _absorbed(oracle, begun)
    rates = [lr * rms(key) for key in reader.keys] + [lr * rms(value) for value in oracle.values]
    reader, best = _learned(oracle, goal, reader, rates, steps)
    spent = begun.token_forwards
    wider = reader
    for _ in range(1, pairs):
        wider = widened(oracle, queries, wider)
        spent += 2 * queries.numel()
        wider, now = _learned(oracle, goal, wider, rates, steps)
        if now < best:
            reader, best = wider, now
    return Fit({}, reader, reader.stored, spent + goal.token_forwards, same_space=False)


@torch.no_grad()
def _absorbed(oracle: Oracle, begun: Fit) -> AfterPairs:
    """BOS's keys and values in the model that has the context absorbed into BOS."""
    model = updated(oracle.model, begun.weight_update)
    layers = range(model.cfg.n_layers)
    names = [f"blocks.{layer}.attn.hook_{half}" for half in "kv" for layer in layers]
    _, cache = model.run_with_cache(oracle.text[:, :1], names_filter=names)
    halves = [cache[name][0].detach().clone() for name in names]
    keys, values = tuple(halves[: len(layers)]), tuple(halves[len(layers) :])
    return AfterPairs(keys, values, oracle.bare.skipped)


def _learned(
    oracle: Oracle, goal: Objective, reader: AfterPairs, rates: list[float], steps: int
) -> tuple[AfterPairs, float]:
    """The best pairs that descent finds from these, and their objective."""
    free = [half.clone() for half in (*reader.keys, *reader.values)]
    n = len(reader.keys)
    found = AfterPairs(tuple(free[:n]), tuple(free[n:]), reader.skipped)
    model = oracle.copy_of_model().requires_grad_(False)
    best = descend(
        free,
        rates,
        lambda i: goal.loss(model, found, i),
        lambda: goal.total(model, found),
        len(goal.batches),
        steps,
    )
    return found, best


@torch.no_grad()
def widened(oracle: Oracle, queries: Int[Tensor, "batch query"], reader: AfterPairs) -> AfterPairs:
    """One more pair in every layer and key-value head: where the next descent starts.

    It has the value of the key that queries attend to and that the pairs are farthest from, and the key whose scores
    are nearest to that one's.
    """
    model, behind = oracle.model, oracle.stream(queries)
    kind = "rot_q" if "blocks.0.attn.hook_rot_q" in model.hook_dict else "q"
    wanted = [f"blocks.{layer}.attn.hook_{kind}" for layer in range(model.cfg.n_layers)]
    asked = reader.read(model, queries, wanted)[1]
    keys, values = [], []
    for layer, name in enumerate(wanted):
        seen = behind.look((SCORES, PATTERN))
        own = oracle.values[layer][0].transpose(0, 1)  # kv_head key d_head
        n = own.shape[1]
        weight, score = (_grouped(seen[which][..., :n], len(own)) for which in (PATTERN, SCORES))
        far = torch.cdist(own, reader.values[layer].transpose(0, 1)).square().amin(-1)  # kv_head key
        worst = (weight.sum(1) * far).argmax(-1)  # kv_head
        turned = _at(model, layer, asked[name], len(reader.keys[0])) / model.cfg.attn_scale
        turned = turned.permute(2, 0, 1, 3).flatten(1, 2).unflatten(0, (len(own), -1)).flatten(1, 2)
        wish = score.gather(2, worst[:, None, None].expand(-1, score.shape[1], 1))
        wish = wish.where(wish.isfinite(), wish[wish.isfinite()].min())  # a window hides it from some queries
        key = ridge_solve(turned, wish, RIDGE)[..., 0].to(own)
        keys.append(torch.cat([key[None], reader.keys[layer]]))
        values.append(torch.cat([own[torch.arange(len(own)), worst][None], reader.values[layer]]))
        behind.advance()
    return AfterPairs(tuple(keys), tuple(values), reader.skipped)


def _grouped(x: Float[Tensor, "batch head query key"], kv_heads: int) -> Float[Tensor, "kv_head row key"]:
    """Rows of all queries and of the query heads that share a key-value head."""
    return x.transpose(0, 1).unflatten(0, (kv_heads, -1)).flatten(1, 3)


def _at(
    model: Any, layer: int, asked: Float[Tensor, "batch query head d_head"], before: int
) -> Float[Tensor, "batch query head d_head"]:
    """What multiplies a key `before` positions before BOS's place, before it is rotated."""
    turn = torch.full((1, 1), before, dtype=torch.long, device=asked.device)
    rotate = model.pos_embed.rotation(turn, model.cfg.windows[layer] is not None)
    return asked if rotate is None else rotate(asked)
