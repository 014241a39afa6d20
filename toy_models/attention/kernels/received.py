"""What each key receives: one more pass over the scores, a block of keys at a time, once the rows are whole."""

from typing import no_type_check

import triton
import triton.language as tl

from toy_models.attention.kernels.tile import HIDDEN, LN2, RUN_TIME, dot, query_ranges, real_keys, rows_of, score, sees


@triton.jit(do_not_specialize=RUN_TIME)
@no_type_check
def received(Q, K, REAL, SLOPES, BASE, RECEIVED,
             q_batch, q_row, q_head, k_batch, k_row, k_head,
             n_query, n_key, n_heads, group, window, scale, cap,
             D: tl.constexpr, DP: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr,
             ALIBI: tl.constexpr, CAPPED: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
             BM: tl.constexpr, BN: tl.constexpr):  # fmt: skip
    """The sum over the queries of the weight of each of BN keys of one head: grid (blocks, batch * heads)."""
    first, which = tl.program_id(0) * BN, tl.program_id(1)
    b, h = (which // n_heads).to(tl.int64), (which % n_heads).to(tl.int64)
    offset, key = n_key - n_query, first + tl.arange(0, BN)
    slope = tl.load(SLOPES + h) * (1.0 / LN2) if ALIBI else 0.0
    k = rows_of(K + b * k_batch + (h // group) * k_head, first, k_row, n_key, BN, D, DP, True)
    queries, base = Q + b * q_batch + h * q_head, BASE + which.to(tl.int64) * n_query
    total = tl.zeros([BN], tl.float32)
    there_is = key < n_key
    if PADDED:
        there_is = real_keys(REAL + b * n_key, key, n_key)
    last = tl.minimum(first + BN, n_key) - 1
    top, a, e, bottom = query_ranges(first, last, offset, n_query, window, BM, CAUSAL, WINDOWED)
    e = tl.where(first + BN > n_key, a, e)  # keys that are not there are hidden like the others
    for part in tl.static_range(3):  # all keys of the block are seen by all queries from a to e: no mask there
        if part > 0 or CAUSAL or WINDOWED:
            begin, end = (top, a) if part == 0 else ((a, e) if part == 1 else (e, bottom))
            total = _add_queries(total, k, queries, base, begin, end, key, there_is, n_query, n_key, offset, q_row,
                                 window, slope, scale, cap, part != 1, D, DP, CAUSAL, WINDOWED, PADDED, ALIBI, CAPPED,
                                 PRECISION, UPCAST, BM)  # fmt: skip
    tl.store(RECEIVED + which.to(tl.int64) * n_key + key, total, mask=key < n_key)


@triton.jit
@no_type_check
def _add_queries(total, k, queries, bases, top, bottom, key, there_is, n_query, n_key, offset, q_row, window, slope,
                 scale, cap, MASKED: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, CAUSAL: tl.constexpr,
                 WINDOWED: tl.constexpr, PADDED: tl.constexpr, ALIBI: tl.constexpr, CAPPED: tl.constexpr,
                 PRECISION: tl.constexpr, UPCAST: tl.constexpr, BM: tl.constexpr):  # fmt: skip
    """The weights of queries `top` to `bottom` added; keys are the rows of a tile here, and the sum is along them."""
    for start in tl.range(top, bottom, BM):
        row = start + tl.arange(0, BM)
        live, at, there = row < n_query, (row + offset)[None, :], key[:, None]
        q = rows_of(queries, start, q_row, n_query, BM, D, DP, MASKED)
        x = score(dot(k, tl.trans(q), PRECISION, UPCAST), at, there, slope, scale, cap, ALIBI, CAPPED)[0]
        x -= tl.load(bases + row, mask=live, other=0.0)[None, :]
        if MASKED:
            x = tl.where(sees(at, there, n_key, window, CAUSAL, WINDOWED) & live[None, :], x, HIDDEN)
        if PADDED:
            x = tl.where(there_is[:, None], x, HIDDEN)
        total += tl.sum(tl.exp2(x), 1)
    return total
