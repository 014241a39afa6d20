"""Learned key-value pairs: what they contain, that more never do worse, and what they cost."""

import pytest
import torch

from probes.currying import Oracle, compare, curry
from probes.currying.curried import Fit, updated
from probes.currying.objective import Objective
from probes.currying.pairs import AfterPairs, _absorbed, kv_r, widened
from probes.currying.sink import sink
from probes.errors import ProbeInputError
from tests.probes.currying.nets import KINDS, constant_queries, context, net, queries

FEW = {"steps": 10, "batch": 20}


def reached(oracle: Oracle, fit: Fit, asked: torch.Tensor, objective: str = "entity") -> float:
    return Objective(oracle, asked, objective).total(oracle.model, fit.reader)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", ["restart", "shift"])
def test_the_pair_of_bos_itself_is_bos(kind, positions):
    """In its place, with its positions: the same entities as behind the token, whatever the code."""
    model, asked = net(kind), queries(net(kind))
    oracle = Oracle(model, context(), positions)
    found, bare = _absorbed(oracle, Fit({})), curry(model, context(), "none", positions=positions)
    assert found.length == bare.reader.length
    with torch.no_grad():
        logits, entities = found.read(model, asked, list(bare.entities(asked)))
    assert (logits - bare.logits(asked)).abs().max() < 1e-12
    for name, entity in bare.entities(asked).items():
        assert (entities[name] - entity).abs().max() < 1e-12


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "learned" not in kind and "shortformer" not in kind])
def test_as_many_pairs_as_keys_can_be_the_oracle_where_distances_alone_count(kind):
    """r = n + 1 holds `kv`: pairs go back from BOS's place as the context did from the query."""
    model, asked = net(kind), queries(net(kind))
    oracle = Oracle(model, context())
    names = [f"blocks.{layer}.attn.hook_{half}" for half in "kv" for layer in range(3)]
    cache = model.run_with_cache(oracle.text, names_filter=names)[1]
    reader = AfterPairs(*(tuple(cache[name][0] for name in half) for half in (names[:3], names[3:])))
    with torch.no_grad():
        assert (reader.read(model, asked)[0] - oracle.logits(asked)).abs().max() < 1e-12


@pytest.mark.parametrize("positions", ["restart", "shift"])
def test_one_pair_is_the_sink_where_the_edit_does_not_leak(positions):
    model, asked = constant_queries(2), queries(constant_queries(), seed=1)
    oracle = Oracle(model, context(), positions)
    edit = sink(oracle, queries(model, 60), ridge=0.0, damping=1e-14)
    with torch.no_grad():
        pair = _absorbed(oracle, edit).read(model, asked)[0]
        token = oracle.bare.read(updated(model, edit.weight_update), asked)[0]
    assert (pair - token).abs().max() < 1e-12


@pytest.mark.parametrize("objective", ["entity", "kl"])
@pytest.mark.parametrize("kind", ["rope, RMS, gated", "grouped", "shortformer, smeared"])
def test_more_pairs_never_do_worse_and_one_does_better_than_the_sink(kind, objective):
    model = net(kind, n_layers=2)
    oracle, fit = Oracle(model, context()), queries(model, 40)
    edit = sink(oracle, fit)
    token = Objective(oracle, fit, objective).total(updated(model, edit.weight_update), oracle.bare)
    found = [reached(oracle, kv_r(oracle, fit, pairs=r, objective=objective, **FEW), fit, objective) for r in (1, 2, 3)]
    assert token > found[0] >= found[1] >= found[2]
    assert found[2] < found[0] or "smeared" in kind


def test_without_a_step_one_pair_is_the_sinks_and_a_second_is_left_out_where_it_harms():
    """Constant queries need one pair; a context token beside it is counted twice."""
    model = constant_queries()
    oracle, fit = Oracle(model, context()), queries(model, 40)
    begun = _absorbed(oracle, sink(oracle, fit))
    for pairs in (1, 2, 3):
        found = kv_r(oracle, fit, pairs=pairs, steps=0).reader
        for kept, first in zip((*found.keys, *found.values), (*begun.keys, *begun.values), strict=True):
            assert torch.equal(kept, first)


@pytest.mark.parametrize(("positions", "first"), [("restart", 1), ("shift", 7)])
def test_queries_stand_where_they_would_behind_bos_however_many_pairs_there_are(positions, first):
    model, asked = net("learned, LN"), queries(net(), 4)
    oracle = Oracle(model, context(), positions)
    wider = widened(oracle, queries(net(), 40), _absorbed(oracle, Fit({})))
    code = wider.read(model, asked, ["hook_pos_embed"])[1]["hook_pos_embed"]
    assert wider.length == first + 1
    assert torch.equal(code[0], model.pos_embed.W_pos[first : first + 5])


@pytest.mark.parametrize("positions", ["restart", "shift"])
def test_a_new_pair_says_what_a_context_token_says(positions):
    """Its value is the value of a context token, in every layer and head."""
    model = net("grouped")
    oracle, fit = Oracle(model, context(), positions), queries(model, 40)
    wider = widened(oracle, fit, _absorbed(oracle, sink(oracle, fit)))
    for layer, values in enumerate(wider.values):
        assert values.shape == (2, 2, 4)
        for head in range(2):
            assert (oracle.values[layer][0, :, head] == values[0, head]).all(-1).any()


def test_pairs_are_counted_and_are_not_in_weight_space():
    model = net("grouped")
    made = curry(model, context(), "kv_r", queries(model, 40), steps=4, batch=40)
    assert not made.same_space
    assert not made.weight_update
    assert made.stored == 2 * 3 * 2 * 4
    begun = sink(Oracle(model, context()), queries(model, 40)).token_forwards
    assert made.token_forwards == begun + 7 + 200 + 5 * 240 + 4 * 720
    report = compare(made, Oracle(model, context()), queries(model, seed=1))
    assert report.kl.isfinite()


def test_gradients_are_on_inside_alone():
    model = net("learned, LN", n_layers=2)
    oracle, fit = Oracle(model, context()), queries(model, 20)
    with torch.no_grad():
        quiet = kv_r(oracle, fit, steps=2).reader
    loud = kv_r(oracle, fit, steps=2).reader
    for a, b in zip((*quiet.keys, *quiet.values), (*loud.keys, *loud.values), strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad
    assert all(weight.grad is None for weight in model.parameters())


def test_what_pairs_cannot_serve_is_refused_in_one_line():
    def refused(match, model, **options):
        with pytest.raises(ProbeInputError, match=match) as caught:
            curry(model, context(), "kv_r", queries(model, 20), **options)
        assert "\n" not in str(caught.value)

    refused("pairs=0 must lie between 1 and 7", net(), pairs=0)
    refused("pairs=8 must lie between 1 and 7", net(), pairs=8)
    refused("bos_id=<its token>", net(bos_id=None))
