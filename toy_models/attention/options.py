"""What attention is asked for beside q, k and v: one object that every backend takes."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of `toy_models.attention.attend`, checked, with `scale` filled in."""

    scale: float
    causal: bool = True
    window: int | None = None
    alibi_slopes: Float[torch.Tensor, " head"] | None = None
    score_cap: float | None = None
    key_padding: Bool[torch.Tensor, "batch key"] | None = None
    sink_logit: Float[torch.Tensor, " head"] | None = None
    bias: Float[torch.Tensor, "head query key"] | None = None
    statistics: bool = False
    targets: Int[torch.Tensor, "#batch #head query"] | None = None
    received: bool = False


def check(q: torch.Tensor, k: torch.Tensor, options: Options) -> None:
    """Raise ValueError, in one line, where the shapes and options do not fit one another."""
    (batch, n_query, n_heads, _), (_, n_key, n_kv_heads, _) = q.shape, k.shape
    if n_heads % n_kv_heads:
        raise ValueError(f"{n_heads} query heads cannot share {n_kv_heads} key-value heads evenly")
    if options.causal and n_query > n_key:
        raise ValueError(f"causal attention needs at least as many keys as queries: {n_key} < {n_query}")
    for name, least in (("window", 1), ("score_cap", 0)):
        value = getattr(options, name)
        if value is not None and not (value > 0 and value >= least):
            raise ValueError(f"{name}={value} must be {'1 or more' if least else 'positive'}")
    for name in ("alibi_slopes", "sink_logit"):
        value = getattr(options, name)
        if value is not None and value.shape != (n_heads,):
            raise ValueError(f"{name} has shape {tuple(value.shape)}: give one number for each of {n_heads} heads")
    if (options.targets is not None or options.received) and not options.statistics:
        raise ValueError("targets and received are statistics: ask for statistics=True")
    if options.targets is not None:
        shape = tuple(options.targets.shape)
        if len(shape) != 3 or shape[0] not in (1, batch) or shape[1] not in (1, n_heads) or shape[2] != n_query:
            raise ValueError(f"targets has shape {shape}: it must be ({batch} or 1, {n_heads} or 1, {n_query})")
        low, high = int(options.targets.min()), int(options.targets.max())
        if low < -1 or high >= n_key:
            raise ValueError(f"targets from {low} to {high}: name keys 0 to {n_key - 1}, or -1 for no key")
