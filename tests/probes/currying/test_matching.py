"""Attention matching: everything kept is the oracle, its three problems are solved, and biases are what they say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from probes.currying import Oracle, compare, curry
from probes.currying.matching import AfterBiasedPairs, _Goal, _matched, attention_matching
from probes.currying.oracle import SCORES
from probes.currying.pairs import AfterPairs, _absorbed
from probes.currying.sink import sink
from probes.errors import ProbeInputError
from tests.probes.currying.nets import KINDS, constant_queries, context, net, queries

BY_DISTANCE = [kind for kind in KINDS if "learned" not in kind and "shortformer" not in kind]


@pytest.mark.parametrize("kind", BY_DISTANCE)
def test_all_keys_are_the_oracle_where_distances_alone_count(kind):
    """r = n + 1: the biases are 0, and every key, wherever it stands now, has the scores that it had."""
    model, asked, words = net(kind), queries(net(kind), seed=1), torch.arange(6)  # equal keys could share their mass
    oracle = Oracle(model, words)
    made = curry(model, words, "attention_matching", queries(model, 40), pairs=7, ridge=0.0)
    assert (made.logits(asked) - oracle.logits(asked)).abs().max() < 1e-9
    assert max(bias.abs().max() for bias in made.reader.biases) < 1e-9


@pytest.mark.parametrize("positions", ["restart", "shift"])
def test_one_key_is_enough_where_queries_are_constant(positions):
    model, asked = constant_queries(2), queries(constant_queries(), seed=1)
    oracle = Oracle(model, context(), positions)
    fit = attention_matching(oracle, queries(model, 60), ridge=1e-12)
    with torch.no_grad():
        assert (fit.reader.read(model, asked)[0] - oracle.logits(asked)).abs().max() < 1e-9


def test_one_value_is_the_sinks_in_the_first_layer():
    """Both minimise sum G^2 |c - v|^2; only keys differ."""
    model = net("grouped")
    oracle, fit = Oracle(model, context()), queries(model, 40)
    mine = attention_matching(oracle, fit).reader.pairs.values[0]
    assert (mine - _absorbed(oracle, sink(oracle, fit)).values[0]).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["rope, RMS, gated", "grouped"])
def test_more_keys_come_nearer(kind):
    model = net(kind, n_layers=2)
    oracle, asked, fit = Oracle(model, context()), queries(model, seed=1), queries(model, 60)
    found = [
        compare(curry(model, context(), "attention_matching", fit, pairs=r), oracle, asked).kl.item() for r in (1, 4, 7)
    ]
    assert found[2] < 1e-6 < found[1] < found[0]


# The three problems -------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_mass_keys_and_values_are_optimal_whatever_the_scores(seed, r):
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    heads, rows, keys, d = 2, 30, 5, 3
    goal = _Goal(2 * random(heads, rows, keys), random(heads, keys, d), random(heads, rows, 1).sigmoid())
    turned, now = random(r, heads, rows, d), random(heads, rows, r)
    found, values, bias = _matched(goal, turned, now, 0.0)
    share = goal.score.softmax(-1)
    for h in range(heads):
        kept = (goal.mass[h] * share[h]).square().sum(0).argsort(descending=True)[:r].sort().values
        weight, least = nnls(share[h][:, kept].numpy(), [1.0] * rows)
        assert ((share[h][:, kept] @ bias[:, h].exp() - 1).norm() - least).abs() < 1e-9
        score = now[h] + torch.einsum("are,ae->ra", turned[:, h], found[:, h])
        for a in range(r):  # no linear function of the query comes nearer to the key's scores
            assert (turned[a, h].T @ (goal.score[h, :, kept[a]] - score[:, a])).abs().max() < 1e-8
        mixed = (score + bias[:, h]).softmax(-1)
        off = share[h] @ goal.values[h] - mixed @ values[:, h]
        alive = torch.as_tensor(weight > 0)
        slope = (goal.mass[h].square() * mixed).T @ off
        assert slope[alive].abs().max() < 1e-8


def test_kept_are_the_keys_with_the_most_attention():
    """One token that every query looks at, first in the text, last, or in the middle."""
    score = torch.zeros(1, 20, 6, dtype=torch.float64)
    values = torch.arange(6, dtype=torch.float64)[None, :, None] * torch.ones(1, 6, 3, dtype=torch.float64)
    for loud in (0, 3, 5):
        raised = score.clone()
        raised[..., loud] = 8.0
        goal = _Goal(raised, values, torch.ones(1, 20, 1, dtype=torch.float64))
        turned = torch.ones(1, 1, 20, 3, dtype=torch.float64)
        found, value, bias = _matched(goal, turned, torch.zeros(1, 20, 1, dtype=torch.float64), 1e-9)
        assert (turned[0, 0] @ found[0, 0] - 8).abs().max() < 1e-6
        assert (bias - torch.log1p(5 * torch.tensor(-8.0).double().exp())).abs().max() < 1e-9
        assert (value[0, 0] - raised[0, 0].softmax(-1) @ values[0]).abs().max() < 1e-5


# The reader ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rope, RMS, gated", "grouped", "alibi, parallel"])
def test_a_bias_raises_the_scores_of_its_pair_and_of_no_other_key(kind):
    model, asked = net(kind), queries(net(kind), 4)
    pairs = attention_matching(Oracle(model, context()), queries(model, 40), pairs=3).reader.pairs
    given = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)[:, None]
    reader = AfterBiasedPairs(pairs, tuple(given.expand(key.shape[:2]) * (i + 1) for i, key in enumerate(pairs.keys)))
    quiet = AfterBiasedPairs(reader.pairs, tuple(torch.zeros_like(bias) for bias in reader.biases))
    name = f"blocks.0.{SCORES}"
    with torch.no_grad():
        loud, plain = (one.read(model, asked, [name])[1][name] for one in (reader, quiet))
        bare = reader.pairs.read(model, asked)[0]
        assert (quiet.read(model, asked)[0] - bare).abs().max() < 1e-12
    share = loud.shape[1] // reader.biases[0].shape[1]
    raised = (loud - plain)[..., :3]
    assert (raised - reader.biases[0].T.repeat_interleave(share, 0)[:, None]).abs().max() < 1e-12
    assert torch.equal(loud[..., 3:], plain[..., 3:])


def test_a_pair_that_has_no_mass_is_as_if_it_were_not_there():
    model, asked = net(), queries(net(), 4)
    reader = attention_matching(Oracle(model, context()), queries(model, 40), pairs=2).reader
    hidden = AfterBiasedPairs(reader.pairs, tuple(torch.stack([b[0] - torch.inf, b[1]]) for b in reader.biases))
    alone = AfterBiasedPairs(
        AfterPairs(tuple(k[1:] for k in reader.pairs.keys), tuple(v[1:] for v in reader.pairs.values)),
        tuple(b[1:] for b in reader.biases),
    )
    with torch.no_grad():
        assert (hidden.read(model, asked)[0] - alone.read(model, asked)[0]).abs().max() < 1e-12


def test_numbers_are_counted_and_the_model_keeps_no_hook():
    model = net("grouped")
    made = curry(model, context(), "attention_matching", queries(model, 40), pairs=2)
    assert not made.same_space
    assert not made.weight_update
    assert made.stored == 2 * (2 * 3 * 2 * 4) + 2 * 3 * 2
    assert made.token_forwards == 7 + 200 + 3 * 40 * (5 + 2)
    made.logits(queries(model, 4))
    assert not any(hook.fwd_hooks for hook in model.hook_dict.values())


def test_what_keys_cannot_serve_is_refused_in_one_line():
    def refused(match, model, asked, **options):
        with pytest.raises(ProbeInputError, match=match) as caught:
            curry(model, context(), "attention_matching", asked, **options)
        assert "\n" not in str(caught.value)

    refused("pairs=0 must lie between 1 and 7", net(), queries(net(), 20), pairs=0)
    refused("pairs=8 must lie between 1 and 7", net(), queries(net(), 20), pairs=8)
    refused("ridge=-1.0 must be 0 or more", net(), queries(net(), 20), ridge=-1.0)
    refused("softmax of its scores", net(normaliser="sigmoid"), queries(net(), 20))
    windowed = net(window=3)
    refused("a window hides BOS and the whole context", windowed, queries(windowed, 20, length=8))
