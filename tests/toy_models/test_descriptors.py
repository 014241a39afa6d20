"""Tiles by descriptor, in Triton's interpreter: the bits are those of tiles by pointer."""

from unittest import mock

import pytest
import torch

from toy_models.attention import attend

launch = pytest.importorskip("toy_models.attention.kernels.launch")
serve = pytest.importorskip("toy_models.attention.kernels.serve")


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # of the interpreter, for the head of nan
@pytest.mark.parametrize("options", [{}, {"causal": False}, {"window": 5}, {"causal": False, "window": 7}], ids=str)
@pytest.mark.parametrize("d_head", [16, 24])  # a power of 2, and 8 columns of padding
def test_tiles_by_descriptor_are_those_by_pointer(d_head, options):
    noise = torch.Generator().manual_seed(0)
    q = torch.randn(2, 37, 3, d_head, generator=noise)
    k, v = (torch.randn(2, 41, 3, d_head, generator=noise) for _ in "kv")
    k[:, :, 2] = v[:, :, 2] = torch.nan  # beside the columns of the head before, where the padding is
    found = {}
    for descriptors in (False, True):
        one = [launch.configuration(16, 16, 4, 1, DESCRIPTORS=descriptors)]
        with mock.patch.object(launch.FORWARD, "configs", one):
            found[descriptors] = attend(q, k, v, backend="triton", statistics=True, **options)
    exact = {"rtol": 0, "atol": 0, "equal_nan": True}
    assert found[False].z[:, :, :2].isfinite().all()
    torch.testing.assert_close(found[True].z, found[False].z, **exact)
    for name, values in vars(found[False].statistics).items():
        if values is not None:
            torch.testing.assert_close(getattr(found[True].statistics, name), values, **exact)


def test_rows_are_aligned_where_every_one_starts_at_a_multiple_of_16_bytes():
    x = torch.zeros(2, 5, 3, 8, dtype=torch.float16)
    assert serve._aligned(x, x)
    assert not serve._aligned(x, x[..., 1:])  # starts 2 bytes in
    assert not serve._aligned(torch.zeros(2, 5, 3, 12, dtype=torch.float16))  # heads are 24 bytes apart


def test_the_callers_allocator_stays_as_it_is():
    """Descriptors need one at a launch; another kernel of the caller's may have its own."""
    allocation = pytest.importorskip("triton.runtime._allocation")
    before = allocation._allocator.get()
    q = torch.zeros(1, 16, 1, 16)
    attend(q, q, q, backend="triton")
    assert allocation._allocator.get() is before
