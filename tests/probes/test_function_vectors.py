import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_lens.hook_points import HookPoint

from probes import names
from probes.errors import ProbeInputError
from probes.function_vectors import _check, function_vectors
from tests.probes.models import HandWritten, ours, same, text, trace
from toy_models import Transformer, TransformerConfig, constructed
from toy_models.seeding import generator

FUNCTIONS, PROMPTS, TEXTS = 2, 3, 4


def case(seed: int = 0, n: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random prompts, texts and answers of two functions, in the vocabulary that every model here knows."""
    prompts = torch.randint(9, (FUNCTIONS, PROMPTS, n), generator=generator(seed, "prompts"))
    shuffled = torch.randint(9, (FUNCTIONS, TEXTS, n), generator=generator(seed, "shuffled"))
    return prompts, shuffled, torch.randint(9, (FUNCTIONS, TEXTS), generator=generator(seed, "answers"))


def by_hand(model, prompts, shuffled, answers, layer: int, head: int) -> tuple[list[float], list[float], list[float]]:
    """(effect, log effect, before) of each function, text by text."""
    effects, log_effects, befores = [], [], []
    for f in range(len(prompts)):
        said = [model.run_with_cache(one[None])[1][names.z(layer)][0, -1, head] for one in prompts[f]]
        mean = sum(said) / len(said)

        def put(z, hook, mean=mean):
            z = z.clone()
            z[0, -1, head] = mean
            return z

        gains, log_gains, before = [], [], []
        for one, answer in zip(shuffled[f], answers[f], strict=True):
            plain = model(one[None])[0, -1].double().log_softmax(-1)[answer].item()
            with model.hooks(fwd_hooks=[(names.z(layer), put)]):
                patched = model(one[None])[0, -1].double().log_softmax(-1)[answer].item()
            gains.append(math.exp(patched) - math.exp(plain))
            log_gains.append(patched - plain)
            before.append(math.exp(plain))
        for values, into in ((gains, effects), (log_gains, log_effects), (before, befores)):
            into.append(math.fsum(values) / len(values))
    return effects, log_effects, befores


# Calibration --------------------------------------------------------------------------------------


def test_a_head_that_says_which_tokens_it_sees_brings_the_function_along_as_the_closed_form_says():
    """Function f is the constant 3 + f: its examples are that token, and the shuffled ones are of others."""
    model, sharpness, n = constructed.uniform_head().double(), 20.0, 9
    with torch.no_grad():
        model.unembed.W_U *= sharpness
    prompts = torch.tensor([[[0, 1, 3, 2, 3, 1, 3, 2, 5]], [[0, 1, 4, 2, 4, 1, 4, 2, 5]]])
    shuffled = torch.tensor([[[0, 1, 6, 2, 7, 1, 8, 2, 5]] * 2] * 2)
    found = function_vectors(model, prompts, shuffled, torch.tensor([[3, 3], [4, 4]]))

    def probability(seen: list[int], answer: int) -> float:
        logits = [sharpness * seen.count(v) / n for v in range(16)]
        return math.exp(logits[answer]) / math.fsum(map(math.exp, logits))

    for f in range(2):
        proper, mixed = (probability(texts[f, 0].tolist(), 3 + f) for texts in (prompts, shuffled))
        assert proper > 0.5 > 5 * mixed
        assert found.effect[f, 0, 0].item() == pytest.approx(proper - mixed, abs=1e-12)
        assert found.log_effect[f, 0, 0].item() == pytest.approx(math.log(proper / mixed), abs=1e-12)
        assert found.before[f].item() == pytest.approx(mixed, abs=1e-12)


def test_in_one_layer_without_a_norm_logits_move_by_the_difference_times_the_output_circuit():
    model = ours(n_layers=1, d_mlp=0, normalization_type=None)
    prompts, shuffled, answers = case()
    found = function_vectors(model, prompts, shuffled, answers)
    with torch.no_grad():
        _, proper = model.run_with_cache(prompts.flatten(0, 1))
        logits, mixed = model.run_with_cache(shuffled.flatten(0, 1))
    mean = proper[names.z(0)][:, -1].reshape(FUNCTIONS, PROMPTS, 2, -1).mean(1)
    z = mixed[names.z(0)][:, -1].reshape(FUNCTIONS, TEXTS, 2, -1)
    before = logits[:, -1].reshape(FUNCTIONS, TEXTS, -1)
    for head in range(2):
        moved = before + (mean[:, None, head] - z[:, :, head]) @ model.blocks[0].attn.W_O[head] @ model.W_U
        gain = moved.log_softmax(-1) - before.log_softmax(-1)
        expected = gain.gather(-1, answers[..., None])[..., 0].mean(-1)
        assert expected.abs().max() > 1e-2
        assert (found.log_effect[:, 0, head] - expected).abs().max() <= 1e-12


def test_heads_that_write_nothing_or_always_the_same_carry_nothing():
    model = ours()
    with torch.no_grad():
        model.blocks[1].attn.W_O[1] = 0
        model.blocks[0].attn.W_V[0] = 0  # z is b_V wherever the head looks
    found = function_vectors(model, *case())
    for layer, head in ((1, 1), (0, 0)):
        assert found.log_effect[:, layer, head].abs().max() <= 1e-12
    assert found.log_effect[:, 1, 0].abs().min() > 1e-4


@given(seed=st.integers(0, 2**31))
@settings(max_examples=10)
def test_a_head_patched_with_its_own_output_changes_nothing(seed):
    prompts, _, answers = case(seed)
    found = function_vectors(ours(), prompts[:, :1], prompts[:, :1], answers[:, :1])
    assert found.log_effect.abs().max() <= 1e-12
    assert found.effect.shape == (FUNCTIONS, 3, 2)


# Agreement with the definition --------------------------------------------------------------------


def test_it_agrees_with_hooks_written_by_hand(any_model):
    inputs = case()
    found = function_vectors(any_model, *inputs)
    with torch.no_grad():
        for layer in range(any_model.cfg.n_layers):
            for head in range(any_model.cfg.n_heads):
                effect, log_effect, before = by_hand(any_model, *inputs, layer, head)
                assert found.effect[:, layer, head].tolist() == pytest.approx(effect, abs=1e-5)
                assert found.log_effect[:, layer, head].tolist() == pytest.approx(log_effect, abs=1e-5)
                assert found.before.tolist() == pytest.approx(before, abs=1e-5)
    assert found.score.shape == (any_model.cfg.n_layers, any_model.cfg.n_heads)
    assert found.log_effect.std() > 1e-4  # heads differ, so a mixed-up layer or head would show


@given(seed=st.integers(0, 2**31))
@settings(max_examples=10)
def test_the_order_of_texts_and_of_functions_does_not_matter(seed):
    model, (prompts, shuffled, answers) = ours(), case(seed)
    random = torch.Generator().manual_seed(seed)
    found = function_vectors(model, prompts, shuffled, answers)
    first, second = torch.randperm(PROMPTS, generator=random), torch.randperm(TEXTS, generator=random)
    again = function_vectors(model, prompts[:, first].flip(0), shuffled[:, second].flip(0), answers[:, second].flip(0))
    assert (again.effect.flip(0) - found.effect).abs().max() <= 1e-12
    assert (again.before.flip(0) - found.before).abs().max() <= 1e-12
    assert torch.allclose(again.score, found.score, atol=1e-12, rtol=0)


def test_prompts_may_be_longer_than_the_shuffled_texts():
    (prompts, _, _), (_, shuffled, answers) = case(n=12), case(n=5)
    found = function_vectors(ours(), prompts, shuffled, answers)
    effect, _, _ = by_hand(ours(), prompts, shuffled, answers, 2, 1)
    assert found.effect[:, 2, 1].tolist() == pytest.approx(effect, abs=1e-12)


def test_a_16_bit_model_is_read_in_float32():
    model = Transformer(TransformerConfig(n_layers=1, n_heads=2, d_model=8, d_vocab=9, n_ctx=8, dtype="bfloat16"))
    found = function_vectors(model, *case())
    assert found.effect.dtype == found.log_effect.dtype == found.before.dtype == torch.float32


# Traces and refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_it_leaves_the_model_and_what_it_was_given_as_they_were(any_model, training):
    any_model.train(training)
    inputs = case()
    before, copies, state = trace(any_model), [one.clone() for one in inputs], torch.get_rng_state()
    first = function_vectors(any_model, *inputs)
    assert same(before, trace(any_model))
    assert all(torch.equal(one, copy) for one, copy in zip(inputs, copies, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.effect, function_vectors(any_model, *inputs).effect)


def test_hooks_of_others_stay(any_model):
    seen = []
    next(m for m in any_model.modules() if isinstance(m, HookPoint)).add_hook(lambda x, hook: seen.append(1))
    function_vectors(any_model, *case())
    assert len(seen) >= 2 + any_model.cfg.n_layers * any_model.cfg.n_heads
    any_model.reset_hooks()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": text()}, r"prompts has shape \(3, 12\): give \(function, text, pos\)"),
        ({"answers": torch.zeros(2, 3, dtype=torch.long)}, r"answers \(2, 3\) must be of as many functions"),
        ({"prompts": case()[0][:1]}, r"prompts \(1, 3, 8\), shuffled \(2, 4, 8\)"),
        ({"shuffled": case()[1][:, :0]}, r"shuffled has shape \(2, 0, 8\): .* none of them 0"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_in_one_line(changes, message):
    inputs = {**dict(zip(("prompts", "shuffled", "answers"), case(), strict=True)), **changes}
    with pytest.raises(ProbeInputError, match=message) as refusal:
        _check(**inputs)  # the annotations, which the tests check as well, would refuse them first
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("which", range(3))
def test_tokens_of_another_vocabulary_are_refused_by_their_value(which):
    inputs = list(case())
    inputs[which][0, 0] = 999
    with pytest.raises(ProbeInputError, match=r"token 999 must lie in \[0, 9\), the vocabulary"):
        function_vectors(ours(), *inputs)


def test_a_model_without_the_hook_is_refused_with_the_nearest_names():
    model = HandWritten(d_vocab=9)
    model.blocks[1].attn.hook_z = torch.nn.Identity()
    model.setup()
    with pytest.raises(ProbeInputError, match=r"no hook blocks\.1\.attn\.hook_z: the nearest are blocks\.0"):
        function_vectors(model, *case())
