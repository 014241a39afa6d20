"""Views on weights: the same function, weights that are easier to read, and a refusal where it would be another."""

import pytest
import torch

from toy_models import positions
from toy_models.errors import ModelError
from toy_models.views import centre_writing_weights, fold_layer_norm

SAME = {"rtol": 1e-10, "atol": 1e-10}  # float64
ANY_NORM = {
    **{f"position {name}": {"position": name} for name in positions.NAMES if name != "shortformer"},
    "gqa": {"n_heads": 6, "n_key_value_heads": 2},
    "smeared keys": {"smeared_keys": True, "position": "rope"},
    "window": {"window": 3},
    "both ways": {"causal": False},
    "attention only": {"d_mlp": 0},
    "narrow unembed": {"d_vocab_out": 5},
    "large eps": {"eps": 0.3},
    "no layers": {"n_layers": 0},
}
LN = {f"LN, {name}": options for name, options in ANY_NORM.items()}
RMS = {f"RMS, {name}": {"normalization_type": "RMS", **options} for name, options in ANY_NORM.items()}
FOLDABLE = LN | RMS | {"RMS, gated": {"normalization_type": "RMS", "gated_mlp": True}}
CENTRABLE = LN | {"LN, gated": {"gated_mlp": True}, "LN, shortformer": {"position": "shortformer"}}
VIEWS = [(fold_layer_norm, name) for name in FOLDABLE] + [(centre_writing_weights, name) for name in CENTRABLE]


def norms(model):
    return [n for block in model.blocks for n in (block.ln1, getattr(block, "ln2", None)) if n] + [model.ln_final]


@torch.no_grad()
@pytest.mark.parametrize(("view", "case"), VIEWS, ids=lambda x: getattr(x, "__name__", x))
def test_a_view_computes_the_same_function_with_other_weights(perturbed, draw_tokens, view, case):
    model, tokens = perturbed(**(FOLDABLE | CENTRABLE)[case]), draw_tokens(3, 9)
    mask = torch.arange(9)[None] >= torch.tensor([0, 2, 4])[:, None]
    found = view(model)
    torch.testing.assert_close(found(tokens), model(tokens), **SAME)
    torch.testing.assert_close(found(tokens, attention_mask=mask), model(tokens, attention_mask=mask), **SAME)
    changed = [name for name, weight in model.state_dict().items() if not torch.equal(weight, found.state_dict()[name])]
    assert "unembed.W_U" in changed if view is fold_layer_norm else "embed.W_E" in changed


@pytest.mark.parametrize("view", [fold_layer_norm, centre_writing_weights])
def test_a_view_is_a_new_model_and_leaves_the_old_one_alone(perturbed, draw_tokens, view):
    model, tokens = perturbed(position="rope"), draw_tokens(2, 7)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.add_hook("blocks.0.hook_resid_pre", lambda x, hook: x * 0)
    found = view(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert found.cfg == model.cfg
    assert list(found.hook_dict) == list(model.hook_dict)
    assert not found.hook_dict["blocks.0.hook_resid_pre"].fwd_hooks  # what somebody added stays where it was added
    assert model.hook_dict["blocks.0.hook_resid_pre"].fwd_hooks
    own = {weight.data_ptr() for weight in model.parameters()}
    assert not own & {weight.data_ptr() for weight in found.parameters()}
    found(tokens, return_type="loss").backward()
    assert all(weight.grad is None for weight in model.parameters())
    assert found.embed.W_E.grad.abs().max() > 0


@torch.no_grad()
@pytest.mark.parametrize("case", FOLDABLE)
def test_folded_norms_are_neutral_and_what_reads_a_layer_norm_is_centred(perturbed, case):
    found = fold_layer_norm(perturbed(**FOLDABLE[case]))
    for norm in norms(found):
        assert torch.equal(norm.w, torch.ones_like(norm.w))
        assert not norm.centred or torch.equal(norm.b, torch.zeros_like(norm.b))
    if not found.cfg.final_rms:
        readers = [getattr(b.attn, name) for b in found.blocks for name in ("W_Q", "W_K", "W_V")] + [found.W_U]
        readers += [b.mlp.W_in for b in found.blocks if b.mlp]
        for weight in readers:
            assert weight.mean(-2).abs().max() < 1e-14


@torch.no_grad()
def test_folding_changes_no_activation_but_the_norms_own(perturbed, draw_tokens):
    model, tokens = perturbed(), draw_tokens(2, 7)
    before, after = model.run_with_cache(tokens)[1], fold_layer_norm(model).run_with_cache(tokens)[1]
    for name in before:
        if not name.endswith("hook_normalized"):
            torch.testing.assert_close(after[name], before[name], **SAME)
    assert after["blocks.1.ln1.hook_normalized"].mean(-1).abs().max() < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("norm", ["LN", "RMS"])
def test_the_folded_circuits_are_read_off_the_embedding(perturbed, draw_tokens, norm):
    """Layer 0 without positions: W_E W_Q W_K^T W_E^T over the two tokens' scales is the score, biases aside."""
    model, tokens = perturbed(position="none", normalization_type=norm), draw_tokens(2, 7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.rsplit(".", 1)[-1] in ("b", "b_Q", "b_K"):
                weight.zero_()
    cache, hidden = model.run_with_cache(tokens)[1], torch.ones(7, 7, dtype=torch.bool).triu(1)
    x = model.W_E[tokens] / cache["scale", 0, "ln1"]
    for view, agrees in ((fold_layer_norm(model), True), (model, False)):
        circuit = view.blocks[0].attn.QK.AB / model.cfg.attn_scale
        scores = torch.einsum("bqd,hde,bke->bhqk", x, circuit, x).masked_fill(hidden, -torch.inf)
        assert torch.allclose(scores, cache["attn_scores", 0], **SAME) == agrees


@torch.no_grad()
@pytest.mark.parametrize("case", [name for name in CENTRABLE if "sinusoidal" not in name])
def test_a_centred_stream_has_mean_zero_at_every_hook(perturbed, draw_tokens, case):
    model, tokens = perturbed(**CENTRABLE[case]), draw_tokens(2, 7)
    stream = ("hook_embed", "hook_pos_embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
    before, after = (m.run_with_cache(tokens)[1] for m in (model, centre_writing_weights(model)))
    for name in before:
        if name.endswith(stream):
            assert after[name].mean(-1).abs().max() < 1e-13, name
            torch.testing.assert_close(after[name], before[name] - before[name].mean(-1, keepdim=True), **SAME)
        elif "attn" in name or "mlp" in name or "ln" in name:
            torch.testing.assert_close(after[name], before[name], **SAME)


@torch.no_grad()
def test_views_compose_in_either_order_and_a_second_time_change_nothing(perturbed):
    model = perturbed()
    one = fold_layer_norm(centre_writing_weights(model)).state_dict()
    other = centre_writing_weights(fold_layer_norm(model)).state_dict()
    again = fold_layer_norm(centre_writing_weights(fold_layer_norm(centre_writing_weights(model)))).state_dict()
    for name in one:
        assert torch.equal(one[name], other[name])
        torch.testing.assert_close(again[name], one[name], rtol=0, atol=1e-14)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("view", [fold_layer_norm, centre_writing_weights])
def test_in_other_types_the_logits_agree_to_their_rounding(perturbed, draw_tokens, view, dtype):
    model, tokens = perturbed().to(dtype), draw_tokens(3, 9)
    found, expected = view(model), model(tokens)
    assert {weight.dtype for weight in found.parameters()} == {dtype}
    off = (found(tokens).double() - expected.double()).abs().max()
    assert off <= 64 * torch.finfo(dtype).eps * expected.double().abs().max()


def test_a_gated_mlp_folds_behind_a_layer_norm_without_bias(perturbed, draw_tokens):
    model, tokens = perturbed(gated_mlp=True), draw_tokens(2, 7)
    with torch.no_grad():
        for block in model.blocks:
            block.ln2.b.zero_()
        torch.testing.assert_close(fold_layer_norm(model)(tokens), model(tokens), **SAME)


@pytest.mark.parametrize(
    ("view", "options", "parts"),
    [
        (fold_layer_norm, {"normalization_type": None}, ["normalization_type=None"]),
        (fold_layer_norm, {"norm_position": "post"}, ["norm_position='post'", "'pre'"]),
        (fold_layer_norm, {"position": "shortformer"}, ["Shortformer", "W_pos after the norm"]),
        (fold_layer_norm, {"gated_mlp": True}, ["blocks.0.ln2.b", "gated"]),
        (centre_writing_weights, {"normalization_type": None}, ["normalization_type=None", "'LN'"]),
        (centre_writing_weights, {"normalization_type": "RMS"}, ["normalization_type='RMS'", "'LN'"]),
        (centre_writing_weights, {"norm_position": "post"}, ["norm_position='post'", "'pre'"]),
    ],
)
def test_a_view_that_would_change_the_function_is_refused_in_one_line(perturbed, view, options, parts):
    with pytest.raises(ModelError) as caught:
        view(perturbed(**options))
    message = str(caught.value)
    assert message.startswith(f"{view.__name__} does not apply: ")
    assert "\n" not in message
    assert all(part in message for part in parts)
