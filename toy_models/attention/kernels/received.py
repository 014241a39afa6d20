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
    top, _, _, bottom = query_ranges(first, last, offset, n_query, window, BM, CAUSAL, WINDOWED)
    for start in tl.range(top, bottom, BM):
        row = start + tl.arange(0, BM)
        q = rows_of(queries, start, q_row, n_query, BM, D, DP, True)
        # Keys are rows here: the sum is over the columns.
        at, there = (row + offset)[None, :], key[:, None]
        x, _ = score(dot(k, tl.trans(q), PRECISION, UPCAST), at, there, slope, scale, cap, ALIBI, CAPPED)
        seen = sees(at, there, n_key, window, CAUSAL, WINDOWED) & (row < n_query)[None, :] & there_is[:, None]
        x = tl.where(seen, x - tl.load(base + row, mask=row < n_query, other=0.0)[None, :], HIDDEN)
        total += tl.sum(tl.exp2(x), 1)
    tl.store(RECEIVED + which.to(tl.int64) * n_key + key, total, mask=key < n_key)
