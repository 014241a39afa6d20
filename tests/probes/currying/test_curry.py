"""`curry` itself: empty contexts, purity, provenance, the way between W and W', and refusals."""

import pytest
import torch

import toy_models
from probes.currying import NAMES, NULLS, Oracle, compare, compose, curry, interpolate, uniform_queries
from probes.errors import ProbeInputError
from tests.probes.currying.nets import brief, context, home, net, queries
from tests.probes.models import same, trace
from toy_models.seeding import generator


@pytest.mark.parametrize("positions", ["restart", "shift"])
@pytest.mark.parametrize("method", NAMES)
def test_an_empty_context_gives_back_the_weights_bit_for_bit(method, positions):
    model = net()
    curried = curry(model, context(0), method, queries(model, 60), positions=positions)
    assert all(torch.equal(p, curried.model.get_parameter(name)) for name, p in model.named_parameters())
    assert not any(change.any() for change in curried.weight_update.values())
    assert torch.equal(curried.logits(queries(model)), curry(model, context(0), "none").logits(queries(model)))


@pytest.mark.parametrize("method", NAMES)
def test_no_method_touches_the_model_or_leaves_a_hook(method):
    model = home(method)
    before, state = trace(model), torch.random.get_rng_state()
    curried = curry(model, context(), method, queries(model, 60), **brief(method))
    curried.entities(queries(model))
    assert same(before, trace(model))
    assert torch.equal(state, torch.random.get_rng_state())
    points = [point for point in curried.model.hook_dict.values()]
    assert not any(point._forward_hooks or point._backward_hooks for point in points)
    assert not any(module._forward_pre_hooks for module in (*model.modules(), *curried.model.modules()))


@pytest.mark.parametrize("method", NAMES)
def test_a_hook_of_the_users_own_survives_and_counts(method):
    """Oracle and method see the model as it is, hooks included, and the hook is there afterwards."""
    model = home(method, "no positions, attention only")
    model.add_hook("blocks.0.hook_attn_out", lambda value, hook: 2 * value, is_permanent=True)
    curried = curry(model, context(), method, queries(model, 60), **brief(method))
    assert len(model.hook_dict["blocks.0.hook_attn_out"]._forward_hooks) == 1
    assert len(curried.model.hook_dict["blocks.0.hook_attn_out"]._forward_hooks) == 1


@pytest.mark.parametrize("method", NAMES)
def test_the_curried_model_is_the_base_plus_the_update_and_takes_the_query_alone(method):
    model = home(method)
    curried = curry(model, context(), method, queries(model, 60), **brief(method))
    assert type(curried.model) is type(model)
    for name, base in model.named_parameters():
        change = curried.weight_update.get(name, torch.zeros_like(base))
        assert torch.equal(curried.model.get_parameter(name), base + change)
    if curried.same_space:
        asked = queries(model)
        first = torch.full((len(asked), 1), model.cfg.bos_id)
        alone = curried.model(torch.cat([first, asked], dim=1))[:, 1:]
        assert torch.equal(curried.logits(asked), alone)


@pytest.mark.parametrize("method", ["sink", "lsq_o", "steer"])
def test_the_same_call_gives_the_same_update(method):
    one, two = (curry(net(), context(), method, queries(net(), 60)) for _ in range(2))
    assert all(torch.equal(change, two.weight_update[name]) for name, change in one.weight_update.items())
    assert one.provenance == two.provenance
    other = curry(net(), context(seed=5), method, queries(net(), 60))
    assert other.provenance.context_hash != one.provenance.context_hash
    assert other.provenance.weights_hash == one.provenance.weights_hash


def test_queries_can_be_drawn_if_a_generator_is_given():
    model = net()
    drawn = curry(model, context(), "sink", generator=torch.Generator().manual_seed(3))
    assert drawn.fit_queries.shape == (256, 12)
    assert model.cfg.bos_id not in drawn.fit_queries
    assert set(drawn.fit_queries.flatten().tolist()) == set(range(9)) - {model.cfg.bos_id}
    short = curry(model, context(26), "sink", generator=torch.Generator().manual_seed(3))
    assert short.fit_queries.shape == (256, 5)
    with pytest.raises(ProbeInputError, match=r"give them, or generator=torch\.Generator\(\)\.manual_seed\(0\)"):
        curry(model, context(), "sink")


def test_the_way_from_base_to_curried_is_straight_and_passes_through_both():
    model, asked = net(), queries(net())
    curried = curry(model, context(), "sink", queries(model, 60))
    base = curry(model, context(), "none")
    assert (interpolate(curried, 1.0).logits(asked) - curried.logits(asked)).abs().max() == 0
    assert (interpolate(curried, 0.0).logits(asked) - base.logits(asked)).abs().max() < 1e-12
    half = interpolate(curried, 0.5)
    for name, change in curried.weight_update.items():
        assert torch.equal(half.weight_update[name], change / 2)
        expected = model.get_parameter(name) + change / 2
        torch.testing.assert_close(half.model.get_parameter(name), expected, atol=1e-14, rtol=0)
    with pytest.raises(ProbeInputError, match="interpolate needs weights in the same space, and kv keeps"):
        interpolate(curry(model, context(), "kv"), 0.5)


def test_composing_caches_is_joining_the_contexts():
    model, asked = net(), queries(net())
    twice = compose(curry(model, context(3), "kv"), context(4, seed=1))
    joined = Oracle(model, torch.cat([context(3), context(4, seed=1)]))
    assert (twice.logits(asked) - joined.logits(asked)).abs().max() < 1e-12


@pytest.mark.parametrize("method", ["sink", "lsq_o", "none", "steer"])
def test_a_composed_update_leads_from_the_base_to_the_composed_model(method):
    model = net()
    twice = compose(
        curry(model, context(), method, queries(model, 60), **brief(method)), context(seed=1), queries(model, 60)
    )
    for name, base in model.named_parameters():
        reached = base + twice.weight_update.get(name, torch.zeros_like(base))
        torch.testing.assert_close(twice.model.get_parameter(name), reached, atol=1e-12, rtol=0)
    assert len(twice.context) == 12
    assert twice.provenance.weights_hash == Oracle(model, context()).weights_hash


def test_what_cannot_be_composed_is_refused():
    model, fit = net(), queries(net(), 60)
    with pytest.raises(ProbeInputError, match="compose needs weights in the same space, and bigram_shift keeps"):
        compose(curry(model, context(), "bigram_shift", fit), context())
    with pytest.raises(ProbeInputError, match="compose needs positions='restart'"):
        compose(curry(model, context(), "sink", fit, positions="shift"), context())


def test_unknown_methods_and_options_are_refused_with_those_that_there_are():
    with pytest.raises(ProbeInputError, match="unknown method 'sinc': choose one of kv, sink, lsq_o"):
        curry(net(), context(), "sinc")
    with pytest.raises(ProbeInputError, match="sink has no option 'rigde': it has ridge, damping, parts"):
        curry(net(), context(), "sink", queries(net()), rigde=1.0)
    with pytest.raises(ProbeInputError, match="kv has no option 'ridge': it has none"):
        curry(net(), context(), "kv", ridge=1.0)


def test_every_null_is_a_method():
    assert set(NULLS) < set(NAMES)


@pytest.mark.parametrize("directory", ["gpt2_directory", "llama_directory"])
def test_a_checkpoint_of_hugging_faces_is_curried_like_any_other_model(directory, request):
    model = toy_models.from_hf(request.getfixturevalue(directory))
    words = torch.tensor([5, 9, 9, 20])
    fit, asked = (uniform_queries(model, 40, 6, generator(seed, "hf"), bos_id=0) for seed in (0, 1))
    oracle = Oracle(model, words, bos_id=0)
    for method in NAMES:
        if method == "key_grouping":  # one layer without positions: no checkpoint is
            with pytest.raises(ProbeInputError, match="key_grouping is for one layer"):
                curry(model, words, method, fit, bos_id=0)
            continue
        report = compare(curry(model, words, method, fit, bos_id=0, **brief(method)), oracle, asked)
        assert report.kl.isfinite()
        assert (report.kl < 1e-9) == (method in ("kv", "token_patch"))
