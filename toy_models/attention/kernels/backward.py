"""Gradients of the output and of the entropy, from scores that are computed once more.

For one row with weights p_j, output z = sum_j p_j v_j and entropy H = -sum_j p_j ln p_j, the derivative of
f = g . z + h H by a score is

    df/ds_j = p_j (g . v_j + c - h ln p_j),    c = -g . z - h H.

Two kernels, without atomics: one sums over the keys (gradients of q and of the slopes), the other over the queries of
every head of a group (gradients of k and v).  The order of a sum is that of the loop: the same bits every time.
"""

from typing import no_type_check

import triton
import triton.language as tl

from toy_models.attention.kernels.tile import (
    HIDDEN,
    LN2,
    RUN_TIME,
    dot,
    key_ranges,
    put_rows,
    query_ranges,
    real_keys,
    rows_of,
    score,
    sees,
)


@triton.jit(do_not_specialize=RUN_TIME)
@no_type_check
def by_queries(Q, K, V, G, REAL, SLOPES, BASE, C, PULL, GRAD_Q, GRAD_SLOPES,
               q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head, g_batch, g_row, g_head,
               n_query, n_key, n_heads, group, window, scale, cap, factor,
               D: tl.constexpr, DP: tl.constexpr,
               CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr, ALIBI: tl.constexpr,
               CAPPED: tl.constexpr, PULLED: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
               BM: tl.constexpr, BN: tl.constexpr):  # fmt: skip
    """Gradients of a block of BM queries, and per row that of its slope: grid (blocks, batch * heads)."""
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * BM
    which = tl.program_id(1)
    b, h = (which // n_heads).to(tl.int64), (which % n_heads).to(tl.int64)
    kv, offset = h // group, n_key - n_query
    row = first + tl.arange(0, BM)
    line, live = which.to(tl.int64) * n_query + row, row < n_query
    at = (row + offset)[:, None]
    keys, values, real = K + b * k_batch + kv * k_head, V + b * v_batch + kv * v_head, REAL + b * n_key
    slope = tl.load(SLOPES + h) * (1.0 / LN2) if ALIBI else 0.0
    q = rows_of(Q + b * q_batch + h * q_head, first, q_row, n_query, BM, D, DP, True)
    g = rows_of(G + b * g_batch + h * g_head, first, g_row, n_query, BM, D, DP, True)
    base, c, pull = _told(BASE, C, PULL, line, live, PULLED)
    grad, of_slope = tl.zeros([BM, DP], tl.float32), tl.zeros([BM], tl.float32)
    last = tl.minimum(first + BM, n_query) - 1 + offset
    left, a, e, right = key_ranges(first + offset, last, n_key, window, BN, CAUSAL, WINDOWED)
    for part in tl.static_range(3):  # all queries of the block see all keys from a to e: no mask there
        if part > 0 or WINDOWED:
            begin, end = (left, a) if part == 0 else ((a, e) if part == 1 else (e, right))
            grad, of_slope = _add_keys(grad, of_slope, q, g, keys, values, real, begin, end, at, base, c, pull, n_key,
                                       k_row, v_row, window, slope, scale, cap, part != 1, D, DP, CAUSAL, WINDOWED,
                                       PADDED, ALIBI, CAPPED, PULLED, PRECISION, UPCAST, BN)  # fmt: skip
    put_rows(GRAD_Q + (b * n_query * n_heads + h) * D, first, n_heads * D, n_query, grad * factor, BM, D, DP)
    if ALIBI:
        tl.store(GRAD_SLOPES + line, of_slope, mask=live)


@triton.jit(do_not_specialize=RUN_TIME)
@no_type_check
def by_keys(Q, K, V, G, REAL, SLOPES, BASE, C, PULL, GRAD_K, GRAD_V,
            q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head, g_batch, g_row, g_head,
            n_query, n_key, n_heads, group, window, scale, cap, factor,
            D: tl.constexpr, DP: tl.constexpr,
            CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr, ALIBI: tl.constexpr,
            CAPPED: tl.constexpr, PULLED: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
            BM: tl.constexpr, BN: tl.constexpr):  # fmt: skip
    """Gradients of a block of BN keys and values, over all heads that share them: grid (blocks, batch * kv heads)."""
    first, which, n_kv_heads = tl.program_id(0) * BN, tl.program_id(1), n_heads // group
    b, kv, offset = (which // n_kv_heads).to(tl.int64), which % n_kv_heads, n_key - n_query
    key = first + tl.arange(0, BN)
    k = rows_of(K + b * k_batch + kv.to(tl.int64) * k_head, first, k_row, n_key, BN, D, DP, True)
    v = rows_of(V + b * v_batch + kv.to(tl.int64) * v_head, first, v_row, n_key, BN, D, DP, True)
    grad_k, grad_v = tl.zeros([BN, DP], tl.float32), tl.zeros([BN, DP], tl.float32)
    last = tl.minimum(first + BN, n_key) - 1
    top, _a, _e, bottom = query_ranges(first, last, offset, n_query, window, BM, CAUSAL, WINDOWED)
    for h in tl.range(kv * group, (kv + 1) * group):
        head = tl.cast(h, tl.int64)
        slope = tl.load(SLOPES + head) * (1.0 / LN2) if ALIBI else 0.0
        queries, incoming = Q + b * q_batch + head * q_head, G + b * g_batch + head * g_head
        line = (b * n_heads + head) * n_query
        # Every tile is masked: loops of their own for those that need none would not leave the sums in registers.
        for start in tl.range(top, bottom, BM):
            row = start + tl.arange(0, BM)
            live, at, there = row < n_query, (row + offset)[None, :], key[:, None]
            q = rows_of(queries, start, q_row, n_query, BM, D, DP, True)
            g = rows_of(incoming, start, g_row, n_query, BM, D, DP, True)
            base, c, pull = _told(BASE + line, C + line, PULL + line, row, live, PULLED)
            # Keys are the rows of a tile here: the weights are on the left of both products.
            x, bent = score(dot(k, tl.trans(q), PRECISION, UPCAST), at, there, slope, scale, cap, ALIBI, CAPPED)
            x = tl.where(sees(at, there, n_key, window, CAUSAL, WINDOWED) & live[None, :], x, HIDDEN)
            if PADDED:
                x = tl.where(real_keys(REAL + b * n_key, key, n_key)[:, None], x, HIDDEN)
            mixed = dot(v, tl.trans(g), PRECISION, UPCAST)
            weights, slant = _slant(x, mixed, base[None, :], c[None, :], pull[None, :], PULLED)
            if CAPPED:
                slant = slant * (1.0 - bent * bent)
            grad_v += dot(weights.to(g.dtype), g, PRECISION, UPCAST)
            grad_k += dot(slant.to(q.dtype), q, PRECISION, UPCAST)
    into, stride = (b * n_key * n_kv_heads + kv) * D, n_kv_heads * D
    put_rows(GRAD_K + into, first, stride, n_key, grad_k * factor, BN, D, DP)
    put_rows(GRAD_V + into, first, stride, n_key, grad_v, BN, D, DP)


@triton.jit
@no_type_check
def _add_keys(grad, of_slope, q, g, keys, values, real, left, right, at, base, c, pull, n_key, k_row, v_row, window,
              slope, scale, cap, MASKED: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, CAUSAL: tl.constexpr,
              WINDOWED: tl.constexpr, PADDED: tl.constexpr, ALIBI: tl.constexpr, CAPPED: tl.constexpr,
              PULLED: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, BN: tl.constexpr):  # fmt: skip
    """The gradients of a block of queries, and of the slope per row, with keys `left` to `right` added."""
    for start in tl.range(left, right, BN):
        key = start + tl.arange(0, BN)
        k = rows_of(keys, start, k_row, n_key, BN, D, DP, MASKED)
        v = rows_of(values, start, v_row, n_key, BN, D, DP, MASKED)
        there = key[None, :]
        x, bent = score(dot(q, tl.trans(k), PRECISION, UPCAST), at, there, slope, scale, cap, ALIBI, CAPPED)
        if MASKED:
            x = tl.where(sees(at, there, n_key, window, CAUSAL, WINDOWED), x, HIDDEN)
        if PADDED:
            x = tl.where(real_keys(real, key, n_key)[None, :], x, HIDDEN)
        mixed = dot(g, tl.trans(v), PRECISION, UPCAST)
        slant = _slant(x, mixed, base[:, None], c[:, None], pull[:, None], PULLED)[1]
        if ALIBI:
            of_slope -= tl.sum(slant * tl.abs(at - there).to(tl.float32), 1)
        if CAPPED:
            slant = slant * (1.0 - bent * bent)
        grad += dot(slant.to(k.dtype), k, PRECISION, UPCAST)
    return grad, of_slope


@triton.jit
@no_type_check
def _told(bases, cs, pulls, row, live, PULLED: tl.constexpr):
    """The rows' `base`, c and h; 0 for rows that are not there."""
    base, c = tl.load(bases + row, mask=live, other=0.0), tl.load(cs + row, mask=live, other=0.0)
    pull = c
    if PULLED:
        pull = tl.load(pulls + row, mask=live, other=0.0)
    return base, c, pull


@triton.jit
@no_type_check
def _slant(x, mixed, base, c, pull, PULLED: tl.constexpr):
    """(weights, derivative by the score) from scores x and mixed = g . v."""
    bits = x - base
    weights = tl.exp2(bits)
    slant = mixed + c
    if PULLED:
        slant -= pull * LN2 * bits
    return weights, weights * slant
