"""Frozen contexts: plain loops, the bounds of a log-sum-exp, copies, and what cannot be measured."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probes.errors import ProbeInputError
from probes.frozen import change, frozen, hard_max_gap, nearest_value
from tests.probes.models import ours, same, text, trace

CONTEXT = (torch.arange(12) >= 1) & (torch.arange(12) <= 5)


@pytest.mark.parametrize("options", [{}, {"n_heads": 4, "n_key_value_heads": 2, "d_head": 4, "position": "rope"}])
def test_every_quantity_is_that_of_plain_loops(options):
    model, tokens = ours(**options), text()
    found = frozen(model, tokens, CONTEXT)
    _, cache = model.run_with_cache(tokens)
    layer, row, head, t, i = 1, 2, 1, 3, 9
    share = model.cfg.n_heads // cache["blocks.1.attn.hook_v"].shape[2]
    W_O = model.blocks[layer].attn.W_O[head]
    written = cache["blocks.1.attn.hook_v"][row, :, head // share] @ W_O
    size = written[t].norm()
    nearest = min((written[t] - written[j]).norm() for j in range(6, 12)) / size
    assert found.nearest[layer, row, head, t - 1].item() == pytest.approx(nearest.item(), rel=1e-10)
    other = min((written[i] - written[j]).norm() for j in range(6, 12) if j != i) / written[i].norm()
    assert found.control[layer, row, head, i - 6].item() == pytest.approx(other.item(), rel=1e-10)
    scores = cache["blocks.1.attn.hook_attn_scores"][row, head, i, 1:6].tolist()
    gap = math.log(math.fsum(math.exp(s) for s in scores)) - max(scores)
    assert found.gap[layer, row, head, i - 6].item() == pytest.approx(gap, abs=1e-12)
    before, after = cache["blocks.1.hook_resid_pre"][row, t], cache["blocks.1.hook_resid_post"][row, t]
    assert found.change[layer, row, t - 1].item() == pytest.approx(((after - before).norm() / before.norm()).item())
    assert (found.ceiling == math.log(5)).all()
    assert (found.gap <= found.ceiling[:, None, None] + 1e-12).all()


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=8))
def test_a_log_sum_exp_lies_between_the_largest_and_log_n_above_it(scores):
    gap = hard_max_gap(torch.tensor(scores, dtype=torch.float64)).item()
    assert -1e-12 <= gap <= math.log(len(scores)) + 1e-12


@pytest.mark.parametrize("n", [1, 4, 100])
def test_copies_have_the_largest_gap_there_is(n):
    assert hard_max_gap(torch.full((n,), 7.0, dtype=torch.float64)).item() == pytest.approx(math.log(n), abs=1e-12)


def test_the_ceiling_counts_the_keys_that_a_window_leaves():
    found = frozen(ours(window=8), text(), CONTEXT)
    visible = [sum(0 <= i - t < 8 for t in range(1, 6)) for i in range(6, 12)]
    torch.testing.assert_close(found.ceiling[0], torch.tensor(visible, dtype=torch.float64).log())
    assert (found.gap <= found.ceiling[:, None, None] + 1e-12).all()


def test_a_value_that_the_query_has_too_is_at_distance_zero():
    model = ours(position="none")
    tokens = text()
    tokens[:, 1:6], tokens[:, 6:11], tokens[:, 11] = 3, torch.arange(5), 5
    found = frozen(model, tokens, CONTEXT)
    assert found.nearest[0].max() < 1e-12  # in layer 0 a value is its token's
    assert found.control[0].min() > 1e-2
    assert found.nearest[1].min() > 1e-6


def test_a_layer_that_writes_nothing_changes_nothing():
    model = ours()
    with torch.no_grad():
        for part in (model.blocks[1].attn, model.blocks[1].mlp):
            for name, weight in part.named_parameters():
                if name in ("W_O", "b_O", "W_out", "b_out"):
                    weight.zero_()
    found = frozen(model, text(), CONTEXT).change
    assert found[1].max() == 0
    assert found[[0, 2]].min() > 0


def test_a_change_of_basis_inside_a_head_changes_nothing_here():
    plain, turned = ours(), ours()
    basis = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        for block in turned.blocks:
            block.attn.W_V.copy_(block.attn.W_V @ basis)
            block.attn.b_V.copy_((block.attn.b_V[:, None] @ basis)[:, 0])
            block.attn.W_O.copy_(torch.linalg.solve(basis, block.attn.W_O))
    one, two = frozen(plain, text(), CONTEXT), frozen(turned, text(), CONTEXT)
    for name in ("nearest", "control", "gap", "change"):
        torch.testing.assert_close(getattr(two, name), getattr(one, name), atol=1e-10, rtol=1e-9)


def test_lengths_and_distances_of_known_vectors():
    entities = torch.tensor([[3.0, 4.0], [3.0, 4.0], [6.0, 8.0]])
    assert change(entities).tolist() == [0.0, 1.0]
    values, others = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0], [2.0, 1.0]])
    assert nearest_value(values, others).tolist() == [0.5]
    assert nearest_value(others[1:].repeat(2, 1), others[1:].repeat(2, 1), itself=False).tolist() == [0.0, 0.0]


def test_the_model_is_left_as_it_was():
    model = ours()
    before = trace(model)
    frozen(model, text(), CONTEXT)
    assert same(before, trace(model))


def test_texts_without_a_context_or_a_query_and_windows_that_hide_the_context_are_refused():
    with pytest.raises(ProbeInputError, match="0 of 12 tokens are the context's and 0 stand behind it"):
        frozen(ours(), text(), torch.zeros(12, dtype=torch.bool))
    with pytest.raises(ProbeInputError, match="and 1 stand behind it: one and two are needed"):
        frozen(ours(), text(), (torch.arange(12) >= 1) & (torch.arange(12) <= 10))
    with pytest.raises(ProbeInputError, match="a query sees no key of the context"):
        frozen(ours(window=3), text(), CONTEXT)
