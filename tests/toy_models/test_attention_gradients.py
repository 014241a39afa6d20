"""Gradients of z and of the entropy, by finite differences in float64 and against the reference's."""

from unittest import mock

import pytest
import torch

from toy_models.attention import STATISTICS, attend, blocks, sums, tiled_backward

CASES = {
    "causal": {},
    "window": {"window": 3},
    "bidirectional": {"causal": False},
    "alibi": {"alibi_slopes": 2},
    "alibi both ways in a window": {"alibi_slopes": 2, "causal": False, "window": 3},
    "padding with dead rows": {"pads": (2, 4)},
    "score_cap": {"score_cap": 1.5},
    "negative scale": {"scale": -0.7},
    "sink_logit": {"sink_logit": 2},
    "sink_logit, padding and a key offset": {"sink_logit": 2, "pads": (2, 4), "offset": 5.0},
    "bias": {"bias": 2},
    "everything": {"bias": 2, "sink_logit": 2, "alibi_slopes": 2, "score_cap": 2.0, "pads": (0, 3), "window": 4},
}


@pytest.fixture(autouse=True)
def small_tiles():
    with (
        mock.patch.object(blocks, "ROWS", 3),
        mock.patch.object(blocks, "STEP", 2),
        mock.patch.object(sums, "KEYS", 2),
        mock.patch.object(tiled_backward, "KEYS", 2),
    ):
        yield


def problem(case, n_query=5, n_key=6, dtype=torch.float64):
    """(tensors to differentiate by, function of them and a backend that gives an Attention)"""
    options = dict(CASES[case])
    noise = torch.Generator().manual_seed(0)
    offset, pads = options.pop("offset", 0.0), options.pop("pads", None)

    def normal(*shape):
        return torch.randn(*shape, generator=noise, dtype=torch.float64)

    tensors = {"q": normal(2, n_query, 2, 3), "k": normal(2, n_key, 1, 3) + offset, "v": normal(2, n_key, 1, 3)}
    for name in ("alibi_slopes", "sink_logit"):
        if name in options:
            tensors[name] = normal(options.pop(name)).abs()
    if "bias" in options:
        tensors["bias"] = normal(options.pop("bias"), n_query, n_key)
    if pads is not None:
        options["key_padding"] = torch.arange(n_key)[None] >= torch.tensor(pads)[:, None]
    tensors = {name: x.to(dtype).requires_grad_() for name, x in tensors.items()}

    def run(*values, backend="tiled", statistics=True):
        given = dict(zip(tensors, values, strict=True))
        return attend(**given, **options, statistics=statistics, backend=backend)

    return list(tensors.values()), run


@pytest.mark.parametrize("case", CASES)
def test_output_and_entropy_have_the_gradients_of_finite_differences(case):
    tensors, run = problem(case)

    def output_and_entropy(*values):
        found = run(*values)
        return found.z, found.statistics.entropy

    assert torch.autograd.gradcheck(output_and_entropy, tensors, fast_mode=True)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("which", ["z", "entropy"])
def test_either_alone_has_the_gradient_of_the_reference(case, which):
    gradients = []
    for backend in ("reference", "tiled"):
        tensors, run = problem(case)
        found = run(*tensors, backend=backend)
        value = found.z if which == "z" else found.statistics.entropy
        gradients.append(torch.autograd.grad(value.pow(2).sum(), tensors, allow_unused=True))
    for eager, tiled, tensor in zip(*gradients, tensors, strict=True):
        eager = torch.zeros_like(tensor) if eager is None else eager  # the entropy knows nothing of v
        torch.testing.assert_close(tiled, eager, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", CASES)
def test_without_statistics_the_gradient_is_the_same(case):
    tensors, run = problem(case)
    with_them, without = (
        torch.autograd.grad(run(*tensors, statistics=asked).z.pow(2).sum(), tensors) for asked in (True, False)
    )
    for first, second in zip(with_them, without, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-11)


def test_the_other_statistics_are_detached():
    tensors, run = problem("sink_logit")
    rows = run(*tensors).statistics
    assert rows.entropy.requires_grad
    assert not any(getattr(rows, name).requires_grad for name in STATISTICS if name != "entropy")
    assert not rows.unassigned_mass.requires_grad


def test_nothing_is_saved_where_no_gradient_is_wanted():
    tensors, run = problem("sink_logit")
    with torch.no_grad():
        assert run(*tensors).z.grad_fn is None
    assert run(*(x.detach() for x in tensors)).z.grad_fn is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_gradients_are_close_to_exact_ones(dtype):
    # One rounding of z, one of the gradient, and the gradient's rounding on the way in: a few units of the largest.
    tensors, run = problem("causal", dtype=dtype)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    gradients = [torch.autograd.grad(run(*inputs).z.double().sum(), inputs) for inputs in (tensors, exact)]
    for rounded, wanted in zip(*gradients, strict=True):
        assert rounded.dtype is dtype
        assert (rounded.double() - wanted).abs().max() <= 4 * torch.finfo(dtype).eps * wanted.abs().max()


def test_a_second_derivative_is_refused():
    tensors, run = problem("causal")
    (grad,) = torch.autograd.grad(run(*tensors).z.pow(2).sum(), tensors[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_two_workers_give_the_gradients_of_one():
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        tensors, run = problem("everything")
        torch.set_num_threads(threads)
        try:
            found.append(torch.autograd.grad(run(*tensors).z.pow(2).sum(), tensors))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
