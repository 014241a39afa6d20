"""The context absorbed into several slots: one is the sink, one per token is exact, and the error falls between."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.currying import Oracle, compare, compose, curry
from probes.currying.distances import spectrum
from probes.currying.registers import grouped, reading_directions
from probes.currying.solving import reading_direction
from probes.errors import ProbeInputError
from tests.probes.currying.nets import BOS, KINDS, constant_queries, context, net, queries
from tests.probes.models import same, trace
from toy_models.seeding import generator

EXACT = {"ridge": 0.0, "damping": 1e-14}
REGISTERS = (5, 6, 7)


def asked(n=60, length=5, seed=0):
    """Queries that have no register."""
    return torch.randint(5, (n, length), generator=generator(seed, "few tokens"))


@torch.no_grad()
def free_queries(n_layers=1, seed=0):
    """No positions, a direction that each token alone has, and queries that differ; a coordinate of theirs is 1."""
    model = constant_queries(n_layers, seed)
    for block in model.blocks:
        constant = block.attn.W_Q[:, BOS + 1].clone()
        block.attn.W_Q.normal_(generator=generator(seed, "queries"))
        block.attn.W_Q[:, :, 0], block.attn.b_Q[:, 0] = 0, 0
        block.attn.W_Q[:, BOS + 1, 0] = constant[:, 0]
    return model


@pytest.mark.parametrize("positions", ["restart", "shift"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_slot_is_the_sink(kind, positions):
    model, fit = net(kind), queries(net(kind), 60)
    one, sink = (curry(model, context(), method, fit, positions=positions) for method in ("sink_r", "sink"))
    assert one.same_space
    assert one.weight_update.keys() == sink.weight_update.keys()
    for name, change in sink.weight_update.items():
        torch.testing.assert_close(one.weight_update[name], change, atol=1e-9, rtol=0)
    assert one.reader == sink.reader
    assert one.stored_bytes == sink.stored_bytes


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_a_slot_for_every_token_is_exact_and_fewer_err_the_more_the_fewer_they_are(n_layers, seed):
    """Where every token has a direction of its own, nothing leaks: then only the number of slots is left to err."""
    model, words = free_queries(n_layers, seed), torch.tensor([0, 1, 2])
    oracle, fit, gaps = Oracle(model, words), asked(), []
    for r in range(4):
        curried = curry(model, words, "sink_r", fit, registers=REGISTERS[:r], **EXACT)
        gaps.append((curried.logits(fit) - oracle.logits(fit)).norm().item())
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3]
    assert gaps[2] > 1e-2
    held_out = asked(20, 7, seed=1)
    assert (curried.logits(held_out) - oracle.logits(held_out)).abs().max() < 1e-10
    found = curried.entities(held_out)
    for name, entity in oracle.entities(held_out).items():
        assert (found[name] - entity).abs().max() < 1e-10


@pytest.mark.parametrize("groups", ["kmeans", "subset"])
def test_copies_share_a_slot_without_any_loss(groups):
    """Seven tokens, three of them different: BOS and three registers are enough, and two are not."""
    model, words = free_queries(), torch.tensor([0, 1, 2, 0, 1, 0, 2])
    oracle, fit = Oracle(model, words), asked()
    for r, exact in ((3, True), (2, False)):
        curried = curry(model, words, "sink_r", fit, registers=REGISTERS[:r], groups=groups, **EXACT)
        gap = (curried.logits(asked(seed=1)) - oracle.logits(asked(seed=1))).abs().max()
        assert (gap < 1e-10) if exact else (gap > 1e-3)


@pytest.mark.parametrize("positions", ["restart", "shift"])
@pytest.mark.parametrize("kind", ["rope, RMS, gated", "stretched rope", "grouped", "alibi, parallel"])
def test_in_the_first_layer_each_slot_scores_what_its_group_did(kind, positions):
    """Up to a remainder orthogonal to what asks the slot, heads that share it together."""
    model, words, r = net(kind, n_layers=1), context(), 3
    fit = asked(80)
    curried = curry(model, words, "sink_r", fit, registers=REGISTERS[: r - 1], positions=positions, ridge=0.0)
    oracle, scores = Oracle(model, words), "blocks.0.attn.hook_attn_scores"
    before = oracle.read(fit, [scores])[1][scores][..., :7]
    n_kv = model.cfg.n_key_value_heads
    columns = before.transpose(0, 1).unflatten(0, (n_kv, -1)).flatten(1, 3)
    weight = oracle.read(fit, ["blocks.0.attn.hook_pattern"])[1]["blocks.0.attn.hook_pattern"][..., :7]
    weight = weight.transpose(0, 1).unflatten(0, (n_kv, -1)).flatten(1, 3).mean(1)
    after = curried.reader.read(curried.model, fit, [scores])[1][scores][..., :r]
    after = after.transpose(0, 1).unflatten(0, (n_kv, -1)).flatten(1, 3)
    for head in range(n_kv):
        label = grouped(columns[head].T, weight[head], r)
        for slot in range(r):
            gap = columns[head][:, label == slot].logsumexp(-1) - after[head, :, slot]
            for coordinate in range(0, model.cfg.d_head, 3):
                assert (gap @ pushed(curried, fit, head, slot, coordinate)).abs() < 1e-8


def pushed(curried, fit, head, slot, coordinate):
    """How every row's score of a slot changes with one coordinate of its key: by moving it."""
    step, scores = 1e-3, "blocks.0.attn.hook_attn_scores"

    def push(value, hook):
        value[:, slot, head, coordinate] += step
        return value

    found = []
    for hooks in ([], [("blocks.0.attn.hook_k", push)]):
        with torch.no_grad(), curried.model.hooks(fwd_hooks=hooks):
            found.append(curried.reader.read(curried.model, fit, [scores])[1][scores][..., slot])
    change = (found[1] - found[0]) / step
    return change.transpose(0, 1).unflatten(0, (curried.model.cfg.n_key_value_heads, -1)).flatten(1, 3)[head]


def test_the_edits_are_of_rank_r_and_what_is_kept_is_counted():
    model = net()
    for r in (1, 2, 4):
        curried = curry(model, context(), "sink_r", asked(), registers=REGISTERS[: r - 1])
        for change in curried.weight_update.values():
            s = spectrum(change)
            assert s[r] / s[0] < 1e-12 < s[r - 1] / s[0]
        d_model, written = model.cfg.d_model, model.cfg.n_heads * model.cfg.d_head
        assert curried.stored_bytes == 8 * (3 * r * (d_model + 2 * written) + r - 1)
        assert curried.same_space == (r == 1)


@given(st.integers(1, 5), st.floats(1e-6, 1.0), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_each_direction_reads_its_own_slot_alone_and_others_as_little_as_can_be(r, damping, seed):
    own, others, other_way = torch.randn(3, 40, 8, generator=generator(seed, "slots"), dtype=torch.float64)
    own = own[:r]
    u = reading_directions(own, others, damping, 0)
    torch.testing.assert_close(own @ u.T, torch.eye(r, dtype=own.dtype), atol=1e-9, rtol=0)
    S = others.T @ others / 40
    S += damping * S.diagonal().mean() * torch.eye(8, dtype=own.dtype)
    free = other_way[:r] - (other_way[:r] @ torch.linalg.pinv(own)) @ own  # changes nothing on any slot
    cost = [torch.einsum("ad,de,ae->a", v, S, v) for v in (u, u + free)]
    assert (cost[0] <= cost[1] + 1e-9).all()
    if r == 1:
        torch.testing.assert_close(u[0], reading_direction(own[0], others, damping), atol=1e-9, rtol=1e-9)


@given(st.integers(1, 6), st.integers(0, 99), st.sampled_from(["kmeans", "subset"]))
@settings(max_examples=40, deadline=None)
def test_every_slot_has_a_key_and_the_first_key_is_in_the_first(r, seed, groups):
    columns = torch.randint(2, (6, 3), generator=generator(seed, "columns")).double()  # many of them equal
    label = grouped(columns, torch.rand(6, generator=generator(seed, "weight"), dtype=torch.float64), r, groups)
    assert label[0] == 0
    assert label.unique().tolist() == list(range(r))


def test_keys_that_differ_by_a_constant_are_grouped():
    kinds = torch.randn(3, 20, generator=generator(0, "kinds"), dtype=torch.float64)
    truth = torch.tensor([0, 1, 2, 1, 0, 2, 2, 0])
    columns = kinds[truth] + torch.arange(8)[:, None]
    for groups in ("kmeans", "subset"):
        label = grouped(columns, torch.rand(8, generator=generator(1, "w"), dtype=torch.float64) + 0.1, 3, groups)
        assert all((label[a] == label[b]) == (truth[a] == truth[b]) for a in range(8) for b in range(8))


def test_reading_with_registers_leaves_the_model_alone():
    model = net()
    before = trace(model)
    curried = curry(model, context(), "sink_r", asked(), registers=REGISTERS)
    report = compare(curried, Oracle(model, context()), asked(20, seed=1))
    assert same(before, trace(model))
    assert report.kl.isfinite()
    assert curried.reader.length == 4
    shifted = curry(model, context(), "sink_r", asked(), registers=REGISTERS, positions="shift")
    assert shifted.reader.length == 7
    assert shifted.reader.visible(asked(1))[0].tolist() == [True] * 4 + [False] * 3 + [True] * 5
    empty = curry(model, context(0), "sink_r", asked(), registers=REGISTERS)
    assert torch.equal(empty.logits(asked()), curry(model, context(0), "none").logits(asked()))
    with pytest.raises(ProbeInputError, match="compose needs weights in the same space, and sink_r keeps"):
        compose(curried, context())


def test_registers_that_cannot_serve_are_refused_in_one_line():
    def refused(match, model=None, words=None, fit=None, **options):
        words = context() if words is None else words
        with pytest.raises(ProbeInputError, match=match) as caught:
            curry(model or net(), words, "sink_r", asked() if fit is None else fit, **options)
        assert "\n" not in str(caught.value)

    refused("register 5 stands in a query.*choose tokens that no query has", fit=asked() + 1, registers=(5,))
    refused(r"registers=\(5, 5\) must be different tokens, and none of them BOS=8", registers=(5, 5))
    refused("must be different tokens, and none of them BOS=8", registers=(BOS,))
    refused(r"token 9 must lie in \[0, 9\)", registers=(9,))
    refused("3 registers are more than the 2 tokens of the context", words=context(2), registers=REGISTERS)
    refused("groups='best' must be one of kmeans, subset", groups="best")
    refused(r"cfg\.bos_id is None: give bos_id=", model=net(bos_id=None))
    refused("use_qk_norm=True: a key cannot take any score", model=net(use_qk_norm=True))
    refused("smeared_keys=True mixes a register's key", model=net("shortformer, smeared"), registers=(5,))
    refused("layer 0: a window hides part of the context", model=net(window=6))
    blind = net("no positions, attention only")
    with torch.no_grad():
        blind.W_E[5] = blind.W_E[BOS]
    refused("layer 0: attention reads 2 slots of rank 1, and no weight can tell them apart", blind, registers=(5,))
