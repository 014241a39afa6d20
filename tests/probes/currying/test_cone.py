"""Updates within an angle of the gradient: the nearest point of a cone, and a search that never loses ground."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probes.currying import Oracle, curry
from probes.currying.cone import best_within, project
from probes.currying.solving import kl
from probes.errors import ProbeInputError
from probes.locality import steps_against, walk
from tests.probes.currying.nets import context, net, queries
from toy_models.seeding import generator

ANGLES = (0.0, 45.0, 90.0)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, "cone", *shape), dtype=torch.float64)


def degrees(x, axis):
    return torch.rad2deg(torch.atan2((x - (x @ axis) * axis).norm(), x @ axis)).item()


@given(st.integers(0, 1000), st.floats(0, 90))
def test_the_projection_lies_in_the_cone_and_no_other_point_is_nearer(seed, angle):
    x, axis = drawn(seed, 4), torch.nn.functional.normalize(drawn(seed + 1, 4), dim=0)
    found = project(x, axis, angle)
    assert not found.any() or degrees(found, axis) <= angle + 1e-6
    for other in drawn(seed + 2, 20, 4):
        inside = project(other, axis, angle)
        assert (found - x).norm() <= (inside - x).norm() + 1e-10
    torch.testing.assert_close(project(found, axis, angle), found, atol=1e-7, rtol=0)


def test_the_narrowest_cone_is_a_ray_and_the_widest_a_half_space():
    axis = torch.tensor([1.0, 0.0])
    assert project(torch.tensor([2.0, 5.0]), axis, 0.0).tolist() == [2.0, 0.0]
    assert project(torch.tensor([-2.0, 5.0]), axis, 0.0).tolist() == [0.0, 0.0]
    torch.testing.assert_close(project(torch.tensor([-2.0, 5.0]), axis, 90.0), torch.tensor([0.0, 5.0]))
    assert project(torch.tensor([2.0, 5.0]), axis, 90.0).tolist() == [2.0, 5.0]
    with pytest.raises(ProbeInputError, match="angle=91 must lie in 0 to 90 degrees"):
        project(torch.tensor([2.0, 5.0]), axis, 91.0)


def case():
    """A curried model, and a gradient that is not that of the divergence."""
    model = net(n_layers=1)
    fit = queries(model, 40)
    curried, oracle = curry(model, context(), "sink", fit), Oracle(model, context())
    copy = net(n_layers=1)
    copy(torch.cat([oracle.text.expand(40, -1), fit], 1)).log_softmax(-1)[..., 0].mean().backward()
    gradient = {name: p.grad for name, p in copy.named_parameters() if name.endswith(("W_K", "W_V", "W_O"))}
    return model, fit, curried, oracle, gradient


def test_the_share_on_the_queries_it_was_found_on_rises_with_the_angle_and_stays_within():
    model, fit, curried, oracle, gradient = case()
    found = best_within(oracle, fit, curried.weight_update, gradient, ANGLES, 8)
    share = walk(oracle, fit, found).share
    assert (share.diff() > 0).all()
    rays = walk(oracle, fit, steps_against(gradient, model)).share
    assert share[0] >= rays.max() - 1e-12
    axis = torch.nn.functional.normalize(-torch.cat([g.flatten() for g in gradient.values()]), dim=0)
    for angle, update in zip(ANGLES, found, strict=True):
        assert degrees(torch.cat([one.flatten() for one in update.values()]), axis) <= angle + 1e-5
    assert share[-1] > 0.5


def test_around_the_gradient_of_the_divergence_itself_the_narrowest_cone_already_helps():
    _, fit, curried, oracle, _ = case()
    copy = net(n_layers=1)
    kl(oracle.logits(fit), oracle.bare.read(copy, fit)[0]).mean().backward()
    gradient = {name: p.grad for name, p in copy.named_parameters() if name.endswith(("W_K", "W_V", "W_O"))}
    share = walk(oracle, fit, best_within(oracle, fit, curried.weight_update, gradient, (0.0,), 8)).share
    assert share[0] > 0.05
    against = {name: -g for name, g in gradient.items()}
    none = walk(oracle, fit, best_within(oracle, fit, curried.weight_update, against, (0.0,), 8)).share
    assert none[0] <= 0 < share[0]


def test_a_search_that_has_nowhere_to_start_leaves_the_origin():
    """Where every step against the gradient harms, and W' is no help, wider cones still hold something better."""
    _, fit, _, oracle, gradient = case()
    nothing = {name: torch.zeros_like(g) for name, g in gradient.items()}
    share = walk(oracle, fit, best_within(oracle, fit, nothing, gradient, (0.0, 85.0), 8)).share
    against = {name: -g for name, g in gradient.items()}
    other = walk(oracle, fit, best_within(oracle, fit, nothing, against, (0.0, 85.0), 8)).share
    assert (share[1] > 0.05) & (other[1] > 0.05)
    assert min(share[0], other[0]) < 1e-6  # one of the two signs goes up


def test_angles_that_fall_are_refused():
    _, fit, curried, oracle, gradient = case()
    with pytest.raises(ProbeInputError, match=r"angles=\(45.0, 0.0\) must rise"):
        best_within(oracle, fit, curried.weight_update, gradient, (45.0, 0.0), 1)
