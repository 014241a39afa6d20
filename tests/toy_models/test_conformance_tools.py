"""TransformerLens's head detector, SVD interpreter and trainer, and the hooks inside attention."""

import pytest
import torch
from transformer_lens.head_detector import detect_head
from transformer_lens.SVDInterpreter import SVDInterpreter
from transformer_lens.tools.training import TrainConfig, train

from toy_models import Transformer, TransformerConfig, constructed

CLOSE = {"rtol": 1e-10, "atol": 1e-11}  # float64 all through


# Head detector --------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_previous_token_head_is_detected():
    model = constructed.previous_token_head(d_vocab=8, n_ctx=24)
    tokens = torch.arange(20) % 8
    scores = detect_head(model, tokens, "previous_token_head")
    assert scores.shape == (1, 1)
    # Every position but the first, which can only look at itself, spends its unit of attention one back.
    assert scores.item() == pytest.approx(19 / 20, abs=1e-3)
    assert detect_head(model, tokens, "previous_token_head", exclude_bos=True).item() == pytest.approx(1, abs=1e-3)
    assert detect_head(model, tokens, "induction_head").item() < 0.01


@torch.no_grad()
def test_the_duplicate_score_of_a_uniform_head_is_the_share_of_duplicates():
    model = constructed.uniform_head(d_vocab=8, n_ctx=24)
    tokens = torch.tensor([1, 2, 1, 2, 1, 3, 1])
    shares = [sum(a == b for b in tokens[:i].tolist()) / (i + 1) for i, a in enumerate(tokens.tolist())]
    found = detect_head(model, tokens, "duplicate_token_head").item()
    assert found == pytest.approx(sum(shares) / len(shares), abs=1e-6)
    alike = detect_head(model, torch.full((9,), 4), "duplicate_token_head", exclude_current_token=True)
    assert alike.item() == pytest.approx(1, abs=1e-6)


@torch.no_grad()
def test_the_induction_head_is_detected_in_layer_one():
    model = constructed.induction_circuit(d_vocab=8, n_ctx=32)
    period, n = 3, 31
    tokens = torch.tensor([0, *[5, 2, 7] * 10])
    scores = detect_head(model, tokens, "induction_head")
    assert scores.shape == (2, 1)
    # All positions but BOS and the first copy look only where the current token stood before, one further.
    assert scores[1, 0].item() == pytest.approx((n - 1 - period) / n, abs=1e-3)
    assert scores[0, 0].item() == pytest.approx(0, abs=1e-3)
    assert detect_head(model, tokens, "previous_token_head")[0, 0].item() == pytest.approx((n - 1) / n, abs=1e-3)
    only = detect_head(model, tokens, "induction_head", heads=[(1, 0)])
    assert only[0, 0] == -1
    assert only[1, 0] == scores[1, 0]


# SVD interpreter ------------------------------------------------------------------------------------


def assert_same_up_to_sign(found, expected):
    signs = (found * expected).sum(0).sign()
    torch.testing.assert_close(found, expected * signs, rtol=1e-8, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("norm", [None, "LN"])
def test_the_svd_interpreter_reads_the_mlp_through_its_gain(perturbed, norm):
    model = perturbed(normalization_type=norm)
    gain = model.blocks[1].ln2.w if norm else 1.0
    matrices = {"w_in": model.W_in[1].T * gain, "w_out": model.W_out[1]}
    for kind, matrix in matrices.items():
        found = SVDInterpreter(model).get_singular_vectors(kind, layer_index=1, num_vectors=4)
        assert found.shape == (model.cfg.d_vocab, 1, 4)
        right = torch.linalg.svd(matrix).Vh[:4]
        assert_same_up_to_sign(found[:, 0], model.W_U.T @ right.T)


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_the_svd_interpreter_reads_each_heads_output_circuit(perturbed, kv_heads):
    model = perturbed(n_heads=4, n_key_value_heads=kv_heads)
    for head in range(4):
        found = SVDInterpreter(model).get_singular_vectors("OV", layer_index=1, num_vectors=3, head_index=head)
        right = torch.linalg.svd(model.W_V[1, head // (4 // kv_heads)] @ model.W_O[1, head]).Vh[:3]
        assert found.shape == (model.cfg.d_vocab, 1, 3)
        assert_same_up_to_sign(found[:, 0], model.W_U.T @ right.T)


# Trainer --------------------------------------------------------------------------------------------


class OneSequence(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"tokens": torch.tensor([1, 5, 3, 8, 2, 7, 6, 4])}


def test_transformer_lens_trains_our_model(capsys):
    model = Transformer(TransformerConfig(n_layers=1, n_heads=2, d_model=12, d_vocab=9, n_ctx=8))
    tokens = OneSequence()[0]["tokens"][None]
    before = model(tokens, return_type="loss").item()
    with torch.random.fork_rng():  # the trainer seeds the global state
        trained = train(model, TrainConfig(num_epochs=8, batch_size=4, lr=0.02, device="cpu"), OneSequence())
    capsys.readouterr()
    after = trained(tokens, return_type="loss").item()
    assert trained is model
    assert after < 0.5 * before


# Hooks inside attention -----------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"window": 3}, {"causal": False}, {"n_heads": 4, "n_key_value_heads": 2}])
def test_the_hooked_scores_are_those_that_the_softmax_reads(perturbed, draw_tokens, options):
    model = perturbed(**options)
    cache = model.run_with_cache(draw_tokens(2, 7))[1]
    at = torch.arange(7)
    distance = at[:, None] - at[None, :]
    hidden = (distance < 0) & model.cfg.causal | (distance.abs() >= (options.get("window") or 99))
    for layer in range(2):
        scores = cache["attn_scores", layer]
        torch.testing.assert_close(scores.softmax(-1), cache["pattern", layer], **CLOSE)
        assert torch.equal(torch.isneginf(scores), hidden.expand_as(scores))
        k = cache["k", layer].repeat_interleave(model.cfg.n_heads // model.cfg.n_key_value_heads, 2)
        raw = torch.einsum("bqhd,bkhd->bhqk", cache["q", layer], k) / model.cfg.attn_scale
        torch.testing.assert_close(scores, raw.masked_fill(hidden, -torch.inf), **CLOSE)


@torch.no_grad()
def test_adding_to_the_scores_multiplies_the_odds(perturbed, draw_tokens):
    model, tokens = perturbed(), draw_tokens(2, 7)
    plain = model.run_with_cache(tokens)[1]

    def favour_key_2(scores, hook):
        scores = scores.clone()
        scores[:, 1, :, 2] += 1.5
        return scores

    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_attn_scores", favour_key_2)]):
        logits, edited = model.run_with_cache(tokens)
    factor = torch.ones(7, dtype=torch.float64)
    factor[2] = torch.tensor(1.5, dtype=torch.float64).exp()
    weighted = plain["pattern", 0][:, 1] * factor
    torch.testing.assert_close(edited["pattern", 0][:, 1], weighted / weighted.sum(-1, keepdim=True), **CLOSE)
    torch.testing.assert_close(edited["pattern", 0][:, 0], plain["pattern", 0][:, 0], **CLOSE)
    z = torch.einsum("bqk,bkd->bqd", edited["pattern", 0][:, 1], edited["v", 0][:, :, 1])
    torch.testing.assert_close(edited["z", 0][:, :, 1], z, **CLOSE)
    assert (logits - model(tokens)).abs().max() > 1e-3


@torch.no_grad()
def test_an_edited_pattern_is_the_one_that_mixes_the_values(perturbed, draw_tokens):
    model, tokens = perturbed(), draw_tokens(2, 7)

    def look_at_the_first(pattern, hook):
        first = torch.zeros_like(pattern)
        first[..., 0] = 1
        return first

    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_pattern", look_at_the_first)]):
        cache = model.run_with_cache(tokens)[1]
    torch.testing.assert_close(cache["z", 0], cache["v", 0][:, :1].expand_as(cache["z", 0]), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize(
    ("switch", "names"),
    [
        ("set_use_attn_result", ["attn.hook_result"]),
        ("set_use_split_qkv_input", [f"hook_{x}_input" for x in "qkv"] + [f"attn.hook_{x}_input" for x in "qkv"]),
    ],
)
def test_costly_activations_are_cached_by_name_or_when_switched_on(perturbed, draw_tokens, switch, names):
    model, tokens = perturbed(n_heads=4, n_key_value_heads=2), draw_tokens(2, 7)
    full = [f"blocks.{layer}.{name}" for layer in range(2) for name in names]
    assert not set(full) & set(model.run_with_cache(tokens)[1].keys())
    for name in full:
        heads = 2 if ("k_input" in name or "v_input" in name) else 4
        named = model.run_with_cache(tokens, names_filter=name)[1]
        assert named[name].shape == (2, 7, heads, model.cfg.d_model), name
    getattr(model, switch)(True)
    logits, cache = model.run_with_cache(tokens)
    assert set(full) <= set(cache.keys())
    torch.testing.assert_close(logits, model(tokens), **CLOSE)
    getattr(model, switch)(False)
    assert not set(full) & set(model.run_with_cache(tokens)[1].keys())


@torch.no_grad()
def test_head_results_are_each_heads_output_and_an_edit_reaches_the_stream(perturbed, draw_tokens):
    model, tokens = perturbed(), draw_tokens(2, 7)
    cache = model.run_with_cache(tokens, names_filter=lambda name: name.startswith("blocks.1"))[1]
    expected = torch.einsum("bphe,hed->bphd", cache["z", 1], model.W_O[1])
    torch.testing.assert_close(cache["result", 1], expected, **CLOSE)
    hook = ("blocks.1.attn.hook_result", lambda x, hook: 2 * x)
    with model.hooks(fwd_hooks=[hook]):
        doubled = model.run_with_cache(tokens)[1]
    bias = model.b_O[1]
    torch.testing.assert_close(doubled["attn_out", 1] - bias, 2 * (cache["attn_out", 1] - bias), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("where", ["blocks.1.hook_{}_input", "blocks.1.attn.hook_{}_input"])
@pytest.mark.parametrize("letter", ["q", "k", "v"])
@pytest.mark.parametrize("position", ["learned", "shortformer"])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_an_edit_of_one_heads_input_reaches_that_head_alone(perturbed, draw_tokens, where, letter, position, kv_heads):
    model, tokens = perturbed(n_heads=4, n_key_value_heads=kv_heads, position=position), draw_tokens(2, 7)
    plain = model.run_with_cache(tokens)[1]

    def shift(copies, hook):
        copies = copies.clone()
        copies[:, :, 1, 0] += 1
        return copies

    with model.hooks(fwd_hooks=[(where.format(letter), shift)]):
        edited = model.run_with_cache(tokens)[1]
    stream = plain["resid_pre", 1].clone()
    stream[..., 0] += 1
    read = model.blocks[1].ln1(stream)
    if position == "shortformer" and letter != "v":
        read = read + model.W_pos[:7]
    weight, bias = getattr(model, f"W_{letter.upper()}")[1, 1], getattr(model, f"b_{letter.upper()}")[1, 1]
    torch.testing.assert_close(edited[letter, 1][:, :, 1], read @ weight + bias, **CLOSE)
    for other in "qkv":
        heads = [h for h in range(plain[other, 1].shape[2]) if (other, h) != (letter, 1)]
        torch.testing.assert_close(edited[other, 1][:, :, heads], plain[other, 1][:, :, heads], **CLOSE)
