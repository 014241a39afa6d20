"""`sink`: the whole context absorbed into BOS, by an edit of rank one to W_K and one to W_V in every layer.

Behind BOS and the context, query i of a head gives these n + 1 positions together the score and the message

    w_i = log sum_t exp(s_it)          c_i = sum_t softmax(s_i)_t v_t          t in BOS, context

One position alone does the same if its key k has score w_i for every i and its value is c_i.  BOS stands first and
sees nothing but itself, so one edit is right for all queries:

    k* = k + argmin_d  sum_i (w_i - s_i - q_i . d / scale)^2 + lambda |d|^2      s_i: BOS's present score
    v* = sum_i G_i^2 c_i / sum_i G_i^2                                          G_i: weight of the n + 1 together
    W_K += u (k* - k)^T,   W_V += u (v* - v)^T,   u . b = 1                     b: what attention reads from BOS

with u as blind as can be to what it reads from other tokens.  Layers are solved from below, each behind the edits of
the ones before.  Exact where neither the shape of w nor c depends on the query; theory/currying.md has what remains.

Source: ours as a whole; the edit is Meng et al. 2022, arXiv:2202.05262 (ROME), matching attention's output and mass
Zweiger et al. 2026, arXiv:2602.16284.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.curried import Fit
from probes.currying.oracle import PATTERN, SCORES, Oracle, require_softmax
from probes.currying.solving import reading_direction, ridge_solve
from probes.currying.stream import Stream
from probes.errors import ProbeInputError

READ = {"K": "key_input", "V": "value_input"}


@dataclass(frozen=True)
class Absorbed:
    """What BOS should be to a layer's heads: per query head the scores and messages of BOS and context together."""

    score: Float[Tensor, "head row"]
    message: Float[Tensor, "head row d_head"]
    mass: Float[Tensor, "head row"]


@torch.no_grad()
def sink(
    oracle: Oracle,
    queries: Int[Tensor, "batch query"],
    *,
    ridge: float = 1e-3,
    damping: float = 1e-3,
    parts: Sequence[str] = tuple(READ),
) -> Fit:
    """Absorb the context into BOS.

    Args:
        ridge: lambda over the mean of diag(q q^T) / scale^2, for the key.
        damping: how blind u is to other tokens: `solving.reading_direction`.
        parts: "K" for the gate, "V" for the message; both by default.

    Raises:
        ProbeInputError: no BOS, attention whose scores no single key can meet, a window that hides BOS from a query,
            or too few queries.
    """
    _refuse(oracle, parts)
    model, bare = oracle.copy_of_model(), oracle.bare
    behind = oracle.stream(queries)
    ahead = Stream(model, bare.text(queries), visible=bare.visible(queries), skipped=bare.length)
    update: dict[str, Tensor] = {}
    stored = 0
    for layer in range(model.cfg.n_layers):
        goal = _absorbed(oracle, behind, layer)
        now = ahead.look((SCORES, PATTERN, "attn.hook_k", "attn.hook_v", _query_hook(model)))
        directions = _directions(now, parts, ahead, damping)
        for part, u in directions.items():
            change = _key_change(model, layer, goal, now, ahead, ridge) if part == "K" else _value_change(goal, now)
            name = f"blocks.{layer}.attn.W_{part}"
            weight = model.get_parameter(name)
            update[name] = torch.einsum("d,he->hde", u, change).to(weight)
            weight += update[name]
            stored += change.numel()
        stored += sum(u.numel() for u in {id(u): u for u in directions.values()}.values())
        behind.advance()
        ahead.advance(edited=True)
    tokens = queries.numel() + 2 * (queries.numel() + len(queries) * bare.length)
    return Fit(update, stored=stored, token_forwards=tokens + oracle.text.numel())


def _absorbed(oracle: Oracle, behind: Stream, layer: int) -> Absorbed:
    """The oracle's attention to BOS and context, as if they were one position."""
    seen = behind.look((SCORES, PATTERN))
    require_softmax(seen, layer)
    n = oracle.text.shape[1]
    scores = seen[SCORES][..., :n].double()
    score = scores.logsumexp(-1)
    if torch.isneginf(score).any():
        raise ProbeInputError(
            f"layer {layer}: a window hides BOS and the whole context from a query: shorten the queries"
        )
    values = oracle.values[layer][0].double()  # key kv_head d_head
    values = values.repeat_interleave(scores.shape[1] // values.shape[1], dim=1)
    message = torch.einsum("bhqk,khe->hbqe", scores.softmax(-1), values)
    mass = seen[PATTERN][..., :n].double().sum(-1)
    return Absorbed(_by_head(score), message.flatten(1, 2), _by_head(mass))


def _directions(
    now: dict[str, Tensor], parts: Sequence[str], ahead: Stream, damping: float
) -> dict[str, Float[Tensor, " d_model"]]:
    """u for each part: one and the same where keys and values are read from the same input."""
    found: dict[str, Tensor] = {}
    for part in parts:
        read = now[READ[part]]
        if part == "V" and "K" in found and read is now[READ["K"]]:
            found[part] = found["K"]
        else:
            found[part] = reading_direction(read[0, 0], read[:, ahead.skipped :].flatten(0, 1), damping)
    return found


def _by_head(x: Float[Tensor, "batch head query"]) -> Float[Tensor, "head row"]:
    return x.transpose(0, 1).flatten(1, 2)


def _key_change(
    model: Any, layer: int, goal: Absorbed, now: dict[str, Tensor], ahead: Stream, ridge: float
) -> Float[Tensor, "kv_head d_head"]:
    """k* - k, one per key-value head: the equations of the query heads that share it are solved together."""
    keys = now["attn.hook_k"][0, 0].double()  # kv_head d_head
    rows = slice(ahead.skipped, None)
    score = now[SCORES][:, :, rows, 0].double()
    if torch.isneginf(score).any():
        raise ProbeInputError(f"layer {layer}: a window hides BOS from a query: shorten the queries")
    missing = goal.score - _by_head(score)
    asked = _at_bos(model, layer, now[_query_hook(model)][:, rows].double()) / model.cfg.attn_scale
    asked = asked.permute(2, 0, 1, 3).flatten(1, 2)  # head row d_head
    asked, missing = (x.unflatten(0, (len(keys), -1)).flatten(1, 2) for x in (asked, missing))
    found = ridge_solve(asked, missing[..., None], ridge)[..., 0]
    return found.to(keys)


def _value_change(goal: Absorbed, now: dict[str, Tensor]) -> Float[Tensor, "kv_head d_head"]:
    """v* - v, one per key-value head."""
    value = now["attn.hook_v"][0, 0].double()  # kv_head d_head
    weight = goal.mass.square()[..., None]  # head row 1
    message, weight = (x.unflatten(0, (len(value), -1)).flatten(1, 2) for x in (goal.message, weight))
    return (weight * message).sum(1) / weight.sum(1) - value


def _at_bos(
    model: Any, layer: int, asked: Float[Tensor, "batch query head d_head"]
) -> Float[Tensor, "batch query head d_head"]:
    """What multiplies a key at position 0 before it is rotated: there rotation is at most a factor per coordinate."""
    start = torch.zeros(1, 1, dtype=torch.long, device=asked.device)
    rotate = model.pos_embed.rotation(start, model.cfg.windows[layer] is not None)
    return asked if rotate is None else rotate(asked)


def _query_hook(model: Any) -> str:
    return "attn.hook_rot_q" if "blocks.0.attn.hook_rot_q" in model.hook_dict else "attn.hook_q"


def _refuse(oracle: Oracle, parts: Sequence[str]) -> None:
    cfg = oracle.model.cfg
    if oracle.bos_id is None:
        raise ProbeInputError("sink absorbs the context into BOS, and cfg.bos_id is None: give bos_id=<its token>")
    if not parts or set(parts) - set(READ):
        raise ProbeInputError(f"parts={tuple(parts)} must be one or both of {', '.join(READ)}")
    for name, off in (("attn_scores_soft_cap", None), ("use_qk_norm", False)):
        if (value := getattr(cfg, name, off)) != off and "K" in parts:
            raise ProbeInputError(
                f"{name}={value}: a key cannot take any score then; give parts=('V',), or take lsq_o or kv"
            )
