import time
from functools import partial
from itertools import product

import pytest
import torch
from transformer_lens import patching as lens_patching

from probes.contrast import logit_difference
from probes.patching import SITES, WHOLE, attribution_patch, patch
from tests.probes.clean_and_corrupt import CHANGED, MODELS, N_POS, case, induction_case, perturbed
from toy_models import Transformer, TransformerConfig
from toy_models.constructed import SHARPNESS
from toy_models.positions import NAMES

EXACT = {"rtol": 0.0, "atol": 1e-10}  # float64, values of order 1
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # float32
BY_POSITION = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
POSITIONS = {name: {"position": name} for name in NAMES}  # a code added later comes in by itself


def naive(one, site: str, positions=range(N_POS)) -> torch.Tensor:
    """One whole pass per patch."""
    layers = []
    for layer in range(one.model.cfg.n_layers):
        name = f"blocks.{layer}.{SITES[site].hook}"
        value = one.activation(one.clean, name)
        everywhere, heads = slice(None), range(value.shape[1 if site == "pattern" else 2])
        if site in BY_POSITION:
            indices = [(p,) for p in positions]
        elif site == "z":
            indices = list(product(positions, heads))
        else:
            indices = [(h,) if site == "pattern" else (everywhere, h) for h in heads]
        found = [one.by_hand({name: (index, value[(everywhere, *index)])}) for index in indices]
        shape = (len(positions), len(heads)) if site == "z" else (len(indices),)
        layers.append(torch.stack(found, 1).unflatten(1, shape))
    return torch.stack(layers, 1)


def sites_of(model) -> list[str]:
    return [site for site in SITES if f"blocks.0.{SITES[site].hook}" in model.hook_dict]


# Calibration on a circuit that is known -----------------------------------------------------------


@pytest.mark.parametrize(
    ("measure", "share"),
    # The corrupted query attends to n keys alike: the slope of its softmax there promises sharpness / n.
    [(patch, 1), (attribution_patch, SHARPNESS / N_POS)],
)
def test_the_previous_token_head_restores_the_answer_where_it_wrote_and_nowhere_else(measure, share):
    found = measure(*induction_case().inputs)
    assert abs(found.recovery[0, 2, 0] - share) < 1e-3
    assert found.recovery[0, [0, 1, 3, 4, 5], 0].abs().max() < 1e-3
    assert found.clean.item() > 10
    assert abs(found.corrupt.item()) < 1e-3


def test_the_last_position_of_the_induction_head_carries_the_answer():
    found = patch(*induction_case().inputs)
    assert abs(found.recovery[1, 5, 0] - 1) < 1e-3
    assert found.recovery[1, :5].abs().max() < 1e-6
    assert (patch(*induction_case().inputs, site="head").recovery[:, 0] - 1).abs().max() < 1e-3
    found = patch(*induction_case().inputs, site="pattern")
    assert found.recovery[0].abs().max() < 1e-3  # layer 0 looks back in both texts
    assert abs(found.recovery[1, 0] - 1) < 1e-3


def test_the_stream_carries_the_answer_from_the_token_to_the_one_after_it_to_the_end():
    found = patch(*induction_case().inputs, site="resid_pre").recovery
    assert torch.equal(found[0], torch.eye(6)[CHANGED])
    torch.testing.assert_close(found[1], torch.eye(6)[2], rtol=0, atol=1e-3)


# Agreement with one whole pass per patch ----------------------------------------------------------


@pytest.mark.parametrize("options", [*MODELS.values(), *POSITIONS.values()], ids=[*MODELS, *POSITIONS])
def test_every_patch_equals_the_patch_by_hand(options):
    one = case(perturbed(**options))
    some = [1, 4]  # by hand; the other positions run in the same batches
    for site in sites_of(one.model):
        found = patch(*one.inputs, site=site)
        assert found.reused is options.get("causal", True)
        effect = found.effect[:, :, some] if site not in WHOLE else found.effect
        torch.testing.assert_close(effect, naive(one, site, some), **EXACT)
        assert (found.effect - found.corrupt.reshape(2, *[1] * (found.effect.ndim - 1))).abs().max() > 1e-3


def test_the_metric_sees_the_logits_of_the_whole_text():
    one = case(perturbed())
    metric = lambda logits: logits.pow(2).mean((1, 2)) + logits[:, 0, 0]  # noqa: E731
    one = type(one)(one.model, one.clean, one.corrupt, metric)
    torch.testing.assert_close(patch(*one.inputs).effect, naive(one, "z"), **EXACT)


@pytest.mark.parametrize("budget", [1, 40, 10**6])
def test_the_size_of_a_batch_changes_nothing(monkeypatch, budget):
    one = case(perturbed())
    monkeypatch.setattr("probes.patching.TOKENS_PER_PASS", budget)
    for site in ("z", "head", "resid_pre"):
        torch.testing.assert_close(patch(*one.inputs, site=site).effect, naive(one, site), **EXACT)


@pytest.mark.parametrize("positions", [range(-3, 0), [4, 1], (5,)])
@pytest.mark.parametrize("site", ["z", "resid_pre", "mlp_out"])
def test_chosen_positions_come_in_the_order_asked_for(site, positions):
    one = case(perturbed())
    every = patch(*one.inputs, site=site)
    some = patch(*one.inputs, site=site, positions=positions)
    torch.testing.assert_close(some.effect, every.effect[:, :, list(positions)], **EXACT)
    torch.testing.assert_close(some.recovery, every.recovery[:, list(positions)], **EXACT)


@pytest.mark.parametrize("site", ["z", "pattern", "resid_pre"])
def test_any_hooked_model_gives_the_same_numbers_as_by_hand(any_model, site):
    one = case(any_model)
    found = patch(*one.inputs, site=site)
    assert found.reused is isinstance(any_model, Transformer)
    torch.testing.assert_close(found.effect, naive(one, site), **CLOSE)
    assert (found.recovery - found.recovery.flatten()[0]).abs().max() > 1e-3


def test_with_the_hooks_of_others_whole_texts_run_and_their_edits_count():
    one = case(perturbed())
    with one.model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", lambda x, hook: x * (torch.arange(6) != 4)[:, None])]):
        found = patch(*one.inputs)
        expected = naive(one, "z")
    assert not found.reused
    torch.testing.assert_close(found.effect, expected, **EXACT)
    assert (patch(*one.inputs).effect - expected).abs().max() > 1e-3


def test_it_agrees_with_the_patching_of_transformer_lens():
    one = case(perturbed())
    _, cache = one.model.run_with_cache(one.clean)
    theirs = lens_patching.get_act_patch_attn_head_out_by_pos(
        one.model, one.corrupt, cache, lambda logits: one.metric(logits).mean()
    )
    torch.testing.assert_close(patch(*one.inputs).effect.mean(0).float(), theirs, rtol=1e-6, atol=1e-6)


def test_recovery_is_a_share_of_means():
    found = patch(*case(perturbed()).inputs)
    share = (found.effect.mean(0) - found.corrupt.mean()) / (found.clean.mean() - found.corrupt.mean())
    torch.testing.assert_close(found.recovery, share)
    assert found.effect.shape == (2, 3, N_POS, 2)


def test_patches_that_reuse_what_they_leave_alone_are_faster():
    """Some tenfold at this size; the bound leaves room for a busy machine."""
    model = Transformer(TransformerConfig(n_layers=4, n_heads=4, d_model=64, d_vocab=32, n_ctx=64))
    tokens = torch.randint(32, (1, 64), generator=torch.Generator().manual_seed(0))
    corrupt = tokens.roll(1, 1)
    texts = (tokens, corrupt, partial(logit_difference, correct=1, wrong=2))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.process_time()
        fast = patch(model, *texts, positions=range(-16, 0))
        between = time.process_time()
        slow = naive(type(case(model))(model, *texts), "z", range(48, 64))
        ratio = (time.process_time() - between) / (between - start)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(fast.effect, slow, **CLOSE)
    assert ratio > 2, ratio


# Attribution patching -----------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
def test_the_estimate_is_exact_in_the_last_layer_of_a_model_without_norms(site):
    one = case(perturbed(normalization_type=None, act_fn="relu"))
    # The MLP of the last layer is not linear: take it out of the way.
    one.model.blocks[-1].mlp.W_in.data.zero_()
    found, exact = attribution_patch(*one.inputs, site=site), patch(*one.inputs, site=site)
    if site == "resid_pre":  # before attention
        assert (found.effect[:, -1] - exact.effect[:, -1]).abs().max() > 1e-6
    else:
        torch.testing.assert_close(found.effect[:, -1], exact.effect[:, -1], **EXACT)
    assert found.effect.shape == exact.effect.shape
    torch.testing.assert_close((found.clean, found.corrupt), (exact.clean, exact.corrupt), **EXACT)


@pytest.mark.parametrize("site", ["z", "resid_post"])
def test_the_error_of_the_estimate_shrinks_with_the_square_of_the_change(site):
    """Texts as near as one likes: the embedding of the changed token is mixed with the other's."""
    model = perturbed()
    one = case(model)
    token = one.corrupt[0, CHANGED].item()
    other, start = (token + 1) % 9, model.W_E[token].clone()
    errors = []
    for step in (1e-2, 1e-3):
        with torch.no_grad():
            model.W_E[other] = start + step * torch.linspace(-1, 1, 12) ** 3
        texts = one.corrupt[:1].clone(), one.corrupt[:1]
        texts[0][:, CHANGED] = other
        metric = partial(logit_difference, correct=4, wrong=6)
        found, exact = (measure(model, *texts, metric, site=site) for measure in (attribution_patch, patch))
        errors.append((found.effect - exact.effect).abs().max().item())
    assert errors[1] < errors[0] / 50  # 100 for a second-order error
    assert errors[1] > 0


def test_the_estimate_needs_no_gradient_of_the_weights(any_model):
    one = case(any_model)
    with torch.no_grad():
        expected = attribution_patch(*one.inputs)
    any_model.requires_grad_(False)
    found = attribution_patch(*one.inputs)
    torch.testing.assert_close(found.effect, expected.effect)
    assert not found.effect.requires_grad
    exact = patch(*one.inputs).effect
    related = torch.corrcoef(torch.stack([found.effect.flatten(), exact.flatten()]).double())
    assert related[0, 1] > 0.8
