import math

import pytest
import torch
from transformer_lens.hook_points import HookPoint

import toy_models
from probes import names
from probes.ablation import Mean, PatternPreserving, Resample, Zero, ablate, ablated
from probes.errors import ProbeInputError
from probes.in_context import in_context
from tests.probes.models import HandWritten, ours, same, text, trace
from toy_models import constructed
from toy_models.seeding import generator
from toy_models.tasks.repeated_blocks import RepeatedBlocks

PERIOD, SHARPNESS = 7, 20.0
REPEATS = RepeatedBlocks(d_vocab=16, n_ctx=32, shortest=PERIOD, longest=PERIOD, held_out=())


def circuit() -> tuple:
    """The constructed circuit in float64 and repeated blocks, with the positions whose answer is determined."""
    return constructed.induction_circuit(sharpness=SHARPNESS).double(), REPEATS.sample(6, generator(0, "text"))


def every_kind(tokens: torch.Tensor) -> list:
    order = torch.tensor([1, 2, 0])
    return [Zero(), Mean(tokens), Mean(tokens, per_position=True), Resample(tokens, order), PatternPreserving(tokens)]


# Calibration on the induction circuit -------------------------------------------------------------


def test_without_the_previous_token_head_the_loss_is_that_of_counting_tokens():
    """Layer 1 finds no match and attends to all keys alike: each token gets sharpness times its share of the text."""
    model, batch = circuit()
    found = ablate(model, batch.tokens, [(0, 0)], Zero(), batch.targets)
    for row, (tokens, targets) in enumerate(zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True)):
        for i, target in enumerate(targets):
            logits = [SHARPNESS * tokens[: i + 1].count(v) / (i + 1) for v in range(16)]
            expected = math.log(math.fsum(map(math.exp, logits))) - logits[target]
            assert found.after[row, i].item() == pytest.approx(expected, abs=1e-12)
    assert found.before[batch.scored].max() <= 1e-6
    assert found.after[batch.scored].min() > math.log(PERIOD) / 2  # back on the plateau of guessing within the block


def test_without_the_previous_token_head_accuracy_is_at_most_chance_within_the_block():
    """All tokens of the block tie when it has just been completed, and the answer is the rarest one elsewhere."""
    model, batch = circuit()
    with torch.no_grad(), ablated(model, [(0, 0)], Zero()):
        right = model(batch.tokens).argmax(-1) == batch.targets
    with torch.no_grad():
        assert (model(batch.tokens).argmax(-1) == batch.targets)[batch.scored].all()
    assert right[batch.scored].double().mean() <= 1 / PERIOD


def test_without_the_induction_head_nothing_is_said():
    model, batch = circuit()
    found = ablate(model, batch.tokens, [(1, 0)], Zero(), batch.targets)
    assert (found.after - math.log(16)).abs().max() <= 1e-14


def test_pattern_preserving_ablation_spares_a_head_that_works_through_keys():
    model, batch = circuit()
    kept = ablate(model, batch.tokens, [(0, 0)], PatternPreserving(batch.tokens), batch.targets)
    full = ablate(model, batch.tokens, [(0, 0)], Zero(), batch.targets)
    assert kept.change.abs().max() <= 1e-12
    assert full.change[batch.scored].min() > 0.9
    # The induction head works through its output: nothing stands behind it whose pattern could be kept.
    last = ablate(model, batch.tokens, [(1, 0)], PatternPreserving(batch.tokens), batch.targets)
    assert (last.after - math.log(16)).abs().max() <= 1e-14


def test_without_the_induction_head_the_in_context_score_is_zero():
    model, batch = circuit()
    found = ablate(model, batch.tokens, [(1, 0)], Zero())
    assert in_context(found.before, 5, 29).mean < -1
    assert in_context(found.after, 5, 29).mean.abs() <= 1e-14


# When nothing may change, and when all must -------------------------------------------------------


@pytest.mark.parametrize("kind", range(5))
def test_a_head_that_writes_nothing_can_be_ablated_in_any_way(kind):
    model, tokens = ours(), text()
    with torch.no_grad():
        model.blocks[1].attn.W_O[1] = 0
    assert ablate(model, tokens, [(1, 1)], every_kind(tokens)[kind]).change.abs().max() <= 1e-14
    assert ablate(model, tokens, [(1, 0)], every_kind(tokens)[kind]).change.abs().max() > 1e-2


@pytest.mark.parametrize("per_position", [False, True])
def test_the_mean_of_a_constant_head_changes_nothing_where_zero_does(per_position):
    model, tokens = ours(), text()
    with torch.no_grad():
        model.blocks[0].attn.W_V[1] = 0  # z is b_V wherever the head looks
    assert ablate(model, tokens, [(0, 1)], Mean(text(1), per_position)).change.abs().max() <= 1e-12
    assert ablate(model, tokens, [(0, 1)], Zero()).change.abs().max() > 1e-2


def test_a_mean_per_position_keeps_what_depends_on_the_position_alone():
    model, tokens = ours(), text()
    with torch.no_grad():
        model.W_E.zero_()
    assert ablate(model, tokens, [(0, 0)], Mean(text(1), per_position=True)).change.abs().max() <= 1e-12
    assert ablate(model, tokens, [(0, 0)], Mean(text(1))).change.abs().max() > 1e-2


def test_resampling_each_text_from_itself_changes_nothing():
    model, tokens = ours(), text()
    everything = [(layer, head) for layer in range(3) for head in range(2)]
    assert ablate(model, tokens, everything, Resample(tokens, torch.arange(3))).change.abs().max() == 0
    assert ablate(model, tokens, everything, Resample(tokens, torch.tensor([1, 2, 0]))).change.abs().max() > 1e-2


def test_pattern_preserving_is_zero_where_later_patterns_read_nothing():
    model, tokens = ours(), text()
    gap = (
        ablate(model, tokens, [(0, 1)], PatternPreserving(tokens)).after - ablate(model, tokens, [(0, 1)], Zero()).after
    )
    assert gap.abs().max() > 1e-3
    with torch.no_grad():
        for block in model.blocks[1:]:
            block.attn.W_Q.zero_()
            block.attn.b_Q.zero_()
    kept, full = (ablate(model, tokens, [(0, 1)], how) for how in (PatternPreserving(tokens), Zero()))
    assert (kept.after - full.after).abs().max() <= 1e-12


# What is put in place -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", range(5))
def test_only_the_named_heads_are_replaced_and_by_what_is_said(kind):
    model, tokens, reference = ours(), text(), text(1)
    how = [*every_kind(reference)[:4], PatternPreserving(tokens)][kind]
    with torch.no_grad():
        _, clean = model.run_with_cache(tokens)
        _, other = model.run_with_cache(reference)
        with ablated(model, [(0, 1), (1, 0)], how):
            _, cache = model.run_with_cache(tokens)
    assert torch.equal(cache[names.z(0)][:, :, 0], clean[names.z(0)][:, :, 0])
    for layer, head in ((0, 1), (1, 0)):
        z = other[names.z(layer)][:, :, head]
        zero = torch.zeros_like(z)
        expected = [zero, z.mean((0, 1)).expand_as(z), z.mean(0).expand_as(z), z[[1, 2, 0]], zero][kind]
        assert (cache[names.z(layer)][:, :, head] - expected).abs().max() <= 1e-14
    moved = [(cache[names.pattern(layer)] - clean[names.pattern(layer)]).abs().max() for layer in range(3)]
    assert [move <= 1e-12 for move in moved] == [True, kind == 4, kind == 4]


def test_a_group_is_ablated_at_once():
    model, tokens = ours(), text()
    group = ablate(model, tokens, [(2, 1), (0, 0), (0, 0)], Zero())
    with ablated(model, [(0, 0)], Zero()):
        assert torch.equal(ablate(model, tokens, [(2, 1)], Zero()).after, group.after)
    means = ablate(model, tokens, [(0, 0), (2, 1)], Mean(tokens)).after
    with ablated(model, [(0, 0)], Mean(tokens)):  # the second mean is now taken in the ablated model
        assert (ablate(model, tokens, [(2, 1)], Mean(tokens)).after - means).abs().max() > 1e-6


def test_a_drawn_order_follows_its_generator_and_leaves_the_global_one():
    before = torch.get_rng_state()
    first, again = (Resample.drawn(text(batch=50), generator(3)).order for _ in range(2))
    assert torch.equal(first, again)
    assert sorted(first.tolist()) == list(range(50))
    assert not torch.equal(first, Resample.drawn(text(batch=50), generator(4)).order)
    assert torch.equal(torch.get_rng_state(), before)


# Any hooked model ---------------------------------------------------------------------------------


def test_zero_is_what_the_model_loses_with_the_rows_of_its_output_matrix(any_model):
    tokens, layer, head = text(), 1, 1
    found = ablate(any_model, tokens, [(layer, head)], Zero())
    d_head = any_model.blocks[layer].attn.W_O.shape[1]
    rows = slice(head * d_head, (head + 1) * d_head)
    stored = {name: p for name, p in any_model.named_parameters() if f".{layer}." in name and p.ndim > 1}
    with torch.no_grad():
        for name, weight in stored.items():
            if name.endswith("attn.W_O"):
                weight[head] = 0
            elif ".attn.o." in name:  # GPT-2 keeps (in, out)
                weight[rows] = 0
            elif ".o_proj." in name:  # Llama keeps (out, in)
                weight[:, rows] = 0
        assert any_model.blocks[layer].attn.W_O[head].abs().max() == 0
        losses = -any_model(tokens)[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    assert (found.after - losses).abs().max() <= 1e-5
    assert (found.before - losses).abs().max() > 1e-3


def test_forced_patterns_change_what_the_rest_of_the_model_says(any_model):
    tokens = text()
    kept, full = (ablate(any_model, tokens, [(0, 0), (0, 1)], how) for how in (PatternPreserving(tokens), Zero()))
    assert (kept.after - full.after)[:, 0].abs().max() <= 1e-6  # one key: its pattern is 1
    assert (kept.after - full.after).abs().max() > 1e-4
    _, clean = any_model.run_with_cache(tokens)
    with ablated(any_model, [(0, 0), (0, 1)], PatternPreserving(tokens)):
        _, cache = any_model.run_with_cache(tokens)
    assert (cache[names.pattern(1)] - clean[names.pattern(1)]).abs().max() <= 1e-6


def test_it_leaves_the_model_and_the_text_as_it_found_them(any_model):
    before, tokens = trace(any_model), text()
    for how in every_kind(tokens):
        first = ablate(any_model, tokens, [(0, 1)], how)
        assert same(before, trace(any_model))
        assert torch.equal(tokens, text())
        assert not first.after.requires_grad
        assert first.change.abs().max() > 1e-3
        assert torch.equal(first.after, ablate(any_model, tokens, [(0, 1)], how).after)


def test_hooks_are_gone_after_an_exception_and_those_of_others_stay(any_model):
    tokens, seen = text(), []
    point = next(m for m in any_model.modules() if isinstance(m, HookPoint))
    point.add_hook(lambda x, hook: seen.append(1))
    before = trace(any_model)
    with pytest.raises(KeyError), ablated(any_model, [(0, 0)], PatternPreserving(tokens)):
        raise KeyError
    assert same(before, trace(any_model))
    with pytest.raises(ProbeInputError, match="cannot be forced"):
        ablate(any_model, tokens[:, :5], [(0, 0)], PatternPreserving(tokens))
    assert same(before, trace(any_model))
    any_model.reset_hooks()


def test_what_others_have_seen_of_a_head_is_not_written_into():
    model, seen = ours(), []
    with model.hooks(fwd_hooks=[(names.z(0), lambda z, hook: seen.append(z))]):
        ablate(model, text(), [(0, 1)], Zero())
    assert len(seen) == 2  # without the head, and with it
    assert all(z[:, :, 1].abs().min() > 0 for z in seen)


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([(3, 0)], r"\(layer, head\) = \(3, 0\) .* layer must lie in \[0, 3\), head in \[0, 2\)"),
        ([(0, 0), (1, 2)], r"\(1, 2\) is not in the model"),
        ([(-1, 0)], r"\(-1, 0\) is not in the model"),
        ([], "heads is empty"),
    ],
)
def test_heads_that_are_not_there_are_refused_by_their_numbers(heads, message):
    with pytest.raises(ProbeInputError, match=message) as refusal:
        ablate(ours(), text(), heads, Zero())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (Mean(text(n=8), per_position=True), "the reference has 8 positions, the text 12"),
        (Resample(text(n=8), torch.arange(3)), "give 3 texts of 8 tokens, the model runs on 3 of 12"),
        (Resample(text(batch=4), torch.arange(4)), "give 4 texts of 12 tokens, the model runs on 3 of 12"),
        (PatternPreserving(text(batch=2)), "patterns of 2 texts of 12 tokens cannot be forced on 3 of 12"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused_by_its_size(how, message):
    with pytest.raises(ProbeInputError, match=message):
        ablate(ours(), text(), [(0, 0)], how)


def test_an_order_beyond_the_reference_and_targets_that_do_not_fit_are_refused():
    with pytest.raises(ProbeInputError, match=r"order names text 3: it must lie in \[0, 3\)"):
        Resample(text(), torch.tensor([0, 3]))
    with pytest.raises(ProbeInputError, match=r"targets have shape \(3, 11\)"):
        ablate(ours(), text(), [(0, 0)], Zero(), targets=text(n=11))


def test_a_text_of_another_vocabulary_is_refused_by_its_token(gpt2_directory):
    for model, d_vocab in ((ours(), 9), (toy_models.load(gpt2_directory), 23)):
        with pytest.raises(ProbeInputError, match=rf"token 999 must lie in \[0, {d_vocab}\)"):
            ablate(model, torch.tensor([[1, 999, 2]]), [(0, 0)], Zero())


def test_a_model_without_the_hook_is_refused_with_the_nearest_names():
    model = HandWritten()
    model.blocks[1].attn.hook_z = torch.nn.Identity()
    model.setup()
    with pytest.raises(
        ProbeInputError, match=r"no hook blocks\.1\.attn\.hook_z: the nearest are blocks\.0\.attn\.hook_z"
    ):
        ablate(model, text(), [(1, 0)], Zero())
