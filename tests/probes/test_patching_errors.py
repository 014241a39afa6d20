"""Patching leaves no trace, and refuses in one line what it does not cover."""

import pytest
import torch

from probes.errors import ProbeInputError
from probes.patching import attribution_patch, patch
from tests.probes.clean_and_corrupt import case, perturbed
from tests.probes.models import same, trace


def listener(x, hook):
    """A hook of somebody else's, which must still be there afterwards."""


class Failing:
    """A metric that breaks down at its n-th call."""

    def __init__(self, metric, at: int):
        self.metric, self.left = metric, at

    def __call__(self, logits):
        self.left -= 1
        if not self.left:
            raise ArithmeticError("no")
        return self.metric(logits)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("measure", [patch, attribution_patch])
def test_the_model_and_the_texts_stay_as_they_were(any_model, measure, training):
    one = case(any_model.train(training))
    next(any_model.parameters()).requires_grad_(False)
    any_model.hook_dict["blocks.0.hook_resid_post"].add_hook(listener)
    before, flags = trace(any_model), [p.requires_grad for p in any_model.parameters()]
    copies = one.clean.clone(), one.corrupt.clone()
    first = measure(*one.inputs)
    assert same(before, trace(any_model))
    assert [p.requires_grad for p in any_model.parameters()] == flags
    assert torch.equal(one.clean, copies[0])
    assert torch.equal(one.corrupt, copies[1])
    assert torch.equal(first.effect, measure(*one.inputs).effect)


@pytest.mark.parametrize(
    ("measure", "site", "call"),
    [(patch, "z", 3), (patch, "z", 20), (patch, "resid_pre", 4), (attribution_patch, "z", 2)],
)
def test_a_metric_that_fails_on_the_way_leaves_no_trace(any_model, measure, site, call):
    one = case(any_model)
    before = trace(any_model)
    with pytest.raises(ArithmeticError):
        measure(any_model, one.clean, one.corrupt, Failing(one.metric, call), site=site)
    assert same(before, trace(any_model))
    assert torch.is_grad_enabled()


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [patch, attribution_patch])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"site": "resid"}, "unknown site 'resid': the nearest are resid_pre, resid_mid, resid_post$"),
        ({"site": "heads"}, "unknown site 'heads': the nearest are head, "),
        ({"site": "q"}, "unknown site 'q': the nearest are z, "),
        ({"metric": lambda logits: logits[:, -1, 0].mean()}, r"returned \(\): .* one number per text, \(2,\)"),
        ({"metric": lambda logits: logits[:, -1]}, r"returned \(2, 9\)"),
        ({"metric": lambda logits: 1.0}, "returned float"),
        ({"metric": lambda logits: 0 * logits[:, 0, 0]}, "is 0 on the clean texts and 0 on the corrupted"),
    ],
)
def test_what_a_patch_does_not_cover_is_refused_in_one_line(measure, change, told):
    one = case(perturbed())
    inputs = {"model": one.model, "clean": one.clean, "corrupt": one.corrupt, "metric": one.metric, **change}
    with pytest.raises(ProbeInputError, match=told) as caught:
        measure(**inputs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("positions", "told"), [([6], "position 6 .* \\[-6, 6\\)"), ([-7], "-7"), ([], "give some")])
def test_a_position_outside_the_text_is_refused(positions, told):
    with pytest.raises(ProbeInputError, match=told):
        patch(*case(perturbed()).inputs, positions=positions)


def test_positions_are_refused_where_a_site_has_none():
    with pytest.raises(ProbeInputError, match="site='pattern'"):
        patch(*case(perturbed()).inputs, site="pattern", positions=[1])


def test_a_model_without_the_hook_is_told_the_nearest_it_has():
    with pytest.raises(ProbeInputError, match=r"no hook blocks\.0\.hook_resid_mid: .*blocks\.0\.hook_resid_p"):
        patch(*case(perturbed(d_mlp=0)).inputs, site="resid_mid")


def test_a_metric_without_a_gradient_is_refused():
    one = case(perturbed())
    metric = lambda logits: logits[:, -1].argmax(-1).double()  # noqa: E731
    with pytest.raises(ProbeInputError, match="no gradient"):
        attribution_patch(one.model, one.clean, one.corrupt, metric)
