"""Uncurrying: what no context can do, tokens as pairs, and steps that are contexts."""

import pytest
import torch

from probes.currying import Oracle
from probes.currying.curried import updated
from probes.currying.sink import sink
from probes.currying.solving import kl
from probes.errors import ProbeInputError
from probes.uncurrying import _bare, after_tokens, loss_gradient, moved, own_attention, said, step_of, uncurry
from tests.probes.currying.nets import constant_queries, context, net, queries

V = ["blocks.0.attn.W_V", "blocks.1.attn.W_V"]


@pytest.mark.parametrize("kind", ["rope, RMS, gated", "grouped", "alibi, parallel"])
def test_no_context_moves_the_first_layers_attention_among_the_querys_own_tokens(kind):
    model, asked = net(kind, n_layers=2), queries(net(kind))
    alone = own_attention(model, asked, _bare(model))
    behind = own_attention(model, asked, after_tokens(model, context()))
    assert (alone[0] - behind[0]).abs().max() < 1e-12
    assert (alone[1] - behind[1]).abs().max() > 1e-3


def test_moved_is_zero_in_the_first_layer_for_a_step_of_values_and_not_of_keys():
    model, asked = net(n_layers=2), queries(net())
    for letter, still in (("V", True), ("O", True), ("Q", False), ("K", False)):
        name = f"blocks.0.attn.W_{letter}"
        found = moved(model, {name: 0.3 * model.get_parameter(name).detach().flip(1)}, asked)
        assert found.shape == (2, 2)
        assert (found[0].max() < 1e-12) == still
        assert ((found >= 0) & (found <= 1)).all()
        assert found[1].max() > 1e-4


def test_tokens_are_the_pairs_that_they_leave():
    model, asked, words = net(), queries(net()), context()
    with torch.no_grad():
        found = after_tokens(model, words).read(model, asked)[0]
        assert (found - Oracle(model, words).logits(asked)).abs().max() < 1e-12
        assert (after_tokens(model, words[:0]).read(model, asked)[0] - said(model, asked)).abs().max() < 1e-12


def test_a_step_that_is_a_context_is_reached():
    """The sink's edit on constant queries is one pair, exactly."""
    model = constant_queries()
    edit = sink(Oracle(model, context()), queries(model, 60), ridge=0.0, damping=1e-14)
    asked, words = queries(model, 30, seed=1), torch.stack([context(seed=3), context()])
    found = uncurry(model, edit.weight_update, asked, words, steps=0)
    assert torch.equal(found.context, words[1])
    assert found.left["pairs"] == found.left["tokens"] < 1e-12 < found.left["nothing"]


def test_pairs_are_never_worse_than_tokens_or_nothing_and_find_a_step_of_a_value():
    model, asked = net(n_layers=2), queries(net(), 30)
    step = step_of(model, loss_gradient(model, queries(model, 20, seed=5), V), asked, 0.05)
    words = torch.stack([context(3, seed) for seed in range(4)])
    found = uncurry(model, step, asked, words, steps=30)
    told = found.left
    assert told["nothing"] == pytest.approx(0.05, rel=0.011)
    assert told["pairs"] < min(told["tokens"], told["nothing"])
    assert told["tokens"] <= told["mean tokens"]
    assert told["pairs"] < 0.7 * told["nothing"]
    assert not any(half.requires_grad for half in (*found.pairs.keys, *found.pairs.values))


@pytest.mark.parametrize("nats", [0.001, 0.05])
def test_a_step_changes_the_output_as_asked(nats):
    model, asked = net(n_layers=2), queries(net())
    direction = {V[0]: torch.ones_like(model.get_parameter(V[0])).detach()}
    step = step_of(model, direction, asked, nats)
    change = kl(said(updated(model, step), asked), said(model, asked)).mean().item()
    assert change == pytest.approx(nats, rel=0.011)


def test_the_gradient_is_that_of_the_mean_cross_entropy():
    model, texts = net(n_layers=2), queries(net(), 6)
    found = loss_gradient(model, texts, V)

    def loss(shift: float) -> float:
        told = said(updated(model, {name: shift * g for name, g in found.items()}), texts)[:, :-1].log_softmax(-1)
        return -told.gather(2, texts[:, 1:, None]).mean().item()

    slope = (loss(1e-4) - loss(-1e-4)) / 2e-4
    assert slope == pytest.approx(sum(g.square().sum().item() for g in found.values()), rel=1e-5)


def test_the_model_is_left_as_it_was_and_nonsense_is_refused_in_one_line():
    model, asked = net(n_layers=2), queries(net(), 10)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    uncurry(model, {V[0]: 0.1 * before[V[0]]}, asked, context(3)[None], steps=1)
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    for match, call in (
        ("changes no output", lambda: uncurry(model, {}, asked, context(3)[None])),
        ("nats=0.0 must be positive", lambda: step_of(model, {V[0]: before[V[0]]}, asked, 0.0)),
        ("norm is 0", lambda: step_of(model, {V[0]: torch.zeros_like(before[V[0]])}, asked, 0.1)),
        ("cfg.bos_id is None", lambda: said(net(bos_id=None), asked)),
    ):
        with pytest.raises(ProbeInputError, match=match) as caught:
            call()
        assert "\n" not in str(caught.value)
