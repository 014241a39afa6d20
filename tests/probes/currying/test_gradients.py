"""One gradient step: its direction, its length, its record; and fine-tuning on samples."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.currying import Oracle, compare, curry
from probes.currying.gradients import DIRECTIONS, descent, finetune, gradient, step_sizes
from probes.currying.objective import Objective
from probes.errors import ProbeInputError
from tests.probes.currying.nets import BOS, context, net, queries
from tests.probes.models import same, trace

NAMES = [f"blocks.{layer}.attn.W_{part}" for layer in range(2) for part in "QKVO"]


def small(kind: str = "rope, RMS, gated", **options):
    return net(kind, n_layers=2, **options)


def kl_at(oracle: Oracle, asked: torch.Tensor, update) -> float:
    curried = curry(oracle.model, oracle.context, "none")
    with torch.no_grad():
        for name, change in update.items():
            curried.model.get_parameter(name).add_(change)
    return Objective(oracle, asked, "kl").total(curried.model, oracle.bare)


@pytest.mark.parametrize("bos", [BOS, None])
def test_the_plain_direction_is_the_gradient_of_the_contexts_loss(bos):
    model = small("grouped", bos_id=bos)
    found, cost = descent(Oracle(model, context()))
    words = context() if bos is None else torch.cat([torch.tensor([bos]), context()])
    model(words[None], return_type="loss").backward()
    assert list(found) == NAMES
    for name, slope in found.items():
        torch.testing.assert_close(slope, model.get_parameter(name).grad, atol=1e-12, rtol=0)
    assert cost == 3 * len(words)


def test_sign_and_rms_rescale_the_gradient():
    oracle = Oracle(small(), context())
    plain, sign, rms = (descent(oracle, direction=name)[0] for name in DIRECTIONS[:3])
    for name, slope in plain.items():
        assert torch.equal(sign[name], slope.sign())
        torch.testing.assert_close(rms[name].norm(), oracle.model.get_parameter(name).norm())
        assert torch.cosine_similarity(rms[name].flatten(), slope.flatten(), dim=0) > 1 - 1e-12


@pytest.mark.parametrize("damping", [1e-3, 10.0])
def test_the_fisher_direction_solves_the_damped_system(damping):
    """With F written out from the gradients of single tokens; much damping leaves the plain direction."""
    model = small("no positions, attention only")
    parts, oracle = ("V",), Oracle(model, context())
    found, cost = descent(oracle, parts, "fisher", damping)
    names, rows = [n for n in NAMES if n.endswith("_V")], []
    weights = [model.get_parameter(name) for name in names]
    losses = model(oracle.text, return_type="loss", loss_per_token=True)[0]
    for loss in losses:
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, retain_graph=True)]))
    g = torch.stack(rows)
    fisher, mean = g.T @ g / len(g), g.mean(0)
    size = damping * (g @ g.T / len(g)).diagonal().mean()
    d = torch.cat([found[name].flatten() for name in names])
    assert (fisher @ d + size * d - mean).abs().max() < 1e-9 * mean.abs().max()
    assert cost == 7 + 2 * 6 * 7
    if damping > 1:
        assert torch.cosine_similarity(d, mean, dim=0) > 0.95


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_length_is_the_best_on_the_fit_queries_and_is_told(direction):
    model, fit = small(), queries(net(), 30)
    words = context(seed=5)  # one whose loss leads somewhere, in every direction
    oracle = Oracle(model, words)
    found, (d, _) = gradient(oracle, fit, direction=direction), descent(oracle, direction=direction)
    eta = step_sizes(found.weight_update, d)
    assert max(eta.values()) - min(eta.values()) < 1e-9 * max(eta.values())
    best = kl_at(oracle, fit, found.weight_update)
    scale = eta[NAMES[0]]
    assert scale > 0
    for factor in (0, 0.3, 0.7, 0.9, 1.1, 1.5, 3):
        other = {name: -factor * scale * change for name, change in d.items()}
        assert kl_at(oracle, fit, other) >= best * (1 - 1e-4)
    again = curry(model, words, "gradient", fit, direction=direction, eta=scale)
    assert again.provenance.options["eta"] == scale
    for name, change in found.weight_update.items():
        torch.testing.assert_close(again.weight_update[name], change, atol=1e-12, rtol=1e-9)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 30), method=st.sampled_from(["gradient", "distill_gradient"]))
def test_no_step_is_worse_than_none_on_the_fit_queries(seed, method):
    model, words, fit = small("no positions, attention only"), context(5, seed), queries(net(), 12, seed=seed)
    oracle, nothing = Oracle(model, words), curry(model, words, "none")
    found = curry(model, words, method, fit)
    steps = [Objective(oracle, fit, "kl").total(made.model, oracle.bare) for made in (found, nothing)]
    assert steps[0] <= steps[1]


def test_a_direction_that_leads_astray_gets_no_step():
    """A context whose loss falls where the oracle's divergence rises: eta is 0, and W' is W."""
    model, fit = small("no positions, attention only"), queries(net(), 12)
    lengths = []
    for seed in range(6):
        words = context(6, seed)
        found = curry(model, words, "gradient", fit, parts=("Q",))
        moved = any(change.any() for change in found.weight_update.values())
        first = curry(model, words, "gradient", fit, parts=("Q",), eta=1e-6)
        oracle = Oracle(model, words)
        downhill = Objective(oracle, fit, "kl").total(first.model, oracle.bare) < kl_at(oracle, fit, {})
        assert moved or not downhill
        lengths.append(moved)
    assert True in lengths
    assert False in lengths


@pytest.mark.parametrize("method", ["gradient", "distill_gradient"])
def test_a_step_size_for_every_matrix_does_at_least_as_well_and_can_be_given_again(method):
    model, fit = small(), queries(net(), 20)
    oracle = Oracle(model, context())
    one, own = (curry(model, context(), method, fit, parts=("V", "O"), per_matrix=which) for which in (False, True))
    reached = [kl_at(oracle, fit, made.weight_update) for made in (one, own)]
    assert reached[1] < reached[0]
    one_eta = curry(model, context(), method, fit, parts=("V", "O"), eta=1.0).weight_update
    eta = step_sizes(own.weight_update, one_eta)
    again = curry(model, context(), method, fit, parts=("V", "O"), eta=eta).weight_update
    assert all((again[name] - change).abs().max() < 1e-10 for name, change in own.weight_update.items())
    assert len({round(value, 12) for value in eta.values()}) > 1


def test_the_distillation_gradient_is_the_steepest_way_to_the_oracle():
    """KL falls by eta |g|^2, to first order in eta."""
    model, fit = small(), queries(net(), 20)
    oracle = Oracle(model, context())
    g = {n: -c / 1e-6 for n, c in curry(model, context(), "distill_gradient", fit, eta=1e-6).weight_update.items()}
    square = sum(change.square().sum().item() for change in g.values())
    up, down = (kl_at(oracle, fit, {name: sign * 1e-4 * c for name, c in g.items()}) for sign in (1, -1))
    assert (up - down) / 2e-4 == pytest.approx(square, rel=1e-5)


def test_a_step_is_in_weight_space_and_leaves_the_model_alone():
    model = small()
    before = trace(model)
    with torch.no_grad():
        made = curry(model, context(), "gradient", queries(model, 20), parts=("V", "O"))
    assert made.same_space
    assert set(made.weight_update) == {name for name in NAMES if name[-1] in "VO"}
    assert made.stored == 2 * 2 * 12 * 12
    assert same(before, trace(model))
    assert all(weight.grad is None for weight in model.parameters())
    assert compare(made, Oracle(model, context()), queries(model, seed=1)).kl.isfinite()


def test_finetuning_learns_its_samples_and_asks_nothing_of_the_context():
    """Samples repeat one token: what W' then expects is that token; the context's tokens make no difference."""
    model = small("learned, LN")
    samples = torch.arange(8)[:, None].expand(-1, 6)
    made = curry(model, context(), "finetune", samples, steps=40, lr=0.05)
    held = torch.arange(8)[:, None].expand(-1, 9)
    right = [
        (which.logits(held).argmax(-1) == held)[:, 1:].double().mean()
        for which in (made, curry(model, context(), "none"))
    ]
    assert right[0] > right[1] + 0.3
    other = curry(model, context(seed=4), "finetune", samples, steps=40, lr=0.05)
    assert all(torch.equal(change, other.weight_update[name]) for name, change in made.weight_update.items())
    assert set(made.weight_update) == set(NAMES)


def test_finetuning_may_change_every_parameter_and_counts_what_it_does():
    model, samples = small(), queries(net(), 30)
    found = finetune(Oracle(model, context()), samples, parts=None, steps=2, batch=30)
    assert set(found.weight_update) == {name for name, _ in model.named_parameters()}
    assert found.weight_update["blocks.0.mlp.W_in"].any()
    assert found.token_forwards == 180 * (3 * 1 + 2 * 3)
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_what_has_no_gradient_is_refused_in_one_line():
    def refused(match, model=None, method="gradient", words=None, asked=None, **options):
        asked = queries(net(), 20) if asked is None else asked
        words = context() if words is None else words
        with pytest.raises(ProbeInputError, match=match) as caught:
            curry(model or small(), words, method, asked, **options)
        assert "\n" not in str(caught.value)

    refused("direction='up' must be one of plain, sign, rms, fisher", direction="up")
    refused("direction='fisher' must be one of plain, sign, rms$", method="distill_gradient", direction="fisher")
    refused("damping=0.0 must be positive", direction="fisher", damping=0.0)
    refused("a context of 1 token without BOS", small(bos_id=None), words=context(1))
    refused("eta has blocks: it must have blocks.0.attn.W_Q, ", eta={"blocks": 1.0})
    refused("samples of 1 token have nothing to predict", method="finetune", asked=queries(net(), 20, 1))


def test_too_many_numbers_for_the_fisher_matrix_are_refused(monkeypatch):
    monkeypatch.setattr("probes.currying.gradients.MOST_NUMBERS", 1000)
    with pytest.raises(ProbeInputError, match="would hold 6912 numbers, over 1000: choose fewer parts or less context"):
        descent(Oracle(small(), context()), direction="fisher")
