"""The three arms of `probes.precision` in whole models, and the sums behind the third."""

import pytest
import torch

from probes.errors import ProbeInputError
from probes.precision import (
    FORMATS,
    accumulated,
    rounded,
    rounded_accumulation,
    rounded_activations,
    rounded_weights,
)
from tests.probes.models import ours, same, text, trace
from toy_models.seeding import generator

WIDE = torch.float64


def ones(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(1, n, dtype=torch.float32), torch.ones(n, 1, dtype=torch.float32)


# The arms in a model ------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_each_arm_leaves_the_model_bit_for_bit_as_it_was(any_model, format):
    before, where = trace(any_model), {name: p.data_ptr() for name, p in any_model.named_parameters()}
    with torch.no_grad():
        clean = any_model(text())
    for arm in (rounded_weights, rounded_activations):
        with torch.no_grad(), arm(any_model, format) as model:
            coarse = model(text())
        assert same(before, trace(any_model))
        assert {name: p.data_ptr() for name, p in any_model.named_parameters()} == where
        if format != "float32":
            assert not torch.equal(coarse, clean)
        with pytest.raises(KeyError), arm(any_model, format):
            raise KeyError
        assert same(before, trace(any_model))
    with torch.no_grad():
        assert torch.equal(any_model(text()), clean)


def test_the_weights_arm_is_a_model_built_from_rounded_weights(any_model):
    tokens = text()
    with torch.no_grad(), rounded_weights(any_model, "bfloat16"):
        inside = any_model(tokens)
    with torch.no_grad():
        for p in any_model.parameters():
            p.copy_(p.to(torch.bfloat16) if p.dtype == torch.float32 else rounded(p, "bfloat16"))
        assert torch.equal(any_model(tokens), inside)


def test_only_the_named_weights_are_rounded():
    model = ours()
    with rounded_weights(model, "ternary", only=lambda name: ".mlp." in name):
        levels = {name: p.unique().numel() for name, p in model.named_parameters()}
    assert all(count <= 3 for name, count in levels.items() if ".mlp." in name)
    assert levels["blocks.0.attn.W_Q"] > 3


def test_the_activations_arm_rounds_what_passes_the_hooks_and_no_weight(any_model):
    seen, before = {}, trace(any_model)[0]
    with torch.no_grad(), rounded_activations(any_model, "float8_e5m2"):
        _, seen = any_model.run_with_cache(text())
        assert all(torch.equal(any_model.state_dict()[name], value) for name, value in before.items())
    for name in ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.1.attn.hook_z"):
        assert torch.equal(seen[name], rounded(seen[name], "float8_e5m2"))
    pattern = seen["blocks.0.attn.hook_pattern"]
    assert not torch.equal(pattern, rounded(pattern, "float8_e5m2"))


def test_rounding_one_hook_by_hand_is_the_activations_arm_at_that_site(any_model):
    hooks = [(f"blocks.{layer}.attn.hook_z", lambda z, hook: z.bfloat16().to(z.dtype)) for layer in range(2)]
    sites = ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]
    with torch.no_grad(), any_model.hooks(fwd_hooks=hooks):
        by_hand = any_model(text())
    with torch.no_grad(), rounded_activations(any_model, "bfloat16", sites=sites):
        found = any_model(text())
    assert (found - by_hand).abs().max() <= 1e-6 * by_hand.abs().max()


# Accumulation -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "stuck"), [("float8_e5m2", 8), ("float8_e4m3fn", 16), ("bfloat16", 256)])
def test_counting_by_ones_stops_at_two_to_the_bits_of_the_significand(format, stuck):
    """There one more is half a unit, and the tie goes back to the even number."""
    for n in (stuck - 1, stuck, stuck + 1, 3 * stuck):
        assert accumulated(*ones(n), format).item() == min(n, stuck)


def test_with_groups_the_count_goes_on_to_the_length_of_a_group_times_as_far():
    """Groups of 4 ones: 4 is half a unit of bfloat16 between 1024 and 2048."""
    for n in (1000, 1024, 1028, 2000):
        assert accumulated(*ones(n), "bfloat16", every=4).item() == min(n, 1024)


def test_a_sum_is_rounded_after_every_group_and_once_if_there_is_one():
    a, b = (torch.randn(shape, generator=generator(6, str(shape)), dtype=WIDE) for shape in ((3, 10), (10, 2)))
    total = torch.zeros(3, 2, dtype=WIDE)
    for k in range(0, 10, 4):
        total = (total + a[:, k : k + 4] @ b[k : k + 4]).float().double()
    assert torch.equal(accumulated(a, b, "float32", every=4), total)
    assert torch.equal(accumulated(a, b, "bfloat16", every=10), rounded(a @ b, "bfloat16"))


def test_every_kind_of_product_is_summed_in_the_format():
    a, b = ones(300)
    q = torch.zeros(1, 1, 512, 8)  # all keys alike: 512 weights of 1/512
    with rounded_accumulation("bfloat16"):
        found = [
            a @ b, a[0] @ b[:, 0], a @ b[:, 0], a[None] @ b[None], torch.einsum("ij,jk->ik", a, b),
            torch.nn.functional.linear(a, b.T) + 1, torch.nn.functional.linear(a, b.T, torch.ones(1)),
            torch.mm(a, b, out=torch.empty(1, 1)), torch.addmm(torch.ones(1), a, b, beta=2, alpha=3),
            torch.baddbmm(torch.ones(1, 1, 1), a[None], b[None]),
        ]  # fmt: skip
        attended = torch.nn.functional.scaled_dot_product_attention(q, q, torch.ones_like(q))
    assert [x.item() for x in found] == [256, 256, 256, 256, 256, 257, 257, 256, 770, 257]
    assert attended.unique().tolist() == [256 / 512]
    assert (a @ b).item() == 300


def test_the_accumulation_arm_runs_every_model_and_leaves_it_as_it_was(any_model):
    before, tokens = trace(any_model), text()
    with torch.no_grad():
        clean = any_model(tokens)
        with rounded_accumulation("bfloat16", every=2):
            coarse = any_model(tokens)
        with rounded_accumulation("float32", every=10**6):
            fine = any_model(tokens)
        assert torch.equal(any_model(tokens), clean)
    assert same(before, trace(any_model))
    size = clean.abs().max()
    assert 1e-4 * size < (coarse - clean).abs().max() < 0.5 * size
    assert (fine - clean).abs().max() <= 1e-5 * size


def test_a_weight_that_a_format_cannot_hold_leaves_the_model_untouched():
    model = ours()
    with torch.no_grad():
        model.unembed.b_U[0] = 1e6
    before = trace(model)
    with pytest.raises(ProbeInputError, match="holds at most 448"), rounded_weights(model, "float8_e4m3fn"):
        pass
    assert same(before, trace(model))
