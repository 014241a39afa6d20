"""The nulls are the best of their kind: what they leave cannot be had by a shift of theirs."""

import pytest
import torch

from probes.currying import Oracle, curry
from probes.currying.solving import kl
from probes.errors import ProbeInputError
from tests.probes.currying.nets import KINDS, context, net, queries


def test_a_bias_leaves_the_mean_probabilities_of_the_oracle():
    """Where the gradient of the mean KL by the bias is zero, mean p of both models agree."""
    model, fit = net(), queries(net(), 60)
    curried, oracle = curry(model, context(), "bias", fit), Oracle(model, context())
    assert set(curried.weight_update) == {"unembed.b_U"}
    gap = (curried.logits(fit).softmax(-1) - oracle.logits(fit).softmax(-1)).mean((0, 1))
    assert gap.abs().max() < 1e-5
    before = (curry(model, context(), "none").logits(fit).softmax(-1) - oracle.logits(fit).softmax(-1)).mean((0, 1))
    assert before.abs().max() > 1e-2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "post" not in kind])
def test_steering_leaves_no_mean_difference_at_any_site(kind):
    model, fit = net(kind), queries(net(kind), 40)
    curried, goal = curry(model, context(), "steer", fit), Oracle(model, context()).entities(fit)
    base = curry(model, context(), "none").entities(fit)
    for name, entity in curried.entities(fit).items():
        assert (entity - goal[name]).mean((0, 1)).abs().max() < 1e-12
        assert (base[name] - goal[name]).mean((0, 1)).abs().max() > 1e-3


def test_a_bigram_shift_leaves_no_mean_log_ratio_after_any_token():
    model, fit = net(), queries(net(), 60)
    curried, oracle = curry(model, context(), "bigram_shift", fit), Oracle(model, context())
    shifted = curried.logits(fit) - curry(model, context(), "none").logits(fit)
    ratio = oracle.logits(fit).log_softmax(-1) - curry(model, context(), "none").logits(fit).log_softmax(-1)
    for token in range(8):
        here = fit == token
        assert (shifted[here] - ratio[here].mean(0)).abs().max() < 1e-12
    assert not curried.same_space
    assert curried.stored_bytes == 8 * 9 * 8


def test_a_token_that_was_not_seen_gets_no_shift():
    model = net()
    curried = curry(model, context(), "bigram_shift", torch.tensor([[1, 4], [4, 1]]))
    asked = torch.tensor([[0, 1, 2, 4, 7]])
    moved = (curried.logits(asked) != curry(model, context(), "none").logits(asked)).any(-1)
    assert moved.tolist() == [[False, True, False, True, False]]


def test_a_bias_is_better_than_none_on_what_it_was_fitted_on():
    model, fit = net(), queries(net(), 60)
    target = Oracle(model, context()).logits(fit)
    left = {name: kl(target, curry(model, context(), name, fit).logits(fit)).mean() for name in ("none", "bias")}
    assert left["bias"] < left["none"]


def test_models_that_a_shift_cannot_serve_are_refused():
    for method, options, match in (
        ("bias", {"output_logits_soft_cap": 5.0}, "output_logits_soft_cap bends them: take bigram_shift"),
        ("steer", {"norm_position": "post"}, "norm_position='post' normalises it then: take bias"),
        ("steer", {"use_normalization_before_and_after": True}, "steer needs what attention writes"),
    ):
        with pytest.raises(ProbeInputError, match=match):
            curry(net(**options), context(), method, queries(net(), 20))
