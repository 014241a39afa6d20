import math
from bisect import bisect_left
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probes import precision
from probes.errors import ProbeInputError
from probes.precision import (
    FLOATS,
    FORMATS,
    accumulated,
    rounded,
    rounded_accumulation,
    rounded_activations,
    rounded_weights,
)
from tests.probes.models import ours
from toy_models.seeding import generator

# Significand bits (the leading one counted), least exponent, largest number.
TABLES = {
    "bfloat16": (8, -126, 2.0**127 * (2 - 2**-7)),
    "float16": (11, -14, 65504.0),
    "float8_e4m3fn": (4, -6, 448.0),
    "float8_e5m2": (3, -14, 57344.0),
}
FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
WIDE = torch.float64


def numbers(format: str) -> list[float]:
    """Every number of a format from 0 up; its place is its code, so an even place is an even last bit."""
    bits, least, largest = TABLES[format]
    found, half = [m * 2.0 ** (least - bits + 1) for m in range(2 ** (bits - 1))], 2 ** (bits - 1)
    exponent = least
    while found[-1] < largest:
        found += [(half + m) * 2.0 ** (exponent - bits + 1) for m in range(half)]
        exponent += 1
    return [x for x in found if x <= largest]


def nearest_even(x: float, table: list[float]) -> float:
    """Rounding by its definition, in exact fractions; |x| is at most the largest of the table."""
    place = bisect_left(table, abs(x))
    if table[place] == abs(x):
        return x
    below, above = place - 1, place
    gaps = [abs(Fraction(abs(x)) - Fraction(table[i])) for i in (below, above)]
    chosen = below if gaps[0] < gaps[1] or (gaps[0] == gaps[1] and below % 2 == 0) else above
    return math.copysign(table[chosen], x)


def values(*items: float, dtype: torch.dtype = WIDE) -> torch.Tensor:
    return torch.tensor(items, dtype=dtype)


def ones(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(1, n, dtype=torch.float32), torch.ones(n, 1, dtype=torch.float32)


# The float formats against their tables -----------------------------------------------------------


@pytest.mark.parametrize("format", TABLES)
def test_every_number_of_a_format_stays_as_it_is(format):
    table = torch.tensor(numbers(format), dtype=WIDE)
    assert len(table) == {"float8_e4m3fn": 127, "float8_e5m2": 124, "float16": 31744, "bfloat16": 32640}[format]
    for signed in (table, -table):
        assert torch.equal(rounded(signed, format), signed)
        assert torch.equal(rounded(signed.float(), format), signed.float())


@pytest.mark.parametrize("format", TABLES)
def test_a_tie_goes_to_the_even_neighbour_and_a_hair_beside_it_to_the_nearer(format):
    """A hair is one unit of float64: rounding by way of float32 would take it for the tie."""
    table = np.array(numbers(format))[:: 1 if format in FLOAT8 else 37]
    full = np.array(numbers(format))
    below, above = table[:-1], full[np.searchsorted(full, table[:-1]) + 1]
    even = np.searchsorted(full, below) % 2 == 0
    tie = (below + above) / 2
    for x, expected in (
        (tie, np.where(even, below, above)),
        (np.nextafter(tie, 0), below),
        (np.nextafter(tie, np.inf), above),
    ):
        assert np.array_equal(rounded(torch.from_numpy(x), format).numpy(), expected)
        assert np.array_equal(rounded(torch.from_numpy(-x), format).numpy(), -expected)


@pytest.mark.parametrize("format", TABLES)
def test_any_number_goes_to_the_nearest(format):
    table, largest = numbers(format), TABLES[format][2]

    @given(st.floats(-largest, largest))
    def check(x):
        assert rounded(values(x), format).item() == nearest_even(x, table)

    check()


def test_float32_and_float16_agree_with_numpys_own_rounding():
    x = torch.randn(2000, generator=generator(0, "x"), dtype=WIDE) * 2.0 ** torch.arange(-30, 10).repeat(50)
    for format in ("float32", "float16"):
        assert np.array_equal(rounded(x, format).numpy(), x.numpy().astype(format).astype("float64"))


@pytest.mark.parametrize("format", FLOATS)
def test_32_bit_numbers_round_as_torch_casts_them(format):
    x = torch.randn(2000, generator=generator(0, "x"))
    assert torch.equal(rounded(x, format), x.to(FLOATS[format]).float())


@pytest.mark.parametrize("format", TABLES)
def test_the_relative_error_is_at_most_half_a_unit(format):
    x = 1 + torch.rand(1000, generator=generator(1), dtype=WIDE)
    assert ((rounded(x, format) - x) / x).abs().max() <= 2.0 ** -TABLES[format][0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("format", FORMATS)
def test_rounding_keeps_dtype_shape_and_its_argument_and_records_no_gradient(format, dtype):
    x = torch.randn(2, 3, generator=generator(2)).to(dtype).requires_grad_()
    before = x.detach().clone()
    found = rounded(x, format)
    assert (found.dtype, found.shape, found.requires_grad) == (dtype, x.shape, False)
    assert torch.equal(x.detach(), before)


@pytest.mark.parametrize("format", FLOATS)
def test_rounding_twice_is_rounding_once(format):
    x = torch.randn(500, generator=generator(3), dtype=WIDE)
    once = rounded(x, format)
    assert torch.equal(rounded(once, format), once)


# The formats with a scale -------------------------------------------------------------------------


def test_int8_steps_by_the_largest_entry_over_127():
    x = values(12.7, -12.7, 0.05, 0.15, -0.25, 1.04, 0.0)
    expected = values(12.7, -12.7, 0.0, 0.2, -0.2, 1.0, 0.0)  # steps of 0.1; in float64 .05 and .25 lie on or by a tie
    clear = values(1, 1, 0, 0, 0, 1, 1).bool()
    assert (rounded(x, "int8") - expected)[clear].abs().max() <= 1e-14
    assert (rounded(x, "int8") - x).abs().max() <= 0.05 + 1e-14


def test_int8_ties_go_to_the_even_level():
    x = values(127, 0.5, 1.5, 2.5, -0.5, -1.5)  # a scale of 1
    assert rounded(x, "int8").tolist() == [127, 0, 2, 2, 0, -2]


def test_ternary_keeps_the_sign_of_what_is_above_half_the_mean():
    x = values(4.0, -2.0, 0.4, -1.6)  # mean size 2, half of it 1
    assert rounded(x, "ternary").tolist() == [2, -2, 0, -2]


@pytest.mark.parametrize("format", ["int8", "ternary"])
def test_a_row_has_a_scale_of_its_own_and_a_tensor_has_one(format):
    x = torch.randn(3, 4, generator=generator(4), dtype=WIDE) * values(1, 100, 1e-3)[:, None]
    assert torch.equal(rounded(x, format, "row"), torch.stack([rounded(row, format) for row in x]))
    assert not torch.equal(rounded(x, format, "tensor"), rounded(x, format, "row"))
    assert rounded(x, format, "tensor")[2].abs().max() == 0  # lost beside the row of hundreds


@pytest.mark.parametrize("format", ["int8", "ternary"])
def test_zeros_stay_zeros_and_a_power_of_two_passes_through(format):
    x = torch.randn(3, 4, generator=generator(5), dtype=WIDE)
    x[1] = 0
    assert rounded(x, format, "row")[1].tolist() == [0, 0, 0, 0]
    assert torch.equal(rounded(8 * x, format, "row"), 8 * rounded(x, format, "row"))
    assert rounded(x[:0], format).shape == (0, 4)


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rounded(values(1), "float4"), "unknown number format 'float4': choose one of float32, bfloat16"),
        (lambda: rounded(values(1), "int8", "column"), "per='column' must be one of tensor, row"),
        (lambda: rounded(values(1, 500), "float8_e4m3fn"), "holds at most 448: the tensor has 500"),
        (lambda: rounded(values(449), "float8_e4m3fn"), "holds at most 448: the tensor has 449"),
        (lambda: rounded(values(1e5), "float16"), "holds at most 65504: the tensor has 100000"),
        (lambda: rounded(values(math.inf), "float8_e4m3fn"), "holds at most 448: the tensor has inf"),
        (lambda: rounded(values(1, math.nan), "int8"), "int8 needs a scale, and the tensor holds NaN or infinity"),
        (lambda: accumulated(*ones(3), "ternary"), "ternary has no running sum of its own"),
        (lambda: accumulated(*ones(3), "bf16"), "unknown number format 'bf16'.*bfloat16"),
        (lambda: accumulated(*ones(3), "bfloat16", 0), "every=0 must be at least 1"),
        (lambda: rounded_accumulation("int8").__enter__(), "int8 has no running sum"),
        (lambda: rounded_weights(ours(), "int8", only=lambda name: False).__enter__(), "no parameter"),
        (lambda: rounded_activations(ours(), "int8", sites=["hook_zz"]).__enter__(), "none of the hooks hook_zz"),
        (lambda: rounded_activations(ours(), "float7").__enter__(), "unknown number format 'float7'"),
    ],
)
def test_what_cannot_be_rounded_is_refused_in_one_line(call, message):
    with pytest.raises(ProbeInputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_infinities_that_the_format_has_pass_through():
    x = values(-math.inf, math.inf, math.nan, 1)
    for format in ("bfloat16", "float16", "float8_e5m2"):
        assert torch.equal(rounded(x, format)[[0, 1, 3]], x[[0, 1, 3]])
        assert rounded(x, format)[2].isnan()


def test_a_format_that_this_machine_lacks_is_named_in_one_line(monkeypatch):
    """torch has a name for four-bit numbers, and no cast to them."""
    monkeypatch.setitem(precision.FLOATS, "float4_e2m1fn", torch.float4_e2m1fn_x2)
    monkeypatch.setattr(precision, "FORMATS", (*FORMATS, "float4_e2m1fn"))
    with pytest.raises(ProbeInputError, match="this machine cannot round to float4_e2m1fn on cpu") as caught:
        rounded(values(1.0), "float4_e2m1fn")
    assert "\n" not in str(caught.value)
