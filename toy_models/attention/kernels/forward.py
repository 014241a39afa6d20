"""Output, normaliser and every row statistic in one pass over the keys.

Per row and with m the highest score so far, in units of log 2, the pass keeps sums over the keys of e = 2^(x - m):

    n  of e          t  of e (m - x)          r  of e^2          c  of e (first position of the block - key)

and e of single keys; a higher m' rescales them all by a = 2^(m - m'), but r by a^2, and
t' = a (t + (m' - m) n) + sum e (m' - x).  Both terms of the entropy, ln n + ln 2 t / n, are at least 0 but for the
rounding of m: nothing cancels.  The largest weight is 1 / n.  The mass on one key is picked from e in the tiles where
that key can be, the first and those around the diagonal: q . k computed once more would be rounded in another way, and
a weight near 1 would lose the digits that cancel between its score and the normaliser.

The pass is that of Milakov and Gimelshein 2018, arXiv:1805.02867, and Dao et al. 2022, arXiv:2205.14135, section 3.1.
"""

from typing import no_type_check

import triton
import triton.language as tl

from toy_models.attention.kernels.tile import (
    HIDDEN,
    LN2,
    RUN_TIME,
    described,
    dot,
    down,
    key_ranges,
    put_rows,
    real_keys,
    rows_of,
    score,
    sees,
    tile_of,
    up,
)


@triton.jit(do_not_specialize=RUN_TIME)
@no_type_check
def forward(Q, K, V, REAL, SLOPES, SINKS, TARGETS, Z, BASE, ROWS,
            q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head, t_batch, t_head,
            n_query, n_key, n_heads, group, window, scale, cap,
            D: tl.constexpr, DP: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr,
            ALIBI: tl.constexpr, CAPPED: tl.constexpr, SINK: tl.constexpr, STATISTICS: tl.constexpr,
            TARGETED: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, ALIGNED: tl.constexpr,
            BM: tl.constexpr, BN: tl.constexpr, DESCRIPTORS: tl.constexpr = False):  # fmt: skip
    """One block of BM queries of one head: grid (blocks, batch * heads).  `serve` says what the arguments are.

    ALIGNED is not read here: it is for the tuner, which may try DESCRIPTORS where rows start at multiples of 16 bytes.
    """
    first, which = (tl.num_programs(0) - 1 - tl.program_id(0)) * BM, tl.program_id(1)  # the longest rows first
    b, h = (which // n_heads).to(tl.int64), (which % n_heads).to(tl.int64)
    kv, offset = h // group, n_key - n_query
    row = first + tl.arange(0, BM)
    at, at0, live = row + offset, first + offset, row < n_query
    keys, values, real = K + b * k_batch + kv * k_head, V + b * v_batch + kv * v_head, REAL + b * n_key
    if DESCRIPTORS:
        keys, values = described(keys, k_row, n_key, BN, D, DP), described(values, v_row, n_key, BN, D, DP)
    slope = tl.load(SLOPES + h) * (1.0 / LN2) if ALIBI else 0.0
    q = rows_of(Q + b * q_batch + h * q_head, first, q_row, n_query, BM, D, DP, True)
    sink = tl.load(SINKS + h) * (1.0 / LN2) if SINK else HIDDEN  # the virtual key, if there is one, comes first
    z, t = tl.zeros([BM, DP], tl.float32), tl.zeros([BM], tl.float32)
    m, n = t + sink, t + (1.0 if SINK else 0.0)
    r, c, to_first, to_own, to_previous, to_target = n, t, t, t, t, t
    at_targets = TARGETS + b * t_batch + h * t_head + row
    target = tl.load(at_targets, mask=live, other=-1).to(tl.int32) if TARGETED else row
    last = tl.minimum(first + BM, n_query) - 1
    left, a, e, right = key_ranges(at0, last + offset, n_key, window, BN, CAUSAL, WINDOWED)
    if STATISTICS:  # single keys are picked from the first tile and, where it is an edge, from those at the diagonal
        a = tl.minimum(tl.maximum(a, BN), up(right, BN))
        e = tl.maximum(a, tl.minimum(e, down(at0 - 1, BN)) if CAUSAL else e)
    for part in tl.static_range(3):  # all queries of the block see all keys from a to e: no mask there
        if part > 0 or WINDOWED or STATISTICS:
            begin, end = (left, a) if part == 0 else ((a, e) if part == 1 else (e, right))
            z, m, n, t, r, c, to_first, to_own, to_previous, to_target = _walk(
                z, m, n, t, r, c, to_first, to_own, to_previous, to_target, q, keys, values, real, begin, end, at, at0,
                target, n_key, k_row, v_row, window, slope, scale, cap, part, D, DP, CAUSAL, WINDOWED,
                PADDED, ALIBI, CAPPED, STATISTICS, TARGETED, PRECISION, UPCAST, BN, DESCRIPTORS)  # fmt: skip
    dead = (m < HIDDEN / 2) & (n == n)  # a row of nan is not dead: it stays nan
    n = tl.where(dead, 1.0, n)
    whole = tl.where(dead, 0.0, 1.0 / n)
    base = tl.where(dead, 0.0, m + tl.log2(n))
    line = which.to(tl.int64) * n_query + row
    tl.store(BASE + line, base, mask=live)
    put_rows(Z + (b * n_query * n_heads + h) * D, first, n_heads * D, n_query, z * whole[:, None], BM, D, DP)
    if STATISTICS:
        unassigned = tl.exp2(sink - m) * whole if SINK else tl.zeros([BM], tl.float32)
        into, plane = ROWS + line, tl.num_programs(1).to(tl.int64) * n_query
        _tell(into, plane, live, dead, base, n, whole, t, r, c, at - at0, to_first, to_own, to_previous, unassigned)
        if TARGETED:
            tl.store(into + 8 * plane, to_target * whole, mask=live)
        if SINK:
            tl.store(into + (9 if TARGETED else 8) * plane, unassigned, mask=live)


@triton.jit
@no_type_check
def _walk(z, m, n, t, r, c, to_first, to_own, to_previous, to_target, q, keys, values, real, left, right, at, at0,
          target, n_key, k_row, v_row, window, slope, scale, cap, PART: tl.constexpr, D: tl.constexpr,
          DP: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr, ALIBI: tl.constexpr,
          CAPPED: tl.constexpr, STATISTICS: tl.constexpr, TARGETED: tl.constexpr, PRECISION: tl.constexpr,
          UPCAST: tl.constexpr, BN: tl.constexpr, DESCRIPTORS: tl.constexpr):  # fmt: skip
    """The sums with keys `left` to `right` added.

    PART: 1 if every query of the block may look at all of them; 0 if the first key is among them, or can be.
    """
    MASKED: tl.constexpr = PART != 1
    for start in tl.range(left, right, BN):
        key = start + tl.arange(0, BN)
        k = tile_of(keys, start, k_row, n_key, BN, D, DP, MASKED, DESCRIPTORS)
        product = dot(q, tl.trans(k), PRECISION, UPCAST)
        if MASKED or PADDED or ALIBI or CAPPED:
            x, _ = score(product, at[:, None], key[None, :], slope, scale, cap, ALIBI, CAPPED)
            if MASKED:
                x = tl.where(sees(at[:, None], key[None, :], n_key, window, CAUSAL, WINDOWED), x, HIDDEN)
            if PADDED:
                x = tl.where(real_keys(real, key, n_key)[None, :], x, HIDDEN)
            highest = tl.maximum(m, tl.max(x, 1))
            x = x - highest[:, None]
        else:  # one multiplication less per score, since the scale is not negative
            highest = tl.maximum(m, tl.max(product, 1) * scale)
            x = product * scale - highest[:, None]
        a = tl.exp2(m - highest)
        e = tl.exp2(x)
        added = tl.sum(e, 1)
        if STATISTICS:
            t = a * (t + (highest - m) * n) - tl.sum(e * x, 1)  # with the sum so far
            r = a * a * r + tl.sum(e * e, 1)
            c = a * c + (at0 - start) * added - tl.sum(e * tl.arange(0, BN).to(tl.float32)[None, :], 1)
            to_first, to_own, to_previous, to_target = a * to_first, a * to_own, a * to_previous, a * to_target
            if PART == 0:
                to_first += tl.sum(tl.where(key[None, :] == 0, e, 0.0), 1)
            if MASKED or not CAUSAL:
                behind = at[:, None] - key[None, :]
                to_own += tl.sum(tl.where(behind == 0, e, 0.0), 1)
                to_previous += tl.sum(tl.where(behind == 1, e, 0.0), 1)
            if TARGETED:
                to_target += tl.sum(tl.where(target[:, None] == key[None, :], e, 0.0), 1)
        n = a * n + added
        v = tile_of(values, start, v_row, n_key, BN, D, DP, MASKED, DESCRIPTORS)
        z = z * a[:, None] + dot(e.to(v.dtype), v, PRECISION, UPCAST)
        m = highest
    return z, m, n, t, r, c, to_first, to_own, to_previous, to_target


@triton.jit
@no_type_check
def _tell(into, plane, live, dead, base, n, whole, t, r, c, within, to_first, to_own, to_previous, unassigned):
    """Store what every row has, in the order of STATISTICS, `plane` numbers apart."""
    entropy = (tl.log2(n) + t / n) * LN2
    distance = c * whole + within.to(tl.float32) * tl.where(dead, 0.0, 1.0 - unassigned)  # now from each query
    tl.store(into, tl.where(dead, -float("inf"), base * LN2), mask=live)
    tl.store(into + plane, tl.where(dead | (entropy < 0), 0.0, entropy), mask=live)  # below 0 by rounding; nan stays
    tl.store(into + 2 * plane, whole, mask=live)
    tl.store(into + 3 * plane, r * whole * whole, mask=live)
    tl.store(into + 4 * plane, distance, mask=live)
    tl.store(into + 5 * plane, to_first * whole, mask=live)
    tl.store(into + 6 * plane, to_own * whole, mask=live)
    tl.store(into + 7 * plane, to_previous * whole, mask=live)
