"""The context absorbed into BOS: exact where theory says so, of rank one, and never without effect."""

import pytest
import torch

from probes.currying import Oracle, compare, compose, curry
from probes.currying.distances import spectrum
from probes.currying.oracle import require_softmax
from probes.errors import ProbeInputError
from tests.probes.currying.nets import BOS, KINDS, constant_queries, context, net, queries

EXACT = {"ridge": 0.0, "damping": 1e-14}


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_queries_that_are_all_the_same_make_the_sink_exact(n_layers, seed):
    model, words = constant_queries(n_layers, seed), context(9, seed)
    curried = curry(model, words, "sink", queries(model, 60), **EXACT)
    for length in (1, 7):
        asked = queries(model, 20, length, seed=1)
        oracle = Oracle(model, words)
        assert (curried.logits(asked) - oracle.logits(asked)).abs().max() <= 1e-12
        for name, entity in oracle.entities(asked).items():
            assert (curried.entities(asked)[name] - entity).abs().max() <= 1e-12


@pytest.mark.parametrize("n_layers", [1, 2])
def test_then_currying_twice_is_currying_the_joined_context(n_layers):
    model, first, second = constant_queries(n_layers), context(5), context(4, seed=1)
    fit, asked = queries(model, 60), queries(model, seed=1)
    joined = curry(model, torch.cat([first, second]), "sink", fit, **EXACT)
    twice = compose(curry(model, first, "sink", fit, **EXACT), second)
    assert (twice.logits(asked) - joined.logits(asked)).abs().max() <= 1e-12
    for name in ("blocks.0.attn.W_K", "blocks.0.attn.W_V"):
        assert (twice.weight_update[name] - joined.weight_update[name]).abs().max() <= 1e-12
    assert torch.equal(twice.context, joined.context)
    assert twice.provenance.context_hash == joined.provenance.context_hash


def test_one_key_cannot_do_it_where_queries_differ():
    model = constant_queries()
    with torch.no_grad():
        model.blocks[0].attn.W_Q.normal_(generator=torch.Generator().manual_seed(0))
    curried = curry(model, context(), "sink", queries(model, 60), **EXACT)
    asked = queries(model, seed=1)
    assert (curried.logits(asked) - Oracle(model, context()).logits(asked)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_every_matrix_changes_by_rank_one_over_all_heads(kind):
    curried = curry(net(kind), context(), "sink", queries(net(kind), 60))
    assert set(curried.weight_update) == {f"blocks.{layer}.attn.W_{part}" for layer in range(3) for part in "KV"}
    for change in curried.weight_update.values():
        s = spectrum(change)
        assert s[1] / s[0] < 1e-12


@pytest.mark.parametrize("positions", ["restart", "shift"])
@pytest.mark.parametrize(
    "kind", ["rope, RMS, gated", "stretched rope", "no positions, attention only", "alibi, parallel"]
)
def test_bos_scores_and_says_what_bos_and_the_context_did_together(kind, positions):
    """In layer 0 queries and BOS are the same in both models: BOS's score there meets the target up to a remainder
    orthogonal to the queries, and its value is the mean message with weights of the squared mass."""
    model, words = net(kind), context()
    fit = queries(model, 80)
    curried = curry(model, words, "sink", fit, positions=positions, ridge=0.0)
    oracle = Oracle(model, words, positions)
    wanted = ["blocks.0.attn.hook_attn_scores", "blocks.0.attn.hook_pattern"]
    _, before = oracle.read(fit, wanted)
    asked = "blocks.0.attn.hook_rot_q" if "rope" in kind else "blocks.0.attn.hook_q"
    _, after = curried.reader.read(curried.model, fit, [*wanted[:1], asked])
    target = before[wanted[0]][..., :7].logsumexp(-1)
    gap = target - after[wanted[0]][..., 0]
    assert torch.einsum("bhq,bqhe->he", gap, after[asked]).abs().max() < 1e-9
    _, cache = curried.model.run_with_cache(curried.reader.text(fit)[:1], names_filter=["blocks.0.attn.hook_v"])
    mass = before[wanted[1]][..., :7].sum(-1).square()
    said = torch.einsum("bhqk,khe->bhqe", before[wanted[0]][..., :7].softmax(-1), oracle.values[0][0])
    mean = (mass[..., None] * said).sum((0, 2)) / mass.sum((0, 2))[:, None]
    torch.testing.assert_close(cache["blocks.0.attn.hook_v"][0, 0], mean, atol=1e-10, rtol=0)


def test_grouped_heads_share_one_key_solved_for_all_of_them():
    model, words = net("grouped"), context()
    fit = queries(model, 80)
    curried = curry(model, words, "sink", fit, ridge=0.0)
    scores = "blocks.0.attn.hook_attn_scores"
    target = Oracle(model, words).read(fit, [scores])[1][scores][..., :7].logsumexp(-1)
    after = curried.reader.read(curried.model, fit, [scores, "blocks.0.attn.hook_rot_q"])[1]
    normal = torch.einsum("bhq,bqhe->he", target - after[scores][..., 0], after["blocks.0.attn.hook_rot_q"])
    assert normal.unflatten(0, (2, 2)).sum(1).abs().max() < 1e-9
    assert normal.abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_context_that_tells_every_query_the_same_is_mostly_absorbed(kind):
    """Copies of one token, weakly attended: no configuration may lose the edit on the way."""
    model = net(kind)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.mul_(0.1)
            block.attn.b_Q.mul_(0.1)
    words = torch.full((6,), 3)
    report = compare(curry(model, words, "sink", queries(model, 80)), Oracle(model, words), queries(model, seed=1))
    moved = "learned" in kind or "shortformer" in kind or "relative" in kind  # restarting changes these queries too
    assert report.share_removed > (0.3 if moved else 0.5)


def test_a_direction_that_bos_alone_reads_does_not_leak():
    model, words = constant_queries(), context()
    fit, asked = queries(model, 60), queries(model, seed=1)
    tight = compare(curry(model, words, "sink", fit, **EXACT), Oracle(model, words), asked)
    loose = compare(curry(model, words, "sink", fit, damping=1.0), Oracle(model, words), asked)
    assert tight.leakage.max() < 1e-20
    assert loose.leakage.max() > 1e-6


def test_the_parts_can_be_had_alone():
    model, fit = net(), queries(net(), 80)
    both = curry(model, context(), "sink", fit).weight_update
    alone = curry(model, context(), "sink", fit, parts=("V",)).weight_update
    assert set(alone) == {f"blocks.{layer}.attn.W_V" for layer in range(3)}
    assert torch.equal(alone["blocks.0.attn.W_V"], both["blocks.0.attn.W_V"])
    assert not torch.equal(alone["blocks.1.attn.W_V"], both["blocks.1.attn.W_V"])


def test_models_that_a_single_key_cannot_serve_are_refused_in_one_line():
    def refused(model, match, **options):
        with pytest.raises(ProbeInputError, match=match) as caught:
            curry(model, context(), "sink", queries(net(), 40), **options)
        assert "\n" not in str(caught.value)

    refused(net(bos_id=None), r"cfg\.bos_id is None: give bos_id=")
    assert curry(net(bos_id=None), context(), "sink", queries(net(), 40), bos_id=BOS).weight_update
    refused(net(attn_scores_soft_cap=5.0), r"attn_scores_soft_cap=5\.0.*parts=\('V',\)")
    refused(net(use_qk_norm=True), "use_qk_norm=True")
    refused(net(normaliser="sigmoid"), "the pattern is off the softmax.*lsq_o")
    refused(net(window=2), "layer 0: a window hides BOS")
    refused(net(), r"parts=\('Q',\) must be one or both of K, V", parts=("Q",))
    refused(net(), "damping=0.0 must be positive", damping=0.0)


def test_too_few_queries_for_a_key_are_refused():
    with pytest.raises(ProbeInputError, match="4 query rows cannot fix 6 numbers per target: give at least 6"):
        curry(net(), context(), "sink", queries(net(), 2, 2))


def test_the_softmax_check_names_the_gap():
    scores, pattern = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.5, 0.4]]]])
    with pytest.raises(ProbeInputError, match=r"layer 3: the pattern is off the softmax of its scores by 0\.1,"):
        require_softmax({"attn.hook_attn_scores": scores, "attn.hook_pattern": pattern}, 3)
