"""What the forward pass computes: the same numbers for the same seed, and the textbook's for every option."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from toy_models import Transformer, TransformerConfig, positions
from toy_models.positions.rope import Rope

CLOSE = {"rtol": 1e-10, "atol": 1e-11}  # float64 all through
SMALL = {"n_layers": 2, "n_heads": 2, "d_model": 12, "d_vocab": 9, "n_ctx": 16}
POSITIONS = list(positions.NAMES)


# Seeds ----------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(draw_tokens):
    config = TransformerConfig(**SMALL, gated_mlp=True)
    one, again, other = Transformer(config, seed=5), Transformer(config, seed=5), Transformer(config, seed=6)
    for (name, a), b, c in zip(one.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert torch.equal(a, c) == (".W_" not in name), name
    assert torch.equal(one(draw_tokens(2, 7)), again(draw_tokens(2, 7)))


def test_another_layer_changes_no_weight_of_the_first():
    shallow = Transformer(TransformerConfig(**{**SMALL, "n_layers": 1})).state_dict()
    deep = Transformer(TransformerConfig(**{**SMALL, "n_layers": 3})).state_dict()
    assert all(torch.equal(deep[name], value) for name, value in shallow.items())
    assert not torch.equal(deep["blocks.0.attn.W_Q"], deep["blocks.1.attn.W_Q"])


def test_weights_are_born_with_the_documented_spread():
    model = Transformer(TransformerConfig(**{**SMALL, "d_model": 64, "smeared_keys": True}))
    for name, weight in model.named_parameters():
        kind = name.rsplit(".", 1)[-1]
        if kind.startswith("W_"):
            std, n = 0.8 / 64**0.5, weight.numel()
            assert abs(weight.std().item() / std - 1) < 5 / (2 * n) ** 0.5, name  # five standard errors
            assert abs(weight.mean().item()) < 5 * std / n**0.5, name
        else:
            assert torch.equal(weight, torch.full_like(weight, float(kind == "w"))), name


def test_the_global_random_states_are_never_touched(draw_tokens):
    tokens = draw_tokens(2, 7)
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    model = Transformer(TransformerConfig(**SMALL, position="rope"), seed=3)
    model(tokens, return_type="loss").backward()
    model.run_with_cache(tokens)
    model.generate(tokens, 3)
    model.generate(tokens, 3, temperature=1.0, generator=torch.Generator().manual_seed(1))
    after = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    assert before[2] == after[2]


# Types ----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", ["LN", "RMS", None])
def test_every_dtype_runs_and_the_config_follows(draw_tokens, dtype, norm):
    tokens = draw_tokens(2, 7)
    born = Transformer(TransformerConfig(**SMALL, dtype=dtype, normalization_type=norm, position="rope"))
    moved = Transformer(TransformerConfig(**SMALL, normalization_type=norm, position="rope")).to(dtype)
    for model in (born, moved):
        assert model.cfg.dtype is dtype
        assert {p.dtype for p in model.parameters()} == {dtype}
        logits, loss = model(tokens, return_type="both")
        assert logits.dtype is dtype
        assert loss.dtype is torch.promote_types(dtype, torch.float32)
        assert model(tokens, stop_at_layer=1).dtype is dtype
    assert moved.double().cfg.dtype is torch.float64


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8])
def test_whole_numbers_of_every_width_are_the_same_tokens(perturbed, draw_tokens, dtype):
    model, tokens = perturbed(), draw_tokens(2, 7)
    expected = model(tokens, return_type="both")
    found = model(tokens.to(dtype), return_type="both")
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


# Entrances and exits --------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("position", POSITIONS)
def test_permuting_the_batch_permutes_the_output(perturbed, draw_tokens, position):
    model, tokens = perturbed(position=position), draw_tokens(4, 7)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(tokens[order]), model(tokens)[order], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("position", POSITIONS)
def test_a_residual_enters_in_place_of_the_embedding(perturbed, draw_tokens, position):
    model, tokens = perturbed(position=position), draw_tokens(2, 7)
    logits, loss = model(tokens, residual=model.W_E[tokens], return_type="both")
    assert torch.equal(logits, model(tokens))
    assert torch.equal(loss, model(tokens, return_type="loss"))
    cache = model.run_with_cache(residual=model.W_E[tokens])[1]
    assert torch.equal(cache["hook_embed"], model.W_E[tokens])


@torch.no_grad()
@pytest.mark.parametrize(("layer", "name"), [(0, "hook_embed"), (1, "blocks.1.hook_resid_pre")])
def test_a_hook_that_edits_in_place_spares_the_callers_residual(perturbed, layer, name):
    """TransformerLens's patches write in place; a stream that is run again must still be itself."""
    model, stream = perturbed(position="none"), torch.ones(2, 3, 12, dtype=torch.float64)
    model.run_with_hooks(residual=stream, start_at_layer=layer, fwd_hooks=[(name, lambda x, hook: x.zero_())])
    assert torch.equal(stream, torch.ones_like(stream))


@torch.no_grad()
@pytest.mark.parametrize("position", POSITIONS)
def test_two_spans_of_layers_compose_to_the_whole(perturbed, draw_tokens, position):
    model, tokens = perturbed(position=position, n_layers=3), draw_tokens(2, 7)
    cache = model.run_with_cache(tokens)[1]
    for layer in (1, 2):
        stream = model(tokens, stop_at_layer=layer)
        torch.testing.assert_close(stream, cache["resid_pre", layer], **CLOSE)
        assert torch.equal(model(tokens, stop_at_layer=layer - 3), stream)
        assert torch.equal(model(residual=stream, start_at_layer=layer), model(tokens))
    middle = model(residual=model(tokens, stop_at_layer=1), start_at_layer=1, stop_at_layer=2)
    torch.testing.assert_close(middle, cache["resid_pre", 2], **CLOSE)
    torch.testing.assert_close(model(tokens, stop_at_layer=3), cache["resid_post", 2], **CLOSE)
    assert model(tokens, return_type=None) is None


@torch.no_grad()
@pytest.mark.parametrize("options", [{"position": p} for p in POSITIONS] + [{"window": 3}, {"smeared_keys": True}])
def test_a_mask_and_offsets_undo_left_padding(perturbed, draw_tokens, options):
    model, tokens = perturbed(**options), draw_tokens(3, 9)
    pads = torch.tensor([0, 2, 5])
    mask = torch.arange(9)[None] >= pads[:, None]
    found = model(tokens, attention_mask=mask, position_offset=-pads)
    assert not found.isnan().any()
    for row, pad in enumerate(pads.tolist()):
        alone = model(tokens[row : row + 1, pad:])
        torch.testing.assert_close(found[row, pad:], alone[0], **CLOSE)


@torch.no_grad()
def test_the_loss_is_the_mean_over_real_next_tokens(perturbed, draw_tokens):
    model, tokens = perturbed(), draw_tokens(2, 7)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    right = model(tokens, attention_mask=mask).log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    per_token = model(tokens, attention_mask=mask, return_type="loss", loss_per_token=True)
    torch.testing.assert_close(per_token, -right, **CLOSE)
    loss = model(tokens, attention_mask=mask, return_type="loss")
    torch.testing.assert_close(loss, -(right[0].sum() + right[1, :3].sum()) / 9, **CLOSE)


def test_position_offsets_shift_the_positions(perturbed, draw_tokens):
    model, tokens = perturbed(), draw_tokens(2, 7)
    with torch.no_grad():
        code = model.run_with_cache(tokens, position_offset=3)[1]["hook_pos_embed"]
        torch.testing.assert_close(code, model.W_pos[3:10].expand(2, -1, -1), **CLOSE)
        relative = perturbed(position="rope")
        torch.testing.assert_close(relative(tokens, position_offset=3), relative(tokens), rtol=1e-9, atol=1e-10)


# The textbook ---------------------------------------------------------------------------------------


def normed(x, norm, eps):
    if norm.centred:
        return F.layer_norm(x, x.shape[-1:], norm.w, norm.b, eps)
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * norm.w


def attention(x, attn):
    """Head by head, row by row."""
    out = attn.b_O.expand(x.shape).clone()
    for head in range(attn.n_heads):
        q, k, v = (x @ getattr(attn, f"W_{n}")[head] + getattr(attn, f"b_{n}")[head] for n in "QKV")
        for row in range(x.shape[1]):
            weights = (torch.einsum("bd,bkd->bk", q[:, row], k[:, : row + 1]) / q.shape[-1] ** 0.5).softmax(-1)
            out[:, row] += torch.einsum("bk,bkd->bd", weights, v[:, : row + 1]) @ attn.W_O[head]
    return out


def mlp(x, m):
    """TransformerLens adds b_in after the gate."""
    if m.W_gate is None:
        return F.gelu(x @ m.W_in + m.b_in) @ m.W_out + m.b_out
    return (F.gelu(x @ m.W_gate) * (x @ m.W_in) + m.b_in) @ m.W_out + m.b_out


@torch.no_grad()
@pytest.mark.parametrize("norm", ["LN", "RMS"])
@pytest.mark.parametrize("place", ["pre", "post"])
@pytest.mark.parametrize("gated", [True, False])
def test_norm_placement_and_gates_are_the_textbooks(perturbed, draw_tokens, norm, place, gated):
    model = perturbed(normalization_type=norm, norm_position=place, gated_mlp=gated, eps=0.01)
    tokens = draw_tokens(2, 6)
    x = model.W_E[tokens] + model.W_pos[:6]
    for block in model.blocks:
        if place == "pre":
            x = x + attention(normed(x, block.ln1, 0.01), block.attn)
            x = x + mlp(normed(x, block.ln2, 0.01), block.mlp)
        else:
            x = normed(x + attention(x, block.attn), block.ln1, 0.01)
            x = normed(x + mlp(x, block.mlp), block.ln2, 0.01)
    if place == "pre":
        x = normed(x, model.ln_final, 0.01)
    torch.testing.assert_close(model(tokens), x @ model.W_U + model.b_U, **CLOSE)


@torch.no_grad()
def test_shortformer_positions_reach_queries_and_keys_alone(perturbed, draw_tokens):
    model, tokens = perturbed(position="shortformer"), draw_tokens(2, 6)
    cache = model.run_with_cache(tokens)[1]
    assert torch.equal(cache["resid_pre", 0], model.W_E[tokens])
    for layer, block in enumerate(model.blocks):
        plain = normed(cache["resid_pre", layer], block.ln1, model.cfg.eps)
        reads = {"q": plain + model.W_pos[:6], "k": plain + model.W_pos[:6], "v": plain}
        for letter, read in reads.items():
            weight, bias = (getattr(block.attn, f"{kind}_{letter.upper()}") for kind in "Wb")
            expected = torch.einsum("bpd,hde->bphe", read, weight) + bias
            torch.testing.assert_close(cache[letter, layer], expected, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize(("position", "kv_heads"), [("learned", 2), ("learned", 1), (Rope(base=50.0), 2)])
def test_smeared_keys_mix_with_their_predecessors(perturbed, draw_tokens, position, kv_heads):
    model = perturbed(smeared_keys=True, position=position, n_key_value_heads=kv_heads)
    cache = model.run_with_cache(draw_tokens(2, 6))[1]
    share = 1 / (1 + (-model.blocks[1].attn.smear).exp())
    k = cache["k", 1]
    smeared = k.clone()
    for j in range(1, 6):
        smeared[:, j] = share[:, None] * k[:, j] + (1 - share[:, None]) * k[:, j - 1]
    q = cache["q", 1]
    if position != "learned":
        rotate = model.pos_embed.rotation(torch.arange(6)[None])
        q, smeared = rotate(q), rotate(smeared)
        torch.testing.assert_close(cache["rot_k", 1], smeared, **CLOSE)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, smeared.repeat_interleave(2 // kv_heads, 2)) / 6**0.5
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    torch.testing.assert_close(cache["attn_scores", 1], scores.masked_fill(hidden, -torch.inf), **CLOSE)


@torch.no_grad()
def test_rope_turns_pairs_by_position_times_a_geometric_ladder(perturbed):
    """Coordinates c and c + d/2 are the real and the imaginary part of one number, turned by exp(i angle)."""
    code = perturbed(d_model=24, position=Rope(base=30.0, fraction=0.5)).pos_embed  # d_head 12, of which 6 turn
    x = torch.randn(1, 5, 2, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = code.rotation(torch.arange(5)[None])(x)
    for p in range(5):
        for c in range(3):
            turned = torch.complex(x[0, p, :, c], x[0, p, :, c + 3]) * np.exp(1j * p * 30.0 ** (-2 * c / 6))
            torch.testing.assert_close(found[0, p, :, c], turned.real, **CLOSE)
            torch.testing.assert_close(found[0, p, :, c + 3], turned.imag, **CLOSE)
    assert torch.equal(found[..., 6:], x[..., 6:])
