import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

import toy_models
from probes.errors import ProbeInputError
from probes.weights import check_head, embedding, final_gain, folded, head_weights, norm_gain, unembedding
from toy_models import Transformer, TransformerConfig
from toy_models.seeding import generator

MATRICES, BIASES = ("W_Q", "W_K", "W_V", "W_O"), ("b_Q", "b_K", "b_V", "b_O")


def ours(**options) -> Transformer:
    """Four heads that share two key-value heads, float64, no two parameters alike."""
    size = {"n_layers": 2, "n_heads": 4, "n_key_value_heads": 2, "d_model": 12, "d_vocab": 9, "n_ctx": 16}
    model = Transformer(TransformerConfig(**{**size, "dtype": "float64", **options}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator(0, name), dtype=torch.float64))
    return model


class HandWritten(HookedRootModule):
    """Somebody else's weights under TransformerLens's names, one head, and no biases anywhere."""

    def __init__(self, norm: nn.Module | None = None, **cfg):
        super().__init__()
        self.cfg = SimpleNamespace(n_layers=1, **cfg)

        def part(**shapes):
            holder = nn.Module()
            for name, shape in shapes.items():
                setattr(holder, name, nn.Parameter(torch.randn(shape, generator=generator(1, name))))
            return holder

        self.embed, self.unembed = part(W_E=(5, 6)), part(W_U=(6, 5))
        attn = part(W_Q=(1, 6, 3), W_K=(1, 6, 3), W_V=(1, 6, 3), W_O=(1, 3, 6))
        self.blocks = nn.ModuleList([nn.ModuleDict({"attn": attn} | ({"ln1": norm} if norm else {}))])
        self.setup()


@pytest.fixture(params=["LN", "RMS", "none", "bridge-gpt2", "bridge-llama"])
def model(request):
    if request.param in ("LN", "RMS", "none"):
        return ours(normalization_type=None if request.param == "none" else request.param)
    bridge = toy_models.load(request.getfixturevalue(f"{request.param.removeprefix('bridge-')}_directory"))
    with torch.no_grad():  # fresh gains are all one: none would be missed
        for name, weight in bridge.named_parameters():
            if "ln_" in name or "norm" in name:
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator(0, name)))
    return bridge


# The weights are those that the model computes with -----------------------------------------------


def test_every_weight_is_the_parameter_of_that_name():
    model = ours()
    for layer, block in enumerate(model.blocks):
        found = head_weights(model, layer)
        assert found.n_kv == 2
        for name in (*MATRICES, *BIASES):
            expected = getattr(block.attn, name)
            if name[-1] in "KV":
                expected = expected[[0, 0, 1, 1]]
            assert torch.equal(getattr(found, name), expected)
    assert torch.equal(embedding(model), model.embed.W_E)
    W_U, b_U = unembedding(model)
    assert torch.equal(W_U, model.unembed.W_U)
    assert torch.equal(b_U, model.unembed.b_U)


def test_a_hand_written_model_without_biases_has_none():
    model = HandWritten()
    found = head_weights(model, 0)
    assert torch.equal(found.W_Q, model.blocks[0]["attn"].W_Q)
    assert (found.b_Q, found.b_K, found.b_V, found.b_O) == (None, None, None, None)
    assert found.n_kv == 1
    assert unembedding(model)[1] is None


def test_a_gpt2_bridge_gives_the_hugging_face_parameters(gpt2_directory):
    from transformers import GPT2LMHeadModel

    bridge, theirs = toy_models.load(gpt2_directory), GPT2LMHeadModel.from_pretrained(gpt2_directory)
    for layer, block in enumerate(theirs.transformer.h):
        found, n_heads = head_weights(bridge, layer), theirs.config.n_head
        assert found.n_kv == n_heads
        W, b = block.attn.c_attn.weight.chunk(3, dim=1), block.attn.c_attn.bias.chunk(3)
        for letter, weight, bias in zip("QKV", W, b, strict=True):
            assert torch.equal(getattr(found, f"W_{letter}"), weight.unflatten(1, (n_heads, -1)).movedim(1, 0))
            assert torch.equal(getattr(found, f"b_{letter}"), bias.unflatten(0, (n_heads, -1)))
        assert torch.equal(found.W_O, block.attn.c_proj.weight.unflatten(0, (n_heads, -1)))
        assert torch.equal(found.b_O, block.attn.c_proj.bias)
        assert torch.equal(norm_gain(bridge, layer).w, block.ln_1.weight)
        assert torch.equal(norm_gain(bridge, layer).b, block.ln_1.bias)
    assert torch.equal(embedding(bridge), theirs.transformer.wte.weight)
    assert torch.equal(unembedding(bridge)[0], theirs.lm_head.weight.T)
    assert torch.equal(final_gain(bridge).w, theirs.transformer.ln_f.weight)


def test_a_llama_bridge_gives_the_hugging_face_parameters(llama_directory):
    from transformers import LlamaForCausalLM

    bridge, theirs = toy_models.load(llama_directory), LlamaForCausalLM.from_pretrained(llama_directory)
    for layer, block in enumerate(theirs.model.layers):
        found, attn = head_weights(bridge, layer), block.self_attn
        assert found.n_kv == 2
        per_head = {"W_Q": attn.q_proj, "W_K": attn.k_proj, "W_V": attn.v_proj}
        for name, linear in per_head.items():
            expected = linear.weight.unflatten(0, (-1, attn.head_dim)).mT
            assert torch.equal(getattr(found, name), expected if name == "W_Q" else expected[[0, 0, 1, 1]])
        assert torch.equal(found.W_O, attn.o_proj.weight.T.unflatten(0, (4, -1)))
        assert (found.b_Q, found.b_K, found.b_V) == (None, None, None)
        assert torch.equal(norm_gain(bridge, layer).w, block.input_layernorm.weight)
        assert norm_gain(bridge, layer).b is None
    assert torch.equal(embedding(bridge), theirs.model.embed_tokens.weight)
    assert torch.equal(unembedding(bridge)[0], theirs.lm_head.weight.T)


# Norms --------------------------------------------------------------------------------------------


def test_folded_weights_read_the_unscaled_stream_as_the_heads_read_the_norm(model):
    names = [f"blocks.1.{name}" for name in ("hook_resid_pre", "attn.hook_q", "attn.hook_k", "attn.hook_v")]
    tokens = torch.randint(9, (2, 7), generator=generator(0, "text"))
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=names)
    x, *computed = (cache[name] for name in names)
    heads, gain = head_weights(model, 1), norm_gain(model, 1)
    centred = x - x.mean(-1, keepdim=True) if gain.kind == "LN" else x
    eps = 1e-6 if gain.w is not None and gain.b is None and x.dtype == torch.float32 else 1e-5  # Llama's
    scale = (centred.square().mean(-1) + eps).sqrt()[..., None, None] if gain.kind else 1.0
    for letter, expected in zip("QKV", computed, strict=True):
        weight, bias = getattr(heads, f"W_{letter}"), getattr(heads, f"b_{letter}")
        found = torch.einsum("bpd,hde->bphe", x, folded(weight, gain)) / scale
        found = found if bias is None else found + bias
        found = found if gain.b is None else found + torch.einsum("d,hde->he", gain.b, weight)
        share = found.shape[2] // expected.shape[2]
        tolerance = 1e-12 if x.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(found, expected.repeat_interleave(share, 2), atol=tolerance, rtol=tolerance)


def test_the_kind_of_norm_is_told_with_what_it_has(model):
    kind = model.cfg.normalization_type
    for gain in (norm_gain(model, 0), final_gain(model)):
        assert gain.kind == kind
        assert (gain.w is None) == (kind is None)
        assert (gain.b is None) == (kind != "LN")


def test_norms_after_the_addition_are_none_that_heads_read_through():
    model = ours(norm_position="post")
    assert norm_gain(model, 0).kind is None
    assert final_gain(model).kind is None


def test_a_norm_that_was_folded_away_centres_and_has_no_gain():
    gain = norm_gain(HandWritten(nn.Module(), normalization_type="LNPre"), 0)
    assert (gain.kind, gain.w, gain.b) == ("LN", None, None)
    assert folded(torch.ones(6, 2), gain).abs().max() == 0


def test_a_gain_stored_as_its_distance_from_one_has_the_one_added():
    norm = nn.Module()
    norm.w, norm.uses_weight_offset = nn.Parameter(torch.tensor([0.5, -0.5, 0, 0, 0, 0])), True
    assert norm_gain(HandWritten(norm), 0).w.tolist() == [1.5, 0.5, 1, 1, 1, 1]
    assert norm_gain(HandWritten(norm), 0).kind == "RMS"


def test_a_norm_of_an_unknown_kind_is_refused_with_what_was_looked_for():
    with pytest.raises(ProbeInputError, match=r"blocks\.0\.ln1 is a Tanh .* looked for 'LN' or 'RMS'"):
        norm_gain(HandWritten(nn.Tanh()), 0)


# Refusals and purity ------------------------------------------------------------------------------


def test_a_model_under_other_names_is_refused_with_the_nearest(gpt2_directory):
    from transformers import GPT2LMHeadModel

    theirs = GPT2LMHeadModel.from_pretrained(gpt2_directory)
    with pytest.raises(ProbeInputError, match=r"no blocks: looked for blocks on GPT2LMHeadModel, nearest there: \w+"):
        head_weights(theirs, 0)
    model = ours()
    attn = model.blocks[0].attn
    attn._parameters["_W_K"] = attn._parameters.pop("W_K")
    with pytest.raises(ProbeInputError, match=r"no blocks\.0\.attn\.W_K: looked for W_K on blocks\.0\.attn, .* _W_K"):
        head_weights(model, 0)


def test_weights_of_another_shape_are_refused():
    model = HandWritten()
    model.blocks[0]["attn"].W_Q = nn.Parameter(torch.zeros(6, 3))
    with pytest.raises(ProbeInputError, match=r"blocks\.0\.attn\.W_Q is \(6, 3\): \[head, d_model, d_head\]"):
        head_weights(model, 0)
    model.blocks[0]["attn"].W_Q = nn.Parameter(torch.zeros(3, 6, 3))
    model.blocks[0]["attn"].W_K = nn.Parameter(torch.zeros(2, 6, 3))
    with pytest.raises(ProbeInputError, match="3 query, 2 key and 1 value heads"):
        head_weights(model, 0)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(broken):
    model = ours()
    with torch.no_grad():
        model.blocks[1].attn.W_O[3, 0, 0] = broken
    with pytest.raises(ProbeInputError, match=r"blocks\.1\.attn\.W_O holds NaN or infinity"):
        head_weights(model, 1)
    head_weights(model, 0)


@pytest.mark.parametrize("layer", [-1, 2])
def test_a_layer_out_of_range_is_refused_with_the_range(layer):
    for ask in (head_weights, norm_gain):
        with pytest.raises(ProbeInputError, match=rf"layer={layer} must lie in \[0, 2\)"):
            ask(ours(), layer)


@pytest.mark.parametrize("head", [-1, 4])
def test_a_head_out_of_range_is_refused_with_the_range(head):
    with pytest.raises(ProbeInputError, match=rf"head={head} must lie in \[0, 4\): layer 1 has 4 heads"):
        check_head(ours(), 1, head)
    check_head(ours(), 1, 3)


def test_every_refusal_is_one_line():
    for ask in (lambda: head_weights(nn.Linear(2, 2), 0), lambda: head_weights(ours(), 7), lambda: embedding(None)):
        with pytest.raises(ProbeInputError) as refusal:
            ask()
        assert "\n" not in str(refusal.value)


def test_it_leaves_the_model_as_it_found_it(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [len(p._forward_hooks) for p in model.modules() if isinstance(p, HookPoint)]
    found, gain = head_weights(model, 0), norm_gain(model, 0)
    given = [embedding(model), unembedding(model)[0], folded(found.W_V, gain), gain.w, gain.b]
    given += [getattr(found, name) for name in (*MATRICES, *BIASES)]
    assert not any(tensor.requires_grad for tensor in given if tensor is not None)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [len(p._forward_hooks) for p in model.modules() if isinstance(p, HookPoint)] == hooks
