"""Gated attention: z * sigmoid(x W_gate + b_gate), per head and number, before W_O."""

import pytest
import torch

from tests.toy_models.test_learned_normalisers import PADDED
from toy_models import Transformer, TransformerConfig
from toy_models.errors import ModelError
from toy_models.hf.writing import to_hf
from toy_models.views import fold_layer_norm

SMALL = {"n_layers": 2, "n_heads": 2, "d_model": 8, "d_vocab": 9, "n_ctx": 12}


@pytest.mark.parametrize("options", [{}, {"n_heads": 6, "n_key_value_heads": 2}], ids=["", "GQA"])
@pytest.mark.parametrize("watched", [False, True], ids=["fused", "held"])
def test_a_head_hands_on_what_it_gathered_times_its_gate(options, watched, perturbed, draw_tokens):
    model, tokens = perturbed(gated_attention=True, **options), draw_tokens(2, 10)
    names = ["normalized", "v", "gate", "z", *(["pattern"] * watched)]
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith(tuple(f"hook_{n}" for n in names)))
    for layer in range(2):
        attn = model.blocks[layer].attn
        read = cache[f"blocks.{layer}.ln1.hook_normalized"]
        gate = torch.einsum("bpd,hde->bphe", read, attn.W_gate) + attn.b_gate
        torch.testing.assert_close(cache[f"blocks.{layer}.attn.hook_gate"], gate.sigmoid(), rtol=1e-12, atol=1e-14)
        if watched:
            v = cache["v", layer].repeat_interleave(attn.n_heads // attn.n_kv_heads, 2)
            gathered = torch.einsum("bhqk,bkhd->bqhd", cache["pattern", layer], v)
            torch.testing.assert_close(cache["z", layer], gathered * gate.sigmoid(), rtol=1e-12, atol=1e-14)


def test_a_gate_that_stands_open_or_shut_leaves_all_or_nothing(perturbed, draw_tokens):
    tokens = draw_tokens(2, 10)
    gated = perturbed(gated_attention=True)
    plain = Transformer(TransformerConfig(n_layers=2, n_heads=2, d_model=12, d_mlp=20, d_vocab=9, n_ctx=16,
                                          dtype="float64"))  # fmt: skip
    plain.load_state_dict(
        {name: w for name, w in gated.state_dict().items() if "attn" not in name or "gate" not in name}
    )
    with torch.no_grad():
        for block in gated.blocks:
            block.attn.W_gate.zero_()
            block.attn.b_gate.fill_(60.0)
    assert torch.equal(gated(tokens), plain(tokens))
    with torch.no_grad():
        for block in gated.blocks:
            block.attn.b_gate.fill_(-800.0)
    assert (gated.run_with_cache(tokens)[1]["z", 1] == 0).all()


def test_an_edit_of_the_gate_changes_what_the_head_writes(perturbed, draw_tokens):
    model, tokens = perturbed(gated_attention=True), draw_tokens(2, 10)

    def shut(gate, hook):
        gate[:, :, 1] = 0.0
        return gate

    def ablate(z, hook):
        z[:, :, 1] = 0.0
        return z

    by_gate = model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_gate", shut)])
    by_head = model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_z", ablate)])
    assert torch.equal(by_gate, by_head)
    assert not torch.equal(by_gate, model(tokens))


def test_without_the_option_there_is_neither_hook_nor_weight():
    plain, gated = (Transformer(TransformerConfig(**SMALL, gated_attention=on)) for on in (False, True))
    assert set(gated.hook_dict) - set(plain.hook_dict) == {f"blocks.{layer}.attn.hook_gate" for layer in range(2)}
    extra = {f"blocks.{layer}.attn.{w}_gate" for layer in range(2) for w in "Wb"}
    assert set(gated.state_dict()) - set(plain.state_dict()) == extra
    assert all(torch.equal(gated.state_dict()[name], weight) for name, weight in plain.state_dict().items())


def test_gated_models_generate_from_the_cache_what_they_write_without(perturbed, draw_tokens):
    model, tokens = perturbed(gated_attention=True), draw_tokens(2, 10)
    past = model.empty_cache()
    steps = [model(tokens[:, i : i + 1], past=past, attention_mask=PADDED[:, : i + 1]) for i in range(10)]
    torch.testing.assert_close(torch.cat(steps, 1), model(tokens, attention_mask=PADDED), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("norm", ["LN", "RMS"])
def test_folding_the_norm_reaches_the_gate(norm, perturbed, draw_tokens):
    model, tokens = perturbed(gated_attention=True, normalization_type=norm), draw_tokens(2, 10)
    torch.testing.assert_close(fold_layer_norm(model)(tokens), model(tokens), rtol=1e-9, atol=1e-11)


def test_a_hugging_face_directory_refuses_a_gate_by_name_even_one_of_zeros(tmp_path):
    model = Transformer(TransformerConfig(**SMALL, act_fn="gelu_new", gated_attention=True))
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_gate.zero_()
    with pytest.raises(ModelError, match="gated_attention=True must be False"):
        to_hf(model, tmp_path / "out")
