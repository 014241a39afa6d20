"""The split of attention into a context and the rest, against the model's own output and cases with a known answer."""

import math

import pytest
import torch

from probes.errors import ProbeInputError
from probes.query_dependence import query_dependence, spread
from probes.weights import head_weights
from tests.probes.models import ours, text

CONTEXT = (torch.arange(12) >= 1) & (torch.arange(12) <= 5)


def split(model, layer):
    """Scores, values per query head and z of a layer, at the queries behind the context."""
    at = f"blocks.{layer}.attn"
    _, cache = model.run_with_cache(text(), names_filter=[f"{at}.hook_attn_scores", f"{at}.hook_v", f"{at}.hook_z"])
    values = cache[f"{at}.hook_v"]
    scores, z = cache[f"{at}.hook_attn_scores"][:, :, 6:], cache[f"{at}.hook_z"][:, 6:]
    return scores, values.repeat_interleave(scores.shape[1] // values.shape[2], dim=2), z


@pytest.mark.parametrize("options", [{}, {"n_heads": 4, "n_key_value_heads": 2, "d_head": 4, "position": "rope"}])
@pytest.mark.parametrize("layer", [0, 2])
def test_the_output_is_the_rest_plus_the_gate_times_the_difference(options, layer):
    scores, values, z = split(ours(**options), layer)
    found = query_dependence(scores, values, CONTEXT)
    assert (found.output - z).abs().max() <= 1e-13
    assert found.gate.min() > 0
    assert found.gate.max() < 1


def test_keys_at_score_zero_take_their_number_of_the_attention():
    n, m = 17, 1
    scores, context = torch.zeros(1, 1, 1, n + m), torch.arange(n + m) >= m
    found = query_dependence(scores, torch.ones(1, n + m, 1, 3), context)
    torch.testing.assert_close(found.gate, torch.full((1, 1, 1), n / (n + m)))


def test_rho_is_0_where_all_are_told_the_same_and_1_for_two_opposites():
    same = torch.randn(3, generator=torch.Generator().manual_seed(0)).expand(5, 4, 2, 3)
    assert spread(same).max() < 1e-12
    opposite = torch.stack([same, -same])[:, 0]
    torch.testing.assert_close(spread(opposite), torch.ones(2))


def test_rho_is_a_quarter_for_averages_that_are_one_away_from_a_mean_of_root_three():
    average = torch.tensor([math.sqrt(3) + 1, math.sqrt(3) - 1], dtype=torch.float64).reshape(2, 1, 1, 1)
    torch.testing.assert_close(spread(average), torch.tensor([0.25], dtype=torch.float64))


def test_a_change_of_basis_inside_a_head_leaves_rho_alone_if_it_is_measured_in_the_stream():
    scores, values, _ = split(ours(), 1)
    W_O = head_weights(ours(), 1).W_O
    basis = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    turned = torch.einsum("bkhe,hef->bkhf", values, basis)
    back = torch.linalg.solve(basis, W_O)
    before, after = query_dependence(scores, values, CONTEXT, W_O), query_dependence(scores, turned, CONTEXT, back)
    torch.testing.assert_close(after.rho, before.rho, atol=1e-10, rtol=0)
    assert (spread(after.average) - spread(before.average)).abs().max() > 1e-3


def test_the_lengths_of_rho_are_those_of_what_is_written():
    scores, values, _ = split(ours(), 1)
    W_O = head_weights(ours(), 1).W_O
    found = query_dependence(scores, values, CONTEXT, W_O)
    written = torch.einsum("bqhe,hed->bqhd", found.average, W_O)
    torch.testing.assert_close(found.rho, spread(written), atol=1e-12, rtol=0)


def test_the_average_of_a_context_that_nobody_looks_at_is_still_there():
    scores = torch.tensor([0.0, -900.0, -900.0 + math.log(3.0)], dtype=torch.float64).reshape(1, 1, 1, 3)
    values = torch.tensor([5.0, 0.0, 4.0], dtype=torch.float64).reshape(1, 3, 1, 1)
    found = query_dependence(scores, values, torch.tensor([False, True, True]))
    assert found.gate.item() == 0
    assert found.average.item() == pytest.approx(3.0, abs=1e-10)
    assert found.rest.item() == 5


def test_a_split_without_one_part_and_a_query_that_sees_none_of_it_are_refused():
    scores, values = torch.zeros(1, 1, 2, 3), torch.zeros(1, 3, 1, 2)
    with pytest.raises(ProbeInputError, match="no key of 3 is the context's"):
        query_dependence(scores, values, torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ProbeInputError, match="every key of 3 is the context's"):
        query_dependence(scores, values, torch.ones(3, dtype=torch.bool))
    hidden = scores.clone()
    hidden[..., 1, 0] = -torch.inf
    with pytest.raises(ProbeInputError, match="sees no key of the context"):
        query_dependence(hidden, values, torch.tensor([True, False, False]))
