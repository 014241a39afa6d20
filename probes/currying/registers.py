"""`sink_r`: the context absorbed into r slots, BOS and r - 1 register tokens behind it, by edits of rank r.

BOS and the context are split into r groups, per key-value head, and slot a is made to stand for group C_a as BOS does
in `sink` for all of them:

    w_ia = log sum_{t in C_a} exp(s_it)          c_i = what BOS and the context say to query i together
    k*_a = k_a + argmin_d  sum_i (w_ia - s_ia - q_i . d / scale)^2 + lambda |d|^2        s_ia: slot a's present score
    v*   = argmin_v  sum_i G_i^2 |c_i - sum_a A_ia v_a|^2 + lambda |v - v0|^2             A: softmax of the new s_ia
    W_K += sum_a u_a (k*_a - k_a)^T,   W_V += sum_a u_a (v*_a - v_a)^T,   u_a . b_a' = 1 if a = a', else 0

with v0_a the mean message of group a as in `sink`, b_a what attention reads from slot a, and the u_a as blind to other
tokens as that allows.  Log-sum-exp is associative, so groups of one token each are exact, where slots have directions
of their own and positions say nothing.  So are groups of tokens whose scores differ by constants, if queries have a
constant coordinate: r need then be no more than the number of different tokens.  One slot is `sink`.  More slots leave
less room to be blind in: past some r leakage costs more than another slot brings.

Groups are k-means clusters of the tokens' score columns over the queries, each less its mean, tokens weighted by the
attention they get; "subset" stops at the r tokens that the clustering starts from, with their nearest.

Source: Zweiger et al. 2026, arXiv:2602.16284 (attention matching: mass and output of a head from fewer keys); written
into weights: ours, the edit after Meng et al. 2022, arXiv:2202.05262.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.curried import Fit
from probes.currying.oracle import PATTERN, SCORES, Oracle, require_softmax
from probes.currying.reading import AfterBos
from probes.currying.solving import ridge_solve
from probes.currying.stream import Stream
from probes.errors import ProbeInputError
from probes.model import check_tokens

READ = {"K": "key_input", "V": "value_input"}
GROUPS = ("kmeans", "subset")
ROUNDS = 50  # of k-means, which ends by itself


@dataclass(frozen=True)
class AfterRegisters(AfterBos):
    """The query behind BOS and the registers; the `skipped` hidden positions lie between these and the query."""

    registers: tuple[int, ...] = ()

    @property
    def stored(self) -> int:
        """The registers' ids."""
        return len(self.registers)

    @property
    def length(self) -> int:
        """How many positions come before the query."""
        return super().length + len(self.registers)

    def text(self, queries: Int[Tensor, "batch query"]) -> Int[Tensor, "batch pos"]:
        """BOS, the registers, the empty positions, the query."""
        text = super().text(queries)
        text[:, 1 : 1 + len(self.registers)] = text.new_tensor(self.registers)
        return text


@dataclass(frozen=True)
class Slots:
    """What the r slots of a layer should be to its heads; rows are those of all query heads that share a kv_head."""

    score: Float[Tensor, "kv_head row slot"]
    own: Float[Tensor, "kv_head slot d_head"]
    message: Float[Tensor, "kv_head row d_head"]
    mass: Float[Tensor, "kv_head row"]


@torch.no_grad()
def sink_r(
    oracle: Oracle,
    queries: Int[Tensor, "batch query"],
    *,
    registers: Sequence[int] = (),
    groups: str = "kmeans",
    ridge: float = 1e-3,
    damping: float = 1e-3,
) -> Fit:
    """Absorb the context into BOS and register tokens behind it.

    Args:
        registers: r - 1 token ids, all different, that stand behind BOS in everything the curried model reads, and in
            no query; a model trained with registers has its own.  None at all is `sink`, and the only choice that
            leaves the text as it was.
        groups: "kmeans" or "subset".
        ridge: lambda over the mean square of the features, for keys and values.
        damping: how blind the u_a are to other tokens, as in `solving.reading_direction`.

    Raises:
        ProbeInputError: registers that cannot serve, more slots than tokens to share, slots that attention cannot tell
            apart, too few queries, or a model that `sink` refuses.
    """
    reader = _reader(oracle, queries, tuple(registers), groups)
    model, r = oracle.copy_of_model(), 1 + len(registers)
    behind = oracle.stream(queries)
    ahead = Stream(model, reader.text(queries), visible=reader.visible(queries), skipped=reader.length)
    update: dict[str, Tensor] = {}
    stored = reader.stored
    for layer in range(model.cfg.n_layers):
        goal = _goal(oracle, behind, layer, r, groups)
        now = ahead.look((SCORES, "attn.hook_k", "attn.hook_v", _query_hook(model)))
        keys, scores = _keys(model, layer, goal, now, ahead, ridge)
        values = _values(goal, scores, ridge) - now["attn.hook_v"][0, :r].double()
        for part, change in (("K", keys), ("V", values)):
            read = now[READ[part]]
            u = reading_directions(read[0, :r], read[:, ahead.skipped :].flatten(0, 1), damping, layer)
            name = f"blocks.{layer}.attn.W_{part}"
            weight = model.get_parameter(name)
            update[name] = torch.einsum("ad,ahe->hde", u, change).to(weight)
            weight += update[name]
            stored += change.numel()
        stored += u.numel() * (1 if now[READ["K"]] is now[READ["V"]] else 2)
        behind.advance()
        ahead.advance(edited=True)
    tokens = queries.numel() + 2 * (queries.numel() + len(queries) * reader.length) + oracle.text.numel()
    return Fit(update, reader=reader, stored=stored, token_forwards=tokens, same_space=not registers)


def reading_directions(
    own: Float[Tensor, "slot d_model"], others: Float[Tensor, "row d_model"], damping: float, layer: int
) -> Float[Tensor, "slot d_model"]:
    """u_a with u_a . own_b = 1 if a = b, else 0, and the least mean (u_a . other)^2 + lambda |u_a|^2.

    For a single slot `solving.reading_direction`; lambda is `damping` times the mean square of the others.

    Raises:
        ProbeInputError: damping that is not positive, or slots that are not independent.
    """
    if not damping > 0:
        raise ProbeInputError(f"damping={damping} must be positive: it keeps directions from growing without bound")
    target, rows = own.double().cpu(), others.double().cpu()
    rank = int(torch.linalg.matrix_rank(target, rtol=1e-9))
    if rank < len(target):
        raise ProbeInputError(
            f"layer {layer}: attention reads {len(target)} slots of rank {rank}, and no weight can tell them apart: "
            f"give fewer registers, or others"
        )
    size, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    size = size.clamp(min=0)  # rounding leaves some below 0
    root = vectors / (size + damping * size.mean()).sqrt()  # S^-1 = root root^T
    # By a pseudo-inverse of root^T own and not of its square: damping may be as small as rounding.
    return torch.linalg.pinv(target @ root, rtol=1e-15).T @ root.T


def _goal(oracle: Oracle, behind: Stream, layer: int, r: int, groups: str) -> Slots:
    """The oracle's attention to BOS and context, in r groups."""
    seen = behind.look((SCORES, PATTERN))
    require_softmax(seen, layer)
    n, values = oracle.text.shape[1], oracle.values[layer][0].double().transpose(0, 1)  # kv_head key d_head
    scores, pattern = (_by_kv_head(seen[name][..., :n].double(), len(values)) for name in (SCORES, PATTERN))
    if torch.isneginf(scores).any():
        raise ProbeInputError(f"layer {layer}: a window hides part of the context from a query: shorten the two")
    mass = pattern.sum(-1)
    label = torch.stack([grouped(s.T, p.mean(0), r, groups) for s, p in zip(scores, pattern, strict=True)])
    score, own = [], []
    for slot in range(r):
        part = scores.masked_fill((label != slot)[:, None], -torch.inf)
        score.append(part.logsumexp(-1))
        weight = (mass * (score[-1] - scores.logsumexp(-1)).exp()).square()[..., None]  # kv_head row 1
        own.append((weight * (part.softmax(-1) @ values)).sum(1) / weight.sum(1))
    return Slots(torch.stack(score, -1), torch.stack(own, 1), scores.softmax(-1) @ values, mass)


def grouped(
    columns: Float[Tensor, "key row"], weight: Float[Tensor, " key"], r: int, groups: str = "kmeans"
) -> Int[Tensor, " key"]:
    """A label from 0 to r - 1 for every key, that of the first key 0; no label without a key.

    Keys are near each other whose score columns differ by a constant.  The start is greedy: the heaviest key, then
    always the key with the most weight times squared distance to the nearest one chosen.
    """
    x = columns - columns.mean(1, keepdim=True)
    chosen = [int(weight.argmax())]
    while len(chosen) < r:
        worth = weight * (torch.cdist(x, x[chosen]).square().amin(1))
        worth[chosen] = -1
        chosen.append(int(worth.argmax()))
    label = torch.cdist(x, x[chosen]).argmin(1)
    label[chosen] = torch.arange(r, device=label.device)
    for _ in range(ROUNDS if groups == "kmeans" else 0):
        member = torch.nn.functional.one_hot(label, r).to(x) * (weight + weight.mean() * 1e-9)[:, None]  # key slot
        centres = (member.T @ x) / member.sum(0)[:, None]
        new = torch.cdist(x, centres).argmin(1)
        if len(new.unique()) < r or torch.equal(new, label):  # equal keys would leave a slot empty
            break
        label = new
    swap = torch.arange(r, device=label.device)
    swap[label[0]], swap[0] = 0, label[0].clone()
    return swap[label]


def _keys(
    model: Any, layer: int, goal: Slots, now: dict[str, Tensor], ahead: Stream, ridge: float
) -> tuple[Float[Tensor, "slot kv_head d_head"], Float[Tensor, "kv_head row slot"]]:
    """k*_a - k_a, and the scores that the slots have then."""
    n_kv, r, rows = len(goal.mass), goal.score.shape[-1], slice(ahead.skipped, None)
    score = _by_kv_head(now[SCORES][:, :, rows, :r].double(), n_kv)
    if torch.isneginf(score).any():
        raise ProbeInputError(f"layer {layer}: a window hides BOS or a register from a query: shorten the queries")
    asked = _by_kv_head(now[_query_hook(model)][:, rows].double().transpose(1, 2), n_kv) / model.cfg.attn_scale
    changes = []
    for slot, turn in enumerate(_turns(model, layer, r, asked)):
        missing = goal.score[..., slot] - score[..., slot]
        change = ridge_solve(asked @ turn.T, missing[..., None], ridge)[..., 0].to(asked)
        score[..., slot] += torch.einsum("gie,ge->gi", asked @ turn.T, change)
        changes.append(change)
    return torch.stack(changes), score


def _values(goal: Slots, scores: Float[Tensor, "kv_head row slot"], ridge: float) -> Tensor:
    """v*_a, (slot, kv_head, d_head): the groups' own messages, and what they leave by least squares."""
    share, weight = scores.softmax(-1), goal.mass[..., None]
    left = ridge_solve(weight * share, weight * (goal.message - share @ goal.own), ridge)
    return (goal.own + left.to(goal.own)).transpose(0, 1)


def _turns(model: Any, layer: int, r: int, like: Tensor) -> Float[Tensor, "slot d_head d_head"]:
    """M with k M the key k as the score sees it in slot 0, 1, ...: the rotation at that position, or none."""
    basis = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device).expand(1, r, -1, -1)
    rotate = model.pos_embed.rotation(torch.arange(r, device=like.device)[None], model.cfg.windows[layer] is not None)
    return (basis if rotate is None else rotate(basis))[0]


def _by_kv_head(x: Float[Tensor, "batch head query last"], n_kv: int) -> Float[Tensor, "kv_head row last"]:
    return x.transpose(0, 1).unflatten(0, (n_kv, -1)).flatten(1, 3)


def _query_hook(model: Any) -> str:
    return "attn.hook_rot_q" if "blocks.0.attn.hook_rot_q" in model.hook_dict else "attn.hook_q"


def _reader(oracle: Oracle, queries: Tensor, registers: tuple[int, ...], groups: str) -> AfterBos:
    """How the curried model is read; everything that can be refused before it is run is refused here."""
    cfg, r = oracle.model.cfg, 1 + len(registers)
    if oracle.bos_id is None:
        raise ProbeInputError("sink_r absorbs the context into BOS, and cfg.bos_id is None: give bos_id=<its token>")
    if groups not in GROUPS:
        raise ProbeInputError(f"groups={groups!r} must be one of {', '.join(GROUPS)}")
    for name, off in (("attn_scores_soft_cap", None), ("use_qk_norm", False)):
        if (value := getattr(cfg, name, off)) != off:
            raise ProbeInputError(f"{name}={value}: a key cannot take any score then; take lsq_o or kv")
    if not registers:
        return oracle.bare
    check_tokens(torch.tensor(registers), cfg.d_vocab)
    if len({*registers, oracle.bos_id}) < r:
        raise ProbeInputError(f"registers={registers} must be different tokens, and none of them BOS={oracle.bos_id}")
    if used := sorted(set(registers) & set(queries.flatten().tolist())):
        raise ProbeInputError(
            f"register {used[0]} stands in a query, where it would say what the context said: "
            f"choose tokens that no query has"
        )
    if getattr(cfg, "smeared_keys", False):
        raise ProbeInputError("smeared_keys=True mixes a register's key with the one before: give no registers")
    if r > oracle.text.shape[1]:
        raise ProbeInputError(
            f"{len(registers)} registers are more than the {len(oracle.context)} tokens of the context: give fewer"
        )
    skipped = len(oracle.context) - len(registers) if oracle.positions == "shift" else 0
    return AfterRegisters(oracle.bos_id, skipped, registers)
