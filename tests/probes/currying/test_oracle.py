"""The oracle against the plain forward pass, its gates, and contexts whose effect is known."""

import math

import pytest
import torch
from transformer_lens import HookedRootModule

from probes.currying import Oracle, curry
from probes.currying.reading import AfterBos
from probes.errors import ProbeInputError
from tests.probes.currying.nets import BOS, KINDS, constant_queries, context, full, net, queries
from tests.probes.models import HandWritten, same, trace


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_cached_keys_and_values_give_what_the_whole_text_gives(kind, dtype, tolerance):
    model = net(kind, dtype=dtype)
    words, asked = context(), queries(model)
    logits, cache = model.run_with_cache(full(model, words, asked))
    oracle = Oracle(model, words)
    assert (oracle.logits(asked) - logits[:, 7:]).abs().max() <= tolerance
    assert torch.equal(curry(model, words, "kv").logits(asked), oracle.logits(asked))
    entities = oracle.entities(asked)
    assert len(entities) == (3 if "attention only" in kind or "parallel" in kind else 6)
    for name, entity in entities.items():
        assert (entity - cache[name][:, 7:]).abs().max() <= tolerance * 10


@pytest.mark.parametrize("kind", KINDS)
def test_every_head_puts_out_its_rest_plus_the_gate_times_the_difference(kind):
    model = net(kind)
    asked = queries(model)
    oracle = Oracle(model, context())
    z = oracle.read(asked, [f"blocks.{layer}.attn.hook_z" for layer in range(3)])[1]
    for layer, heads in enumerate(oracle.heads(asked)):
        assert (heads.output - z[f"blocks.{layer}.attn.hook_z"]).abs().max() <= 1e-13


def test_a_context_whose_scores_are_far_below_changes_nothing():
    model, words = constant_queries(), torch.tensor([5, 6, 7, 5])
    asked = queries(model) % 5
    with torch.no_grad():
        attn = model.blocks[0].attn
        q = model.run_with_cache(asked[:1])[1]["blocks.0.attn.hook_q"][0, 0]
        away = q / q.square().sum(-1, keepdim=True)  # taken from a key, it lowers q . k by 1
        attn.W_K[:, 5:8] -= 60 * math.sqrt(4) * away[:, None]
    bare = AfterBos(BOS).read(model, asked)[0]
    oracle = Oracle(model, words)
    gates = oracle.heads(asked)[0].gate
    assert gates.max() < math.exp(-40)
    assert (oracle.logits(asked) - bare).abs().max() <= 1e-12


def test_scores_of_zero_are_no_irrelevance():
    model, words = constant_queries(), context(17)
    with torch.no_grad():
        model.blocks[0].attn.W_Q.zero_()
        model.blocks[0].attn.b_Q.zero_()
    asked = queries(model, length=3)
    normal = torch.arange(1, 4).double() + 1  # BOS, and the query's own tokens so far
    expected = (17 / (17 + normal)).expand(len(asked), 2, -1)
    torch.testing.assert_close(Oracle(model, words).heads(asked)[0].gate, expected, atol=1e-15, rtol=0)


@pytest.mark.parametrize("kind", ["rope, RMS, gated", "learned, LN", "alibi, parallel"])
def test_shifted_queries_stand_where_they_stood_behind_the_context(kind):
    """Masked out, the tokens of a context leave BOS and the query at their places: what they are cannot matter."""
    model, words = net(kind), context()
    asked = queries(model)
    visible = torch.ones(len(asked), 12, dtype=torch.bool)
    visible[:, 1:7] = False
    expected = model(full(model, words, asked), attention_mask=visible)[:, 7:]
    found = curry(model, words, "none", positions="shift").logits(asked)
    assert (found - expected).abs().max() <= 1e-12
    restarted = curry(model, words, "none").logits(asked)
    assert (found - restarted).abs().max() > 1e-3


def test_the_oracle_leaves_the_model_as_it_was():
    model = net()
    before = trace(model)
    oracle = Oracle(model, context())
    oracle.logits(queries(model)), oracle.entities(queries(model)), oracle.heads(queries(model))
    assert same(before, trace(model))


class Hidden(HookedRootModule):
    """A model with blocks that keep their weights elsewhere."""

    def __init__(self):
        super().__init__()
        self.cfg = HandWritten().cfg
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(2))


def test_models_that_cannot_be_edited_are_refused_by_the_name_that_was_looked_for():
    with pytest.raises(ProbeInputError, match=r"no parameter blocks\.0\.attn\.W_Q.*from_hf"):
        Oracle(Hidden(), context())
    with pytest.raises(ProbeInputError, match=r"no empty_cache\(\)"):
        Oracle(HandWritten(), context())


def test_contexts_queries_and_positions_that_do_not_fit_are_refused():
    model = net()
    with pytest.raises(ProbeInputError, match=r"context of 31 tokens leave no room.*n_ctx=32.*at most 30"):
        Oracle(model, context(31))
    with pytest.raises(ProbeInputError, match=r"31 positions before queries of 5 make 36, beyond n_ctx=32"):
        Oracle(model, context(30)).logits(queries(model))
    with pytest.raises(ProbeInputError, match=r"token 9 must lie in \[0, 9\)"):
        Oracle(model, torch.tensor([9]))
    with pytest.raises(ProbeInputError, match=r"token 11 must lie in"):
        Oracle(model, context()).logits(torch.tensor([[11]]))
    with pytest.raises(ProbeInputError, match="positions='absolute' must be one of restart, shift"):
        Oracle(model, context(), "absolute")
    with pytest.raises(ProbeInputError, match="give one with causal=True"):
        Oracle(net(causal=False), context())
    with pytest.raises(ProbeInputError, match=r"queries are torch.int64 of shape \(0, 3\): give token ids"):
        Oracle(model, context()).logits(torch.zeros(0, 3, dtype=torch.long))


def test_gates_are_refused_without_a_context_or_a_softmax():
    model = net()
    with pytest.raises(ProbeInputError, match="gates need a context and BOS"):
        Oracle(model, context(0)).heads(queries(model))
    with pytest.raises(ProbeInputError, match="layer 0: the pattern is off the softmax"):
        Oracle(net(normaliser="sigmoid"), context()).heads(queries(model))


def test_without_a_bos_the_oracle_reads_the_context_alone():
    model = net(bos_id=None)
    words, asked = context(), queries(net())
    expected = model(torch.cat([words.expand(len(asked), -1), asked], dim=1))[:, 6:]
    assert (Oracle(model, words).logits(asked) - expected).abs().max() <= 1e-12
    given = Oracle(model, words, bos_id=BOS).logits(asked)
    assert torch.equal(given, Oracle(net(), words).logits(asked))
