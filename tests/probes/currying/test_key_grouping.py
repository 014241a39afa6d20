"""The context grouped onto the query's keys: exact scores, an output that is not, and the three reasons why."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.currying import Oracle, compare, curry
from probes.currying.distances import spectrum
from probes.currying.key_grouping import grouping_gap
from probes.errors import ProbeInputError
from tests.probes.currying.nets import BOS, context, net
from toy_models.seeding import generator

SCORES, PATTERN = "blocks.0.attn.hook_attn_scores", "blocks.0.attn.hook_pattern"
WORDS = torch.tensor([0, 2, 2, 4, 2, 0, 7])
KINDS = {
    "plain": {"normalization_type": None},
    "norm and MLP": {"normalization_type": "RMS", "d_mlp": 20, "gated_mlp": True, "act_fn": "silu"},
    "grouped": {"normalization_type": "LN", "d_mlp": 20, "n_heads": 4, "d_head": 10, "n_key_value_heads": 2},
    "no BOS": {"normalization_type": "RMS", "bos_id": None},
}


def layer(kind="plain", **options):
    return net("no positions, attention only", **{"n_layers": 1, **KINDS[kind], **options})


def asked(n=40, length=6, seed=0):
    """Five types, which six coordinates of a query can tell apart."""
    return torch.randint(5, (n, length), generator=generator(seed, "five types"))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_grow_by_the_logarithm_of_one_and_the_copies(kind):
    model = layer(kind)
    curried, held_out = curry(model, WORDS, "key_grouping", asked()), asked(seed=1)
    before = curry(model, WORDS, "none").read(held_out, [SCORES])[1][SCORES]
    after = curried.read(held_out, [SCORES])[1][SCORES]
    text = curried.reader.text(held_out)
    copies = (text[..., None] == WORDS).sum(-1).double()
    visible = before.isfinite()
    grown = (after - before)[visible]
    assert (grown - copies.log1p()[:, None, None].expand_as(before)[visible]).abs().max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_one_edit_of_rank_one_over_all_heads(kind):
    curried = curry(layer(kind), WORDS, "key_grouping", asked())
    assert list(curried.weight_update) == ["blocks.0.attn.W_K"]
    s = spectrum(curried.weight_update["blocks.0.attn.W_K"])
    assert s[1] / s[0] < 1e-12
    assert curried.same_space


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_is_exact_where_the_query_has_every_type_of_the_context_once(kind):
    """From the row that completes them to the first that repeats one; other types may come as often as they like."""
    words, model = torch.tensor([0, 2, 2, 4, 2, 0]), layer(kind)
    once = torch.tensor([[1, 2, 0, 1, 4, 3, 1, 3, 2, 1]])
    curried, oracle = curry(model, words, "key_grouping", asked()), Oracle(model, words)
    gap = (curried.logits(once) - oracle.logits(once)).abs().amax(-1)[0]
    assert gap[4:8].max() < 1e-10
    assert gap[:4].min() > 1e-3
    assert gap[8:].min() > 1e-3
    total = grouping_gap(oracle, once).total[0]
    assert total[:, 4:8].max() < 1e-12
    assert total[:, :4].min() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_elsewhere_every_copy_takes_the_whole_group_and_missing_types_take_nothing(kind):
    """The attention of the edited model, by type, is n (1 + m) exp(s); the oracle's is (n + m) exp(s)."""
    model = layer(kind)
    curried, oracle, held_out = curry(model, WORDS, "key_grouping", asked()), Oracle(model, WORDS), asked(seed=1)
    before = curry(model, WORDS, "none").read(held_out, [PATTERN])[1][PATTERN]
    text = curried.reader.text(held_out)
    kinds = torch.nn.functional.one_hot(text, BOS + 1).double()
    m = torch.bincount(WORDS, minlength=BOS + 1)
    present = before @ kinds[:, None]  # by type, n exp(s) up to the row's sum
    expected = present * (1 + m)
    expected = expected / expected.sum(-1, keepdim=True)
    found = curried.read(held_out, [PATTERN])[1][PATTERN] @ kinds[:, None]
    assert (found - expected).abs().max() < 1e-10
    right = oracle.read(held_out, [PATTERN])[1][PATTERN]
    whole = torch.cat([oracle.text.expand(len(text), -1), held_out], dim=1)
    right = right @ torch.nn.functional.one_hot(whole, BOS + 1).double()[:, None]
    gap = grouping_gap(oracle, held_out)
    torch.testing.assert_close((right - found).abs().sum(-1) / 2, gap.total, atol=1e-10, rtol=0)
    torch.testing.assert_close(right.where(present == 0, 0.0).sum(-1), gap.missing, atol=1e-10, rtol=0)
    torch.testing.assert_close((right - present).abs().sum(-1) / 2, gap.hard_max, atol=1e-10, rtol=0)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_reasons_bound_the_whole_and_each_vanishes_alone(words, seed):
    words, model = torch.tensor(words), layer()
    gap = grouping_gap(Oracle(model, words), asked(4, seed=seed))
    assert (gap.total <= gap.multiplicity + gap.missing + 1e-12).all()
    assert gap.copies.sum() == len(words)
    torch.testing.assert_close(gap.shift, gap.copies.double().log1p())
    complete = grouping_gap(Oracle(model, words), torch.arange(5).repeat(1, 2))
    assert complete.missing[..., 4:].max() < 1e-12
    assert complete.multiplicity[..., :5].max() < 1e-12
    assert complete.multiplicity[..., 9].min() > 1e-6
    absent = grouping_gap(Oracle(model, torch.full_like(words, 7)), asked(4, seed=seed))
    assert absent.multiplicity.max() < 1e-12
    torch.testing.assert_close(absent.total, absent.hard_max)


@pytest.mark.parametrize("m", [1, 3])
def test_a_context_that_repeats_the_whole_prelude_changes_nothing_until_the_prelude_ends(m):
    """Every term of the softmax is there 1 + m times; behind it counts add, and do not multiply."""
    model, prelude = layer("norm and MLP"), torch.tensor([0, 1, 2, 3, 4])
    words = torch.cat([torch.tensor([BOS]), prelude]).repeat(m)
    oracle, y = Oracle(model, words), torch.cat([prelude, torch.tensor([3, 0])])[None]
    gap = (oracle.logits(y) - curry(model, words, "none").logits(y)).abs().amax(-1)[0]
    assert gap[4] < 1e-12
    assert gap[:4].min() > 1e-3
    assert gap[5:].min() > 1e-3


def test_the_sink_does_better_where_grouping_fails():
    model = layer("norm and MLP")
    with torch.no_grad():
        model.blocks[0].attn.W_Q.mul_(0.3)  # the context says much the same to every query
    oracle, held_out = Oracle(model, WORDS), asked(seed=1)
    kl = {
        method: compare(curry(model, WORDS, method, asked()), oracle, held_out).kl
        for method in ("key_grouping", "sink")
    }
    assert kl["sink"] < kl["key_grouping"]


def test_models_without_its_premises_are_refused_in_one_line():
    def refused(model, match, fit=None):
        with pytest.raises(ProbeInputError, match=match) as caught:
            curry(model, context(), "key_grouping", asked() if fit is None else fit)
        assert "\n" not in str(caught.value)

    refused(net(), "key_grouping is for one layer, and the model has 3: take sink or kv")
    for kind in ("rope, RMS, gated", "learned, LN", "alibi, parallel", "shortformer, smeared"):
        refused(net(kind, n_layers=1), "scores that depend on the two tokens alone, and they are off by")
    refused(layer(window=3), "scores that depend on the two tokens alone")
    refused(layer(attn_scores_soft_cap=5.0), "scores that depend on the two tokens alone")
    refused(layer(normaliser="sigmoid"), "the pattern is off the softmax")
    every = torch.arange(8)[None].repeat(3, 1)
    refused(layer(), r"the queries of 8 types of token are not independent in d_head=6 \(off by", every)
    refused(layer(d_model=6, d_head=8), "what attention reads from . types of token are not independent in d_model=6")
