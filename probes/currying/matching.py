"""`attention_matching`: r of the context's keys, with a bias each and values that make up for the rest.

Per layer and key-value head, from below.  Behind BOS and the context, query i gives key t the score s_it; w_i is the
log-sum-exp of the n + 1 scores, p_it = exp(s_it - w_i), G_i the weight that they have together, v_t the values.

    kept      S = the r keys with the largest  sum_i (G_i p_it)^2             root mean square of attention
    mass      b = log argmin_{m >= 0}  sum_i (sum_{a in S} m_a p_ia - 1)^2      NNLS; m_a = 0 drops a key
    key       k_a = argmin_k  sum_i (s_ia - q_i . k / scale)^2 + lambda |k|^2       at a place of its own
    value     v* = argmin_v  sum_i G_i^2 |sum_t p_it v_t - sum_a A_ia v_a|^2 + lambda |v - v_S|^2
    A         softmax over S of q_i . k_a / scale + b_a                     with the compacted layers below

The score of pair a is raised by b_a where attention computes it, so a bias is one number and no key has to imitate it.
Pairs stand as in `pairs.AfterPairs`, in the order of the text; r = n + 1 keeps everything, and is the oracle where
distances alone count.  Each layer is solved behind the pairs of those below, with the queries that they leave.

Source: Zweiger et al. 2026, arXiv:2602.16284 (keys of the highest attention, NNLS, least squares).  Theirs counts the
mass in exp(s), ours relative to the query's own mass; theirs matches what the keys alone would write, ours weighs a
query by G^2, as in `sink`; theirs keeps a key as it is and where it is, ours the key that has its scores at the new
place; theirs spends a budget of pairs unevenly over heads and may search keys by orthogonal matching pursuit, ours has
r in every head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from scipy.optimize import nnls
from torch import Tensor

from probes.currying.curried import Fit
from probes.currying.oracle import PATTERN, SCORES, Oracle, require_softmax
from probes.currying.pairs import AfterPairs, _at, _grouped
from probes.currying.reading import Read
from probes.currying.solving import ridge_solve
from probes.currying.stream import Stream
from probes.errors import ProbeInputError

RIDGE = 1e-6
Bias = Float[Tensor, "pair kv_head"]


@dataclass(frozen=True, eq=False)
class AfterBiasedPairs:
    """The query behind pairs whose scores are raised by a bias each; -inf hides a pair.

    Args:
        pairs: keys and values.
        biases: per layer, in nats.
    """

    pairs: AfterPairs
    biases: tuple[Bias, ...]

    @property
    def length(self) -> int:
        """How many positions are taken before the query."""
        return self.pairs.length

    @property
    def stored(self) -> int:
        """The pairs and their biases."""
        return self.pairs.stored + sum(bias.numel() for bias in self.biases)

    def read(self, model: Any, queries: Int[Tensor, "batch query"], wanted: Sequence[str] = ()) -> Read:
        """Logits and activations of the query's rows."""
        raised = [(f"blocks.{i}.{SCORES}", partial(_raised, bias)) for i, bias in enumerate(self.biases)]
        with model.hooks(fwd_hooks=raised):
            return self.pairs.read(model, queries, wanted)

    def at(self, layer: int, key: Tensor, value: Tensor, bias: Bias) -> "AfterBiasedPairs":
        """The same with other pairs in one layer."""
        keys, values, biases = list(self.pairs.keys), list(self.pairs.values), list(self.biases)
        keys[layer], values[layer], biases[layer] = key, value, bias
        return AfterBiasedPairs(replace(self.pairs, keys=tuple(keys), values=tuple(values)), tuple(biases))


@torch.no_grad()
def attention_matching(
    oracle: Oracle, queries: Int[Tensor, "batch query"], *, pairs: int = 1, ridge: float = RIDGE
) -> Fit:
    """Keep r keys per layer and key-value head.

    Args:
        pairs: r, at most as many as BOS and the context have.
        ridge: lambda over the mean of diag(x^T x) of what multiplies a key, and a value.

    Raises:
        ProbeInputError: pairs out of range, attention that is no softmax of its scores, a window that hides BOS and
            the whole context from a query, or too few queries.
    """
    n = oracle.text.shape[1]
    if not 1 <= pairs <= n:
        raise ProbeInputError(f"pairs={pairs} must lie between 1 and {n}, the keys of BOS and context: `kv` is exact")
    model, behind = oracle.model, oracle.stream(queries)
    kind = "rot_q" if "blocks.0.attn.hook_rot_q" in model.hook_dict else "q"
    empty = tuple(value.new_zeros(pairs, *value.shape[2:]) for value in oracle.values)
    reader = AfterBiasedPairs(AfterPairs(empty, empty, oracle.bare.skipped), tuple(half[..., 0] for half in empty))
    for layer in range(model.cfg.n_layers):
        goal = _Goal.of(oracle, behind, layer)
        asked, score = f"blocks.{layer}.attn.hook_{kind}", f"blocks.{layer}.{SCORES}"
        seen = reader.read(model, queries, [asked, score])[1]
        now = _grouped(seen[score][..., :pairs].double(), len(goal.values))  # keys are zero: position terms alone
        turned = [_turned(model, layer, seen[asked], pairs - 1 - a, len(goal.values)) for a in range(pairs)]
        reader = reader.at(layer, *(half.to(empty[layer]) for half in _matched(goal, torch.stack(turned), now, ridge)))
        behind.advance()
    tokens = (1 + model.cfg.n_layers) * queries.numel() + model.cfg.n_layers * len(queries) * reader.length
    return Fit({}, reader, reader.stored, tokens + oracle.text.numel(), same_space=False)


@dataclass(frozen=True)
class _Goal:
    """What BOS and the context are to a layer's key-value heads; rows are those of all queries and sharing heads."""

    score: Float[Tensor, "kv_head row key"]
    values: Float[Tensor, "kv_head key d_head"]
    mass: Float[Tensor, "kv_head row 1"]  # G

    @classmethod
    def of(cls, oracle: Oracle, behind: Stream, layer: int) -> "_Goal":
        seen, n = behind.look((SCORES, PATTERN)), oracle.text.shape[1]
        require_softmax(seen, layer)
        values = oracle.values[layer][0].double().transpose(0, 1)
        score, weight = (_grouped(seen[which][..., :n].double(), len(values)) for which in (SCORES, PATTERN))
        if torch.isneginf(score).all(-1).any():
            raise ProbeInputError(
                f"layer {layer}: a window hides BOS and the whole context from a query: shorten the queries"
            )
        return cls(score, values, weight.sum(-1, keepdim=True))


def _matched(
    goal: _Goal, turned: Float[Tensor, "pair kv_head row d_head"], now: Float[Tensor, "kv_head row pair"], ridge: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values (pair, kv_head, d_head) and biases (pair, kv_head) of a layer."""
    share, heads = goal.score.softmax(-1), range(len(goal.values))
    loudest = (goal.mass * share).square().sum(1).topk(len(turned), dim=-1).indices
    kept = loudest.sort(-1).values  # kv_head pair, in the order of the text
    rows = kept[:, None].expand(-1, share.shape[1], -1)
    fitted = [nnls(share[h][:, kept[h]].cpu().numpy(), [1.0] * share.shape[1])[0] for h in heads]
    bias = torch.stack([torch.as_tensor(one) for one in fitted]).to(share).log()
    wish = goal.score.gather(2, rows)
    wish = wish.where(wish.isfinite(), wish[wish.isfinite()].min()) - now  # a window hides a key from some queries
    keys = ridge_solve(turned, wish.permute(2, 0, 1)[..., None], ridge)[..., 0].to(share)  # pair kv_head d_head
    score = now + torch.einsum("ahre,ahe->hra", turned, keys)
    mixed = (score + bias[:, None]).softmax(-1)
    own = goal.values[torch.arange(len(kept))[:, None], kept]  # kv_head pair d_head
    missing = share @ goal.values - mixed @ own
    values = own + ridge_solve(goal.mass * mixed, goal.mass * missing, ridge).to(own)
    return keys, values.transpose(0, 1), bias.T


def _turned(
    model: Any, layer: int, asked: Float[Tensor, "batch query head d_head"], before: int, kv_heads: int
) -> Float[Tensor, "kv_head row d_head"]:
    """What multiplies a key `before` positions before BOS's place, over the scale."""
    turned = _at(model, layer, asked.double(), before) / model.cfg.attn_scale
    return turned.permute(2, 0, 1, 3).flatten(1, 2).unflatten(0, (kv_heads, -1)).flatten(1, 2)


def _raised(bias: Bias, scores: Tensor, hook: Any) -> Float[Tensor, "batch head query key"]:
    """The scores with the biases added to those of the pairs, which stand first."""
    n, heads = bias.shape
    added = bias.T.repeat_interleave(scores.shape[1] // heads, dim=0)[:, None]  # head 1 pair
    return torch.cat([scores[..., :n] + added, scores[..., n:]], dim=-1)
