"""One tile of scores, in units of log 2, and which tiles a block needs: what every kernel is made of.

Positions and keys come as a column and a row, or as a row and a column: both broadcast to the tile.  A hidden key
scores HIDDEN, which is finite: its weight is exactly 0, and so is its weight times its score.

Triton compiles a function from its source, and finds what it calls by its module: a type checker must not wrap it.
"""

from typing import no_type_check

import triton
import triton.language as tl

HIDDEN = tl.constexpr(-1e30)
LN2 = tl.constexpr(0.6931471805599453)
# Arguments whose value, 1 or a multiple of 16, is no reason to compile another kernel.
RUN_TIME = ("n_query", "n_key", "n_heads", "group", "window", "t_batch", "t_head")


@triton.jit
@no_type_check
def dot(a, b, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """a @ b, summed in float32.  PRECISION is that of float32 inputs: "ieee" or "tf32".

    UPCAST is for Triton's interpreter, which multiplies the bits of bfloat16 as if they were integers.
    """
    if UPCAST:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
@no_type_check
def tanh(y):
    """To a few units of float32, near 0 too, where 1 - 2 / (exp(2 y) + 1) would lose every digit."""
    size = tl.abs(y)
    size = tl.where(size > 16.0, 16.0, size)  # 1 from 10 on; nan stays nan
    square = size * size
    # The series 1 - y^2/3 + 2 y^4/15 - 17 y^6/315 + 62 y^8/2835, whose next term is below 1e-8 at 1/4.
    series = -0.05396825396825397 + square * 0.021869488536155203
    series = 1.0 + square * (-0.3333333333333333 + square * (0.13333333333333333 + square * series))
    far = 1.0 - 2.0 / (tl.exp2(size * 2.8853900817779268) + 1.0)
    bent = tl.where(size < 0.25, size * series, far)
    return tl.where(y < 0, -bent, bent)


@triton.jit
@no_type_check
def score(product, at, key, slope, scale, cap, ALIBI: tl.constexpr, CAPPED: tl.constexpr):
    """(scores, tanh of the scaled products) from q . k; the second is of use only under a cap.

    Args: scale, cap: as `serve` lays them out;  slope: in units of log 2 per key.
    """
    x = product * scale
    bent = x
    if CAPPED:
        bent = tanh(x)
        x = bent * cap
    if ALIBI:
        x -= slope * tl.abs(at - key).to(tl.float32)
    return x, bent


@triton.jit
@no_type_check
def sees(at, key, n_key, window, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr):
    """Whether the query at `at` may look at the key, padding aside."""
    seen = key < n_key
    if CAUSAL:
        seen = seen & (key <= at)
    if WINDOWED:
        seen = seen & (at - key < window)
        if not CAUSAL:
            seen = seen & (key - at < window)
    return seen


@triton.jit
@no_type_check
def real_keys(real, key, n_key):
    """True where the key is no padding; `real` points at bytes, 1 for True."""
    return tl.load(real + key, mask=key < n_key, other=0) != 0


@triton.jit
@no_type_check
def rows_of(base, first, stride, limit, N: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, MASKED: tl.constexpr):
    """Rows `first` to `first + N` of D columns, as DP, 0 beyond them; MASKED: 0 from row `limit` on, too."""
    row, column = tl.arange(0, N), tl.arange(0, DP)
    # A scalar of 64 bits for where the tile starts, and 32 bits within it.
    at = base + tl.cast(first, tl.int64) * stride + row[:, None] * stride + column[None, :]
    if MASKED and D != DP:
        return tl.load(at, mask=(first + row < limit)[:, None] & (column < D)[None, :], other=0.0)
    elif MASKED:
        return tl.load(at, mask=(first + row < limit)[:, None], other=0.0)
    elif D != DP:
        return tl.load(at, mask=(column < D)[None, :], other=0.0)
    else:
        return tl.load(at)


@triton.jit
@no_type_check
def described(base, stride, limit, N: tl.constexpr, D: tl.constexpr, DP: tl.constexpr):
    """A descriptor of rows: the hardware copies N of them at a time, with 0 from row `limit` on and beyond column D."""
    return tl.make_tensor_descriptor(base, [limit, D], [stride, 1], [N, DP])


@triton.jit
@no_type_check
def tile_of(rows, first, stride, limit, N: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, MASKED: tl.constexpr,
            DESCRIPTORS: tl.constexpr):  # fmt: skip
    """`rows_of` from a pointer, or the same from a descriptor."""
    if DESCRIPTORS:
        return rows.load([first, 0])
    else:
        return rows_of(rows, first, stride, limit, N, D, DP, MASKED)


@triton.jit
@no_type_check
def put_rows(base, first, stride, limit, values, N: tl.constexpr, D: tl.constexpr, DP: tl.constexpr):
    """The reverse of `rows_of`: nothing is written from row `limit` on or beyond column D."""
    row, column = tl.arange(0, N), tl.arange(0, DP)
    at = base + tl.cast(first, tl.int64) * stride + row[:, None] * stride + column[None, :]
    tl.store(at, values.to(base.dtype.element_ty), mask=(first + row < limit)[:, None] & (column < D)[None, :])


@triton.jit
@no_type_check
def up(number, STEP: tl.constexpr):
    """The next multiple of STEP, 0 for what is below 0."""
    return tl.cdiv(tl.maximum(number, 0), STEP) * STEP


@triton.jit
@no_type_check
def down(number, STEP: tl.constexpr):
    """The multiple of STEP at or below, 0 for what is below 0."""
    return tl.maximum(number, 0) // STEP * STEP


@triton.jit
@no_type_check
def key_ranges(first, last, n_key, window, STEP: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr):
    """(left, a, b, right): the keys that queries at `first` to `last` may look at, of which all see all from a to b.

    left, a and b are multiples of STEP.
    """
    left, full_left, right, full_right = 0, 0, n_key, n_key
    if WINDOWED:
        left, full_left = down(first - window + 1, STEP), up(last - window + 1, STEP)
        if not CAUSAL:
            right, full_right = tl.minimum(n_key, last + window), tl.minimum(n_key, first + window)
    if CAUSAL:
        right, full_right = tl.minimum(n_key, last + 1), tl.minimum(n_key, first + 1)
    a = tl.minimum(full_left, up(right, STEP))
    return left, a, tl.maximum(a, down(full_right, STEP)), right


@triton.jit
@no_type_check
def query_ranges(
    first, last, offset, n_query, window, STEP: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr
):
    """(top, a, b, bottom): the queries that may look at keys `first` to `last`, of which all see all from a to b.

    top, a and b are multiples of STEP; query i is at position i + offset.
    """
    top, full_top, bottom, full_bottom = 0, 0, n_query, n_query
    if WINDOWED:
        bottom = tl.minimum(n_query, last + window - offset)
        full_bottom = tl.minimum(n_query, first + window - offset)
        if not CAUSAL:
            top, full_top = down(first - window + 1 - offset, STEP), up(last - window + 1 - offset, STEP)
    if CAUSAL:
        top, full_top = down(first - offset, STEP), up(last - offset, STEP)
    a = tl.minimum(full_top, up(bottom, STEP))
    return top, a, tl.maximum(a, down(full_bottom, STEP)), bottom
