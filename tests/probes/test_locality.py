"""Distances and shares along paths of weights: plain formulas, gradients of either sign, and refusals."""

import pytest
import torch

from probes.currying import Oracle, compare, curry, interpolate
from probes.currying.solving import kl
from probes.errors import ProbeInputError
from probes.locality import ALPHAS, DISTANCES, Path, locality, norm, size, steps_against, walk
from tests.probes.currying.nets import context, net, queries
from tests.probes.models import same, trace

WORDS = context()


def sink(model, **options):
    return curry(model, WORDS, "sink", queries(model, 60), **options)


def kl_gradient(model) -> dict[str, torch.Tensor]:
    """Of KL(oracle || model) on held-out queries: the direction that must help."""
    oracle, asked, copy = Oracle(model, WORDS), queries(model, seed=1), net()
    loss = kl(oracle.logits(asked), oracle.bare.read(copy, asked)[0]).mean()
    loss.backward()
    return {name: weight.grad for name, weight in copy.named_parameters() if "attn.W_" in name}


def test_a_straight_path_ends_where_the_report_says():
    model = net()
    curried, oracle, asked = sink(model), Oracle(model, WORDS), queries(model, seed=1)
    found = locality(curried, oracle, asked)
    report, half = compare(curried, oracle, asked), compare(interpolate(curried, 0.5), oracle, asked)
    at = [round(alpha, 6) for alpha in ALPHAS].index
    assert found.path.share[at(1.0)].item() == pytest.approx(report.share_removed, abs=1e-10)
    assert found.path.share[at(0.5)].item() == pytest.approx(half.share_removed, abs=1e-10)
    changed = sum(change.square().sum() for change in curried.weight_update.values()).sqrt()
    whole = sum(p.square().sum() for n, p in model.named_parameters() if "attn.W_" in n).sqrt()
    torch.testing.assert_close(found.path.distance[at(1.0)], (changed / whole).detach())
    assert found.gradient is None
    assert found.reached is None


def test_the_smallest_distance_is_that_of_the_nearest_point_that_removes_enough():
    path = Path(torch.tensor([0.4, 0.1, 0.3, 0.2]), torch.tensor([0.99, 0.5, 0.92, 0.899]))
    assert path.smallest() == pytest.approx(0.3)
    assert path.smallest(0.5) == pytest.approx(0.1)
    assert path.smallest(0.995) is None
    assert path.best == pytest.approx(0.99)
    assert Path(torch.tensor([0.4]), torch.tensor([-3.0])).best == 0


def test_a_family_is_measured_member_by_member():
    model = net()
    oracle, asked = Oracle(model, WORDS), queries(model, seed=1)
    family = [sink(model, ridge=ridge) for ridge in (1.0, 1e-3)]
    found = locality(family, oracle, asked)
    for one, share in zip(family, found.path.share, strict=True):
        assert share.item() == pytest.approx(compare(one, oracle, asked).share_removed, abs=1e-10)
    assert found.path.distance[0] < found.path.distance[1]


def test_a_step_down_the_divergence_helps_and_a_step_up_does_not():
    model = net()
    gradient = kl_gradient(model)
    down = locality(sink(model), Oracle(model, WORDS), queries(model, seed=1), gradient)
    up = {name: -one for name, one in gradient.items()}
    wrong = locality(sink(model), Oracle(model, WORDS), queries(model, seed=1), up)
    assert 0 < down.reached < 1
    assert down.reached == down.gradient.best
    torch.testing.assert_close(down.gradient.distance, torch.tensor(DISTANCES, dtype=torch.float64))
    assert wrong.gradient.share[0] < 0  # a small step is enough to see the sign
    first = down.gradient.share[0] / down.gradient.distance[0]
    baseline = compare(sink(model), Oracle(model, WORDS), queries(model, seed=1)).baseline_kl
    slope = norm(gradient) * size(model) / baseline
    assert first.item() == pytest.approx(slope.item(), rel=0.05)


def test_what_a_step_is_scaled_by_does_not_matter():
    model = net()
    gradient = {"blocks.0.attn.W_V": torch.ones_like(model.blocks[0].attn.W_V)}
    one, ten = (steps_against({name: factor * g for name, g in gradient.items()}, model, [0.5]) for factor in (1, 10))
    torch.testing.assert_close(one, ten)
    assert norm(one[0]) == pytest.approx(0.5 * size(model))
    assert one[0]["blocks.0.attn.W_V"].max() < 0


def test_chunks_add_up_to_the_whole(monkeypatch):
    model = net()
    oracle, asked, updates = Oracle(model, WORDS), queries(model, seed=1), [sink(model).weight_update, {}]
    whole = walk(oracle, asked, updates)
    monkeypatch.setattr("probes.locality.CHUNK", 5 * 9 * 7)
    torch.testing.assert_close(walk(oracle, asked, updates).share, whole.share, atol=1e-12, rtol=0)
    assert whole.share[1] == 0


def test_the_model_is_left_as_it_was():
    model = net()
    curried = sink(model)
    before = trace(model), trace(curried.model)
    locality(curried, Oracle(model, WORDS), queries(model, seed=1), kl_gradient(model))
    assert same(before[0], trace(model))
    assert same(before[1], trace(curried.model))


def test_what_has_no_distance_is_refused():
    model = net()
    oracle, asked = Oracle(model, WORDS), queries(model, seed=1)
    with pytest.raises(ProbeInputError, match="0 curried models make no path"):
        locality([], oracle, asked)
    with pytest.raises(ProbeInputError, match="locality needs weights in the same space, and kv keeps"):
        locality(curry(model, WORDS, "kv"), oracle, asked)
    with pytest.raises(ProbeInputError, match="queries were fitted on"):
        locality(sink(model), oracle, queries(model, 60))
    with pytest.raises(ProbeInputError, match=r"skipped=6.*the same positions and bos_id"):
        locality(sink(model, positions="shift"), oracle, asked)
    with pytest.raises(ProbeInputError, match="the gradient's norm is 0: give one that points somewhere"):
        locality(sink(model), oracle, asked, {"blocks.0.attn.W_V": torch.zeros(2, 12, 6)})
    empty = Oracle(model, context(0))
    with pytest.raises(ProbeInputError, match=r"changes the output by .* nats, below 0\.001"):
        locality(curry(model, context(0), "sink", queries(model, 60)), empty, asked)
