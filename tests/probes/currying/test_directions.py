"""An update beside a gradient: the update that is a step, its opposite, plain formulas, and the basis inside a head."""

from dataclasses import replace

import pytest
import torch

from probes.currying import Oracle, curry
from probes.currying.curried import updated
from probes.currying.directions import _principal, directions
from probes.currying.gradients import descent
from probes.errors import ProbeInputError
from tests.probes.currying.nets import context, net, queries
from tests.probes.models import same, trace
from toy_models.seeding import generator

QUICK = {"angles": (0.0, 90.0), "steps": 2}


def gradient_of(model) -> dict[str, torch.Tensor]:
    """Of the next-token loss on the context, with respect to all of attention."""
    copy = net()
    text = Oracle(model, context()).text
    said = copy(text)[0, :-1].log_softmax(-1)
    said.gather(1, text[0, 1:, None]).mean().neg().backward()
    return {name: p.grad for name, p in copy.named_parameters() if "attn.W_" in name}


def pair(update=None):
    model = net()
    curried = curry(model, context(), "sink", queries(model, 60))
    if update is not None:
        curried = replace(curried, weight_update=update, model=updated(model, update))
    return model, curried, Oracle(model, context()), queries(model, seed=1)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_update_that_is_a_step_points_where_the_gradient_says_and_its_opposite_away(sign):
    gradient = gradient_of(net())
    _, curried, oracle, asked = pair({name: -sign * 1e-4 * g for name, g in gradient.items()})
    found = directions(curried, oracle, asked, gradient, **QUICK)
    assert found.cosine.item() == pytest.approx(sign, abs=1e-12)
    torch.testing.assert_close(found.parameter_cosine, torch.full_like(found.parameter_cosine, sign))
    assert found.step_and_curried.item() == pytest.approx(sign, abs=1e-3)
    assert found.step_and_context.item() == pytest.approx(sign * found.curried_and_context.item(), abs=2e-3)
    for cosines in (found.qk, found.ov):
        assert (cosines - 1).abs().max() < 1e-3


def test_cosines_are_those_of_the_weights_laid_end_to_end():
    model, curried, oracle, asked = pair()
    gradient = gradient_of(model)
    found = directions(curried, oracle, asked, gradient, **QUICK)
    update = {name: curried.weight_update.get(name, torch.zeros_like(g)) for name, g in gradient.items()}
    d, g = (torch.cat([x.flatten() for x in parts.values()]) for parts in (update, gradient))
    torch.testing.assert_close(found.cosine, -(d @ g) / d.norm() / g.norm())
    assert found.chance == pytest.approx(len(g) ** -0.5)
    nothing = [name.endswith(("W_Q", "W_O")) for name in found.parameters]
    assert found.parameter_cosine.isnan().tolist() == nothing


def test_a_random_direction_is_at_chance():
    model, curried, oracle, asked = pair()
    noise = {name: torch.randn(g.shape, generator=generator(0, name)).to(g) for name, g in gradient_of(model).items()}
    found = directions(curried, oracle, asked, noise, **QUICK)
    assert abs(found.cosine) < 4 * found.chance


def test_leading_directions_are_those_of_the_products_written_out():
    model, curried, oracle, asked = pair()
    gradient = gradient_of(model)
    found = directions(curried, oracle, asked, gradient, rank=2, **QUICK)
    layer, head = 1, 0
    attn, new = model.blocks[layer].attn, curried.model.blocks[layer].attn
    g = {x: -gradient[f"blocks.{layer}.attn.{x}"][head] for x in ("W_V", "W_O")}
    d_v = torch.cat([new.W_V[head], new.b_V[head, None]]) - torch.cat([attn.W_V[head], attn.b_V[head, None]])
    step = torch.cat([g["W_V"], torch.zeros(1, 6)]) @ attn.W_O[head]
    step = step + torch.cat([attn.W_V[head], attn.b_V[head, None]]) @ g["W_O"]
    change = torch.linalg.svd((d_v @ attn.W_O[head]).detach(), full_matrices=False)
    other = torch.linalg.svd(step.detach(), full_matrices=False)
    one = directions(curried, oracle, asked, gradient, **QUICK)
    assert one.ov[layer, head, 0, 0].item() == pytest.approx((change.U[:, 0] @ other.U[:, 0]).abs().item(), abs=1e-8)
    assert one.ov[layer, head, 1, 0].item() == pytest.approx((change.Vh[0] @ other.Vh[0]).abs().item(), abs=1e-8)
    assert found.ov.isnan().all()  # the sink's OV has one direction, not two
    assert found.ov.shape == (3, 2, 2, 2)


def test_a_basis_inside_a_head_turns_no_leading_direction():
    model, curried, *_ = pair()

    def turned(one):
        made = updated(one, {})
        with torch.no_grad():
            for layer, block in enumerate(made.blocks):
                a, b = torch.randn(2, 2, 6, 6, generator=generator(layer, "basis"), dtype=torch.float64)
                attn = block.attn
                for name, basis in (("K", a), ("V", b), ("Q", torch.linalg.inv(a).transpose(1, 2))):
                    weight, bias = (getattr(attn, f"{kind}_{name}") for kind in "Wb")
                    weight.copy_(weight @ basis)
                    bias.copy_((bias[:, None] @ basis)[:, 0])
                attn.W_O.copy_(torch.linalg.inv(b) @ attn.W_O)
        return made

    for cosines in _principal((model, curried.model), (turned(model), turned(curried.model)), 1):
        assert (cosines - 1).abs().max() < 1e-9


@pytest.mark.parametrize("options", [{"kind": "grouped"}, {"kind": "learned, LN", "dtype": "float32"}])
def test_the_direction_of_a_gradient_step_is_found_again(options):
    """`gradients.descent` gives what a step goes against; its update, however short, is that step."""
    model = net(**options)
    oracle, fit, asked = Oracle(model, context()), queries(model, 60), queries(model, seed=1)
    gradient, _ = descent(oracle)
    step = curry(model, context(), "gradient", fit, eta=1e-3)
    found = directions(step, oracle, asked, gradient, **QUICK)
    assert found.cosine.item() == pytest.approx(1, abs=1e-4)
    assert found.step_and_curried.item() == pytest.approx(1, abs=1e-2)
    assert found.within.share.isfinite().all()


def test_both_models_are_left_as_they_were():
    model, curried, oracle, asked = pair()
    before = trace(model), trace(curried.model)
    directions(curried, oracle, asked, gradient_of(model), **QUICK)
    assert same(before[0], trace(model))
    assert same(before[1], trace(curried.model))


def test_what_has_no_direction_is_refused():
    model, curried, oracle, asked = pair()
    gradient = gradient_of(model)
    with pytest.raises(ProbeInputError, match="directions needs weights in the same space, and kv keeps"):
        directions(curry(model, context(), "kv"), oracle, asked, gradient)
    with pytest.raises(ProbeInputError, match="none was fitted on no queries"):
        directions(curry(model, context(), "none"), oracle, asked, gradient)
    with pytest.raises(ProbeInputError, match=r"the gradient lacks blocks\.0\.attn\.W_K, which W' changes"):
        directions(curried, oracle, asked, {"blocks.0.attn.W_V": gradient["blocks.0.attn.W_V"]})
    with pytest.raises(ProbeInputError, match=r"rank=13 must lie in \[1, 12\]"):
        directions(curried, oracle, asked, gradient, rank=13)
    with pytest.raises(ProbeInputError, match="the gradient's norm is 0"):
        directions(curried, oracle, asked, {name: 0 * g for name, g in gradient.items()})
