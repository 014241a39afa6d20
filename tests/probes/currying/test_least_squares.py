"""W_O by least squares: the normal equations, the case it solves exactly, and what it refuses."""

import pytest
import torch

from probes.currying import Oracle, compare, curry
from probes.errors import ProbeInputError
from tests.probes.currying.nets import KINDS, context, net, queries


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", ["restart", "shift"])
def test_what_is_still_missing_is_orthogonal_to_the_heads_outputs(kind, positions):
    """In every layer, behind the edits of those below."""
    model, fit = net(kind), queries(net(kind), 60)
    curried = curry(model, context(), "lsq_o", fit, positions=positions, ridge=0.0)
    names = ("hook_resid_pre", "hook_attn_out", "attn.hook_z")
    wanted = [f"blocks.{layer}.{name}" for layer in range(3) for name in names]
    goal, now = Oracle(model, context(), positions).read(fit, wanted)[1], curried.read(fit, wanted)[1]
    for layer in range(3):
        before, written, z = (f"blocks.{layer}.{name}" for name in names)
        left = (goal[before] + goal[written] - now[before] - now[written]).flatten(0, 1)
        assert (now[z].flatten(0, 1).flatten(1).T @ left).abs().max() < 1e-9
        assert left.abs().max() > 1e-3


def test_with_as_many_free_numbers_as_rows_the_stream_is_the_oracles():
    """One layer, four outputs, four rows: nothing is left on what was fitted, and something beyond."""
    model = net("learned, LN", n_layers=1, n_heads=1, d_head=4)
    tokens = torch.arange(8)[:, None]
    curried = curry(model, context(), "lsq_o", tokens[:4], ridge=0.0)
    goal = Oracle(model, context()).entities(tokens)["blocks.0.hook_resid_mid"]
    found = curried.entities(tokens)["blocks.0.hook_resid_mid"]
    assert (found - goal)[:4].abs().max() < 1e-9
    assert (found - goal)[4:].abs().max() > 1e-3


def test_a_ridge_shortens_the_update_and_the_fit_still_helps():
    model, fit, asked = net(), queries(net(), 60), queries(net(), seed=1)
    free, held = (curry(model, context(), "lsq_o", fit, ridge=ridge) for ridge in (0.0, 1.0))
    size = [made.weight_update["blocks.0.attn.W_O"].norm() for made in (free, held)]
    assert size[1] < size[0]
    reports = [compare(made, Oracle(model, context()), asked) for made in (free, held)]
    assert all(report.entity_error[0] < report.baseline_entity_error[0] for report in reports)


def test_too_few_rows_and_a_norm_behind_attention_are_refused():
    with pytest.raises(ProbeInputError, match="10 query rows cannot fix 12 numbers per target"):
        curry(net(), context(), "lsq_o", queries(net(), 5, 2))
    both = net(use_normalization_before_and_after=True)
    with pytest.raises(ProbeInputError, match="lsq_o needs what attention writes to be added as it is"):
        curry(both, context(), "lsq_o", queries(both, 60))
