"""Options that came with real checkpoints: each against its definition, worked out beside the model."""

import copy

import pytest
import torch

from toy_models import Transformer, TransformerConfig
from toy_models.canonical import digest, plain
from toy_models.errors import ConfigError, InputError
from toy_models.positions.rope import Rope
from toy_models.views import centre_writing_weights, fold_layer_norm

EXACT = {"rtol": 0, "atol": 1e-12}  # float64
RMS = {"normalization_type": "RMS"}
GEMMA = {
    **{**RMS, "rmsnorm_uses_offset": True, "use_normalization_before_and_after": True, "use_qk_norm": True},
    **{"attn_scores_soft_cap": 0.7, "output_logits_soft_cap": 2.0, "embed_scale": 3.5, "tie_word_embeddings": True},
    **{"window": (3, None), "position": Rope(local_base=50.0)},
}


def rms_normalised(x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


@torch.no_grad()
def test_in_parallel_attention_and_mlp_read_the_same_stream(perturbed, draw_tokens):
    model = perturbed(parallel_attn_mlp=True)
    _, cache = model.run_with_cache(draw_tokens(2, 9))
    for layer, block in enumerate(model.blocks):
        before = cache["resid_pre", layer]
        torch.testing.assert_close(cache["mlp_out", layer], block.mlp(block.ln2(before)), **EXACT)
        after = before + cache["attn_out", layer] + cache["mlp_out", layer]
        torch.testing.assert_close(cache["resid_post", layer], after, **EXACT)
        assert f"blocks.{layer}.hook_resid_mid" not in model.hook_dict


@torch.no_grad()
def test_scores_are_those_of_normalised_queries_and_keys(perturbed, draw_tokens):
    model = perturbed(use_qk_norm=True, n_key_value_heads=1)
    _, cache = model.run_with_cache(draw_tokens(2, 9))
    attn = model.blocks[1].attn
    q = rms_normalised(cache["q", 1]) * attn.q_norm.w
    k = rms_normalised(cache["k", 1]) * attn.k_norm.w
    wanted = torch.einsum("bqhd,bkd->bhqk", q, k[:, :, 0]) / model.cfg.attn_scale
    seen = torch.ones(9, 9).tril().bool()
    torch.testing.assert_close(cache["attn_scores", 1][..., seen], wanted[..., seen], **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["auto", "reference"])
def test_capped_scores_are_a_tanh_of_the_scores(perturbed, draw_tokens, attention):
    tokens, cap = draw_tokens(2, 9), 0.3
    free, capped = (perturbed(attn_scores_soft_cap=c, attention=attention) for c in (None, cap))
    (_, was), (_, now) = (model.run_with_cache(tokens) for model in (free, capped))
    seen = torch.ones(9, 9).tril().bool()
    wanted = cap * torch.tanh(was["attn_scores", 0] / cap)
    torch.testing.assert_close(now["attn_scores", 0][..., seen], wanted[..., seen], **EXACT)
    pattern = capped.run_with_cache(tokens)[1]["pattern", 0]
    rows = capped.attention_statistics(tokens)[0]
    torch.testing.assert_close(rows.peak, pattern.amax(-1), **EXACT)
    free.set_attention("reference")
    assert not torch.allclose(capped(tokens), free(tokens))


@torch.no_grad()
def test_a_cap_needs_no_pattern_in_memory(perturbed, draw_tokens):
    fused, held = (perturbed(attn_scores_soft_cap=0.3, attention=a) for a in ("auto", "reference"))
    torch.testing.assert_close(fused(draw_tokens(2, 9)), held(draw_tokens(2, 9)), **EXACT)
    assert held.backends == ("reference", "reference")
    assert "reference" not in fused.backends


@torch.no_grad()
def test_capped_logits_are_a_tanh_of_the_logits(perturbed, draw_tokens):
    tokens = draw_tokens(2, 9)
    wanted = 0.8 * torch.tanh(perturbed()(tokens) / 0.8)
    torch.testing.assert_close(perturbed(output_logits_soft_cap=0.8)(tokens), wanted, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["LN", "RMS"])
def test_what_layers_write_is_normalised_before_it_is_added(perturbed, draw_tokens, norm):
    model = perturbed(normalization_type=norm, use_normalization_before_and_after=True)
    names = [f"blocks.{layer}.{part}" for layer in (0, 1) for part in ("attn.hook_z", "hook_resid_mid")]
    _, cache = model.run_with_cache(draw_tokens(2, 9))
    assert set(names) <= set(cache)
    for layer, block in enumerate(model.blocks):
        written = torch.einsum("bphe,hed->bpd", cache["z", layer], block.attn.W_O) + block.attn.b_O
        torch.testing.assert_close(cache["attn_out", layer], block.ln1_post(written), **EXACT)
        written = block.mlp(block.ln2(cache["resid_mid", layer]))
        torch.testing.assert_close(cache["mlp_out", layer], block.ln2_post(written), **EXACT)
        torch.testing.assert_close(
            cache["resid_post", layer], cache["resid_mid", layer] + cache["mlp_out", layer], **EXACT
        )


@torch.no_grad()
def test_a_gain_of_one_plus_w_is_a_gain(perturbed, draw_tokens):
    options = {**RMS, "use_qk_norm": True, "use_normalization_before_and_after": True}
    offset, plain_gain = (perturbed(**options, rmsnorm_uses_offset=o) for o in (True, False))
    plain_gain.load_state_dict({n: w + 1 if n.endswith(".w") else w for n, w in offset.state_dict().items()})
    torch.testing.assert_close(offset(draw_tokens(2, 9)), plain_gain(draw_tokens(2, 9)), **EXACT)
    assert {n for n, _ in offset.named_parameters() if n.endswith(".w")} >= {"ln_final.w", "blocks.0.attn.q_norm.w"}


def test_gains_are_born_one_also_where_they_are_one_plus_w():
    for name, weight in Transformer(TransformerConfig(**SIZE, **GEMMA)).named_parameters():
        if name.endswith(".w"):
            assert torch.equal(weight, torch.zeros_like(weight)), name


@torch.no_grad()
def test_the_embedding_is_scaled_and_a_residual_is_not(perturbed, draw_tokens):
    model, tokens = perturbed(embed_scale=3.0), draw_tokens(2, 9)
    _, cache = model.run_with_cache(tokens)
    torch.testing.assert_close(cache["hook_embed"], 3 * model.W_E[tokens], **EXACT)
    torch.testing.assert_close(model(residual=3 * model.W_E[tokens]), model(tokens), **EXACT)


@torch.no_grad()
def test_each_layer_has_its_window(perturbed, draw_tokens):
    model, tokens = perturbed(window=(3, None)), draw_tokens(2, 9)
    _, cache = model.run_with_cache(tokens)
    far = torch.ones(9, 9).tril(-3).bool()
    assert (cache["pattern", 0][..., far] == 0).all()
    assert (cache["pattern", 1][..., far] > 0).all()
    torch.testing.assert_close(perturbed(window=(3, 3))(tokens), perturbed(window=3)(tokens), **EXACT)
    past = model.empty_cache()
    pieces = torch.cat([model(piece, past=past) for piece in tokens.split([5, 1, 3], dim=1)], dim=1)
    torch.testing.assert_close(pieces, model(tokens), **EXACT)


@torch.no_grad()
def test_layers_with_a_window_turn_at_a_base_of_their_own(perturbed, draw_tokens):
    tokens = draw_tokens(2, 9)
    both = perturbed(window=(3, None), position=Rope(base=700.0, local_base=7.0)).run_with_cache(tokens)[1]
    local, whole = (
        perturbed(window=(3, None), position=Rope(base=base)).run_with_cache(tokens)[1] for base in (7.0, 700.0)
    )
    assert torch.equal(both["pattern", 0], local["pattern", 0])
    assert not torch.allclose(both["pattern", 0], whole["pattern", 0])
    for name in ("hook_rot_q", "hook_rot_k"):  # of the second layer, by the norms that rotation keeps
        name = f"blocks.1.attn.{name}"
        assert not torch.allclose(both[name], local[name])
    q = both["q", 1]
    angle = torch.arange(9, dtype=torch.float64)[:, None] * 700.0 ** -(torch.arange(3, dtype=torch.float64) / 3)
    cos, sin = angle.cos()[None, :, None], angle.sin()[None, :, None]
    turned = torch.cat([q[..., :3] * cos - q[..., 3:] * sin, q[..., 3:] * cos + q[..., :3] * sin], dim=-1)
    torch.testing.assert_close(both["blocks.1.attn.hook_rot_q"], turned, **EXACT)


@torch.no_grad()
def test_the_bias_that_tools_take_off_is_what_the_stream_holds(perturbed):
    model = perturbed(parallel_attn_mlp=True)
    assert torch.equal(model.accumulated_bias(1, mlp_input=True), model.accumulated_bias(1))
    with pytest.raises(InputError, match="use_normalization_before_and_after=True: biases are not summed"):
        perturbed(use_normalization_before_and_after=True).accumulated_bias(1)


# Tied embeddings ----------------------------------------------------------------------------------

SIZE = {"n_layers": 2, "n_heads": 2, "d_model": 12, "d_vocab": 9, "n_ctx": 16}


@pytest.fixture
def tied(perturbed) -> Transformer:
    """A model whose unembedding is its embedding."""
    return perturbed(tie_word_embeddings=True)


@pytest.mark.parametrize("become", [lambda m: m, lambda m: m.float(), lambda m: m.to(torch.bfloat16), copy.deepcopy])
def test_a_tied_unembedding_is_a_view_of_the_embedding_whatever_the_model_becomes(tied, become):
    model = become(tied)
    assert model.W_U.data_ptr() == model.W_E.data_ptr()
    assert torch.equal(model.W_U, model.W_E.T)
    assert "unembed.W_U" not in model.state_dict()
    assert sum(weight.numel() for weight in model.parameters()) == sum(w.numel() for w in model.state_dict().values())
    if model is not tied:
        assert model.unembed.W_U.dtype == model.cfg.dtype


def test_the_gradient_of_a_tied_embedding_is_the_sum_of_both(tied, perturbed, draw_tokens):
    loose = perturbed()
    loose.load_state_dict({**tied.state_dict(), "unembed.W_U": tied.W_U.detach()})
    for model in (tied, loose):
        model(draw_tokens(2, 9), return_type="loss").backward()
    both = loose.embed.W_E.grad + loose.unembed.W_U.grad.T
    torch.testing.assert_close(tied.embed.W_E.grad, both, **EXACT)
    torch.optim.SGD(tied.parameters(), lr=1.0).step()
    assert torch.equal(tied.W_U, tied.W_E.T)


@torch.no_grad()
@pytest.mark.parametrize("view", [fold_layer_norm, centre_writing_weights])
def test_a_view_unties_what_it_changes_differently(tied, draw_tokens, view):
    found = view(tied)
    torch.testing.assert_close(found(draw_tokens(2, 9)), tied(draw_tokens(2, 9)), rtol=1e-10, atol=1e-10)
    assert not found.cfg.tie_word_embeddings
    assert not torch.allclose(found.W_U, found.W_E.T)


@torch.no_grad()
@pytest.mark.parametrize("options", [GEMMA, {"parallel_attn_mlp": True, "position": "rope", "use_qk_norm": True}])
def test_folding_the_norms_keeps_the_function(perturbed, draw_tokens, options):
    model = perturbed(**options)
    torch.testing.assert_close(fold_layer_norm(model)(draw_tokens(2, 9)), model(draw_tokens(2, 9)), rtol=0, atol=1e-10)


# Refusals -----------------------------------------------------------------------------------------

REFUSED = [
    ({"parallel_attn_mlp": True, "d_mlp": 0}, "parallel_attn_mlp=True needs an MLP"),
    ({"parallel_attn_mlp": True, "norm_position": "post"}, "parallel_attn_mlp=True needs norm_position='pre'"),
    ({"use_normalization_before_and_after": True, "norm_position": "post"}, "needs norm_position='pre', not 'post'"),
    ({"use_normalization_before_and_after": True, "normalization_type": None}, "needs normalization_type 'LN' or"),
    ({"rmsnorm_uses_offset": True}, "rmsnorm_uses_offset=True needs normalization_type='RMS', not 'LN'"),
    ({"tie_word_embeddings": True, "d_vocab_out": 4}, "d_vocab_out=4 to equal d_vocab=9"),
    ({"attn_scores_soft_cap": 0.0}, "attn_scores_soft_cap=0.0 must be positive"),
    ({"output_logits_soft_cap": -1.0}, "output_logits_soft_cap=-1.0 must be positive"),
    ({"embed_scale": float("inf")}, "embed_scale=inf must be positive and finite"),
    ({"window": (3,)}, "window=(3,) has 1 entries: give one for each of n_layers=2"),
    ({"window": (3, 0)}, "window=(3, 0) must be a whole number of at least 1, None, or one of these per layer"),
    ({"position": Rope(local_base=5.0)}, "local_base=5.0 is for layers with a window"),
    ({"position": Rope(local_base=-5.0), "window": 3}, "rope needs local_base > 0, not -5.0"),
]


@pytest.mark.parametrize(("options", "told"), REFUSED, ids=[str(options) for options, _ in REFUSED])
def test_what_cannot_work_is_refused_with_its_values(options, told):
    with pytest.raises(ConfigError) as caught:
        TransformerConfig(**{**SIZE, **options})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_option_that_came_later_is_written_down_only_where_it_is_used():
    bare = TransformerConfig(**SIZE, position="rope")
    assert not {*GEMMA, "local_base", "scaling"} & {*plain(bare), *plain(bare)["position"]} - {
        *RMS,
        "window",
        "position",
    }
    assert {"embed_scale", "use_qk_norm"} <= set(plain(TransformerConfig(**SIZE, **GEMMA)))
    assert digest(bare) != digest(TransformerConfig(**SIZE, position="rope", use_qk_norm=True))
