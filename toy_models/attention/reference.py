"""The specification: attention with the (query, key) pattern held in memory.

Slow and plain; every other backend is tested against it.  The model calls `scores`, `softmax`, `mix`
and `row_statistics` itself, with its hooks between them, whenever somebody listens.
"""

import torch
from jaxtyping import Bool, Float, Int

from toy_models.attention.masks import visible_keys
from toy_models.attention.options import Options
from toy_models.attention.statistics import RowStatistics, wide


def scores(
    q: Float[torch.Tensor, "batch query head d_head"],
    k: Float[torch.Tensor, "batch key kv_head d_head"],
    visible: Bool[torch.Tensor, "#batch 1 query key"],
    options: Options,
) -> Float[torch.Tensor, "batch head query key"]:
    """scale * q . k, capped, biased, and -inf where the key is not visible.  16-bit inputs are scored in float32."""
    q, k = q.to(wide(q.dtype)), k.to(wide(k.dtype))
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    raw = torch.einsum("bqhd,bkhd->bhqk", q * options.scale, k)
    if options.score_cap is not None:
        raw = options.score_cap * torch.tanh(raw / options.score_cap)
    if options.alibi_slopes is not None:
        away = _distance(raw).abs()
        raw = raw - options.alibi_slopes.to(raw)[:, None, None] * away
    if options.bias is not None:
        raw = raw + options.bias.to(raw.dtype)
    return raw.masked_fill(~visible, -torch.inf)


def softmax(
    scores: Float[torch.Tensor, "batch head query key"], sink_logit: Float[torch.Tensor, " head"] | None = None
) -> Float[torch.Tensor, "batch head query key"]:
    """Softmax over the keys, and over a virtual key of score `sink_logit` that gets what is missing from 1.

    A row that is -inf throughout becomes zeros.
    """
    if sink_logit is not None:
        virtual = sink_logit.to(scores)[:, None, None].expand(*scores.shape[:-1], 1)
        return torch.cat([scores, virtual], dim=-1).softmax(-1)[..., :-1]
    dead = torch.isneginf(scores).all(-1, keepdim=True)
    return scores.masked_fill(dead, 0.0).softmax(-1).masked_fill(dead, 0.0)


def mix(
    pattern: Float[torch.Tensor, "batch head query key"], v: Float[torch.Tensor, "batch key kv_head d_head"]
) -> Float[torch.Tensor, "batch query head d_head"]:
    """The values, averaged with the pattern's weights."""
    v = v.repeat_interleave(pattern.shape[1] // v.shape[2], dim=2)
    return torch.einsum("bhqk,bkhd->bqhd", pattern.to(v.dtype), v)


def row_statistics(
    scores: Float[torch.Tensor, "batch head query key"],
    pattern: Float[torch.Tensor, "batch head query key"],
    sink_logit: Float[torch.Tensor, " head"] | None = None,
    targets: Int[torch.Tensor, "#batch #head query"] | None = None,
    received: bool = False,
) -> RowStatistics:
    """Every number from its definition; `logsumexp` is that of the scores, the others are of the pattern."""
    s, p, virtual = scores.detach(), pattern.detach(), None
    entropy, logsumexp = _surprise(pattern).sum(-1), s.logsumexp(-1)
    if sink_logit is not None:
        # From the scores, not as what is missing from 1, which loses every digit of a small share.
        logit = sink_logit.to(s)[:, None].expand(s.shape[:-1])
        share = torch.cat([scores, logit[..., None]], dim=-1).softmax(-1)[..., -1]
        entropy, logsumexp = entropy + _surprise(share), torch.logaddexp(logsumexp, logit.detach())
        virtual = share.detach()
    position = torch.arange(s.shape[-2], device=s.device) + s.shape[-1] - s.shape[-2]
    extra = 0.0 if virtual is None else virtual
    return RowStatistics(
        logsumexp=logsumexp,
        entropy=entropy,
        peak=p.amax(-1) if virtual is None else torch.maximum(p.amax(-1), virtual),
        sum_squares=p.square().sum(-1) + extra * extra,
        mean_distance=(p * _distance(p)).sum(-1),
        sink_mass=p[..., 0],
        self_mass=_mass(p, position),
        previous_mass=_mass(p, position - 1),
        target_mass=None if targets is None else _mass(p, targets.to(p.device)),
        unassigned_mass=virtual,
        received_mass=p.sum(-2) if received else None,
    )


def _surprise(weights: torch.Tensor) -> torch.Tensor:
    """-p ln p; 0 where p is exactly 0, and so is its gradient."""
    return -weights * weights.where(weights > 0, 1.0).log()


def _distance(scores: torch.Tensor) -> Int[torch.Tensor, "query key"]:
    """position - key, in keys; the queries are the last positions."""
    n_query, n_key = scores.shape[-2:]
    query = torch.arange(n_key - n_query, n_key, device=scores.device)
    return query[:, None] - torch.arange(n_key, device=scores.device)


def _mass(pattern, key: Int[torch.Tensor, "*rows query"]) -> Float[torch.Tensor, "batch head query"]:
    """The weight on one key per row; 0 where that key does not exist."""
    exists = (key >= 0) & (key < pattern.shape[-1])
    at = key.where(exists, 0).long().expand(pattern.shape[:-1])
    return pattern.gather(-1, at[..., None])[..., 0].where(exists, 0.0)


def refuses(q, k, options: Options) -> str | None:
    """The specification serves everything."""
    return None


def attend(q, k, v, options: Options):
    """See `toy_models.attention.attend`."""
    masks = {name: getattr(options, name) for name in ("causal", "window", "key_padding")}
    visible = visible_keys(q.shape[1], k.shape[1], device=q.device, **masks)
    found = scores(q, k, visible, options)
    pattern = softmax(found, options.sink_logit)
    statistics = None
    if options.statistics:
        statistics = row_statistics(found, pattern, options.sink_logit, options.targets, options.received)
    return mix(pattern, v), statistics
