"""Attention backends behind one call.  Imports torch, jaxtyping and Triton only: a bare GPU machine will do.

Conventions.  q is `(batch, query, head, d_head)`, k and v are `(batch, key, kv_head, d_head)`; query
heads share a key-value head in consecutive groups (grouped-query attention).  The queries are the last
positions: query i sits at key position `i + n_key - n_query`.  `key_padding` is True where the key is
real.  A query that may look at no key gets `z = 0`.

A backend is a module with `attend(q, k, v, options) -> (z, statistics or None)` and `refuses(q, k, options)`,
which says why it cannot serve, or None; one line in NAMES makes it known.
"""

import importlib
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int

from toy_models.attention.options import Options, check
from toy_models.attention.statistics import STATISTICS, RowStatistics

__all__ = ["FUSED", "NAMES", "STATISTICS", "Attention", "Options", "RowStatistics", "attend", "check_backend"]

# One line per backend, loaded when asked for; "auto" takes the first after the reference that serves (see `_choose`).
# The kernels' packages are imported when they compute, not before.
NAMES = {
    "reference": "toy_models.attention.reference",
    "sdpa": "toy_models.attention.sdpa",
    "tiled": "toy_models.attention.tiled",
    "triton": "toy_models.attention.triton",
    "triton_tf32": "toy_models.attention.triton_tf32",
}
# Scores from which on, on a CPU, `tiled` is faster than `sdpa` with a mask written out, forward and backward.
LARGE_MASK = 1024 * 1024
FUSED = frozenset(NAMES) - {"reference"}  # these never hold the pattern
BY_NAME_ONLY = frozenset({"triton", "triton_tf32"})  # "auto" leaves out what no GPU has run yet: see the README


class Attention(NamedTuple):
    """What attention returned, and which backend computed it; `statistics` is None unless asked for."""

    z: Float[torch.Tensor, "batch query head d_head"]
    statistics: RowStatistics | None
    backend: str


def check_backend(name: str) -> None:
    """Raise ValueError, listing the known ones, unless `name` is a backend or "auto"."""
    if name != "auto" and name not in NAMES:
        raise ValueError(f"unknown attention backend {name!r}: choose one of auto, {', '.join(NAMES)}")


def attend(
    q: Float[torch.Tensor, "batch query head d_head"],
    k: Float[torch.Tensor, "batch key kv_head d_head"],
    v: Float[torch.Tensor, "batch key kv_head d_head"],
    *,
    causal: bool = True,
    window: int | None = None,
    alibi_slopes: Float[torch.Tensor, " head"] | None = None,
    scale: float | None = None,
    score_cap: float | None = None,
    key_padding: Bool[torch.Tensor, "batch key"] | None = None,
    sink_logit: Float[torch.Tensor, " head"] | None = None,
    bias: Float[torch.Tensor, "head query key"] | None = None,
    statistics: bool = False,
    targets: Int[torch.Tensor, "#batch #head query"] | None = None,
    received: bool = False,
    backend: str = "auto",
) -> Attention:
    """z_i = sum_j p_ij v_j over the visible keys j, with p_i = softmax_j(s_ij) and

        s_ij = cap(scale * q_i . k_j) - slope * |position_i - j| + bias_ij,   cap(x) = score_cap * tanh(x / score_cap).

    Args:
        causal: query i looks at keys up to its own position.
        window: and no further than `window - 1` positions away.
        alibi_slopes: per head, nats per key of distance.
        scale: factor on the products; `d_head ** -0.5` unless given.
        score_cap: bound on their size, in nats; none unless given.
        key_padding: True where the key is real.
        sink_logit: per head, the score of a virtual key without a value, in nats: p then sums to less than 1.
        bias: added to the scores, in nats; with 16-bit inputs give it in float32.
        statistics: return `RowStatistics` as well.
        targets: for `target_mass`, the key to watch per row, or -1 for none.
        received: for `received_mass`, sum over the queries.
        backend: a name in NAMES, or "auto", the fastest that serves of those that are not BY_NAME_ONLY.

    Raises:
        ValueError: an unknown backend, one that cannot serve these options, or shapes that do not fit.
    """
    check_backend(backend)
    options = Options(
        scale=q.shape[-1] ** -0.5 if scale is None else scale,
        **{"causal": causal, "window": window, "alibi_slopes": alibi_slopes, "score_cap": score_cap},
        **{"key_padding": key_padding, "sink_logit": sink_logit, "bias": bias},
        **{"statistics": statistics, "targets": targets, "received": received},
    )
    check(q, k, options)
    name = _choose(q, k, options) if backend == "auto" else backend
    module = importlib.import_module(NAMES[name])
    if reason := module.refuses(q, k, options):
        able = [other for other in NAMES if other != name and not _refusal(other, q, k, options)]
        raise ValueError(f"backend {name!r} {reason}: choose auto, or one of {', '.join(able)}")
    z, rows = module.attend(q, k, v, options)
    return Attention(z, rows, name)


def _choose(q, k, options: Options) -> str:
    fused = [name for name in NAMES if name in FUSED - BY_NAME_ONLY]
    if _sdpa_writes_out_much(q, k, options):
        fused.remove("sdpa")
    return next(name for name in [*fused, "reference"] if not _refusal(name, q, k, options))


def _sdpa_writes_out_much(q, k, options: Options) -> bool:
    """On a CPU torch's kernel needs every mask but the plain causal one as a matrix: slow and large for many keys."""
    n_query, n_key = q.shape[1], k.shape[1]
    masked = options.causal and n_query not in (1, n_key)
    terms = ("window", "key_padding", "alibi_slopes", "sink_logit")
    masked |= any(getattr(options, name) is not None for name in terms)
    return q.device.type == "cpu" and masked and n_query * n_key >= LARGE_MASK


def _refusal(name: str, q, k, options: Options) -> str | None:
    return importlib.import_module(NAMES[name]).refuses(q, k, options)
