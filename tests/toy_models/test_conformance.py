"""TransformerLens's caches, hooks and decompositions give the right numbers on our Transformer."""

import pytest
import torch
from transformer_lens import ActivationCache, FactoredMatrix

CLOSE = {"rtol": 1e-10, "atol": 1e-11}  # float64 all through
STREAMS = [
    {"position": position, "d_mlp": d_mlp, "normalization_type": norm}
    for position in ("learned", "rope", "shortformer", "none")
    for d_mlp, norm in ((20, "LN"), (0, "LN"), (20, "RMS"))
]


def stream_name(options):
    return "-".join(str(value) for value in options.values())


def hooks_left(model) -> int:
    return sum(len(p.fwd_hooks) + len(p.bwd_hooks) + len(p._forward_hooks) for p in model.hook_dict.values())


# Caches ---------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("options", STREAMS, ids=stream_name)
def test_run_with_cache_gives_every_cheap_activation_with_its_batch(perturbed, draw_tokens, options):
    model, tokens = perturbed(**options), draw_tokens(3, 7)
    logits, cache = model.run_with_cache(tokens)
    assert isinstance(cache, ActivationCache)
    assert cache.has_batch_dim
    assert hooks_left(model) == 0
    costly = ("hook_result", "hook_q_input", "hook_k_input", "hook_v_input", "hook_row_statistics")
    assert set(cache.keys()) == {name for name in model.hook_dict if not name.endswith(costly)}
    assert {name: len(value) for name, value in cache.items()} == dict.fromkeys(cache.keys(), 3)
    torch.testing.assert_close(logits, model(tokens), **CLOSE)
    torch.testing.assert_close(model.unembed(model.ln_final(cache["resid_post", 1])), logits, **CLOSE)


@torch.no_grad()
def test_a_cache_without_its_batch_dimension_holds_the_same_numbers(perturbed, draw_tokens):
    model, tokens = perturbed(), draw_tokens(1, 7)
    with_batch = model.run_with_cache(tokens)[1]
    without = model.run_with_cache(tokens, remove_batch_dim=True)[1]
    assert not without.has_batch_dim
    for name, value in with_batch.items():
        assert torch.equal(without[name], value[0]), name
    later = model.run_with_cache(tokens)[1].remove_batch_dim()
    assert all(torch.equal(later[name], without[name]) for name in without)


@torch.no_grad()
@pytest.mark.parametrize("position", ["learned", "rope", "shortformer"])
def test_a_batch_slice_of_a_cache_is_the_cache_of_that_slice(perturbed, draw_tokens, position):
    model, tokens = perturbed(position=position), draw_tokens(3, 7)
    sliced = model.run_with_cache(tokens)[1].apply_slice_to_batch_dim((1, 3))
    alone = model.run_with_cache(tokens[1:3])[1]
    for name, value in alone.items():
        torch.testing.assert_close(sliced[name], value, **CLOSE, msg=name)


@torch.no_grad()
def test_a_names_filter_may_be_a_name_a_list_or_a_function(perturbed, draw_tokens):
    model, tokens = perturbed(), draw_tokens(2, 7)
    pattern = "blocks.1.attn.hook_pattern"
    everything = model.run_with_cache(tokens)[1]
    for names_filter in (pattern, [pattern], lambda name: name == pattern):
        cache = model.run_with_cache(tokens, names_filter=names_filter)[1]
        assert list(cache.keys()) == [pattern]
        torch.testing.assert_close(cache[pattern], everything[pattern], **CLOSE)
    bare = model.run_with_cache(tokens, names_filter=pattern, return_cache_object=False)[1]
    assert type(bare) is dict


def test_a_backward_cache_holds_the_gradients(perturbed, draw_tokens):
    model, tokens = perturbed(), draw_tokens(2, 7)
    cache = model.run_with_cache(tokens, return_type="loss", incl_bwd=True)[1]
    with torch.no_grad():
        stream = model(tokens, stop_at_layer=1)
    stream.requires_grad_()
    model(tokens, residual=stream, start_at_layer=1, return_type="loss").backward()
    torch.testing.assert_close(cache["blocks.1.hook_resid_pre_grad"], stream.grad, **CLOSE)
    assert hooks_left(model) == 0


# Hooks ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_ablating_a_head_by_hook_equals_zeroing_its_output_weights(perturbed, draw_tokens):
    model, tokens = perturbed(), draw_tokens(2, 7)

    def without_head_1(z, hook):
        z = z.clone()
        z[:, :, 1] = 0
        return z

    hooked = model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.attn.hook_z", without_head_1)])
    assert (hooked - model(tokens)).abs().max() > 0.01
    model.blocks[1].attn.W_O[1] = 0
    torch.testing.assert_close(hooked, model(tokens), **CLOSE)
    assert hooks_left(model) == 0


@torch.no_grad()
def test_the_hooks_context_leaves_no_hook_behind_even_after_an_error(perturbed, draw_tokens):
    model, tokens = perturbed(), draw_tokens(2, 7)
    before = model(tokens)
    with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: 0 * x)]):
        assert not torch.equal(model(tokens), before)
    assert hooks_left(model) == 0

    def stop(x, hook):
        raise ArithmeticError("stop")

    with pytest.raises(ArithmeticError), model.hooks(fwd_hooks=[("blocks.1.hook_resid_mid", stop)]):
        model(tokens)
    assert hooks_left(model) == 0
    assert torch.equal(model(tokens), before)


@torch.no_grad()
@pytest.mark.parametrize("position", ["learned", "rope", "shortformer"])
def test_an_edit_in_place_equals_the_edit_of_a_copy_at_every_hook(perturbed, draw_tokens, position):
    model, tokens = perturbed(position=position), draw_tokens(2, 7)

    def in_place(x, hook):
        x[1:, 2:4] = 0.5 * x[1:, 2:4]
        return x

    def on_a_copy(x, hook):
        return in_place(x.clone(), hook)

    for name in model.hook_dict:
        expected = model.run_with_hooks(tokens, fwd_hooks=[(name, on_a_copy)])
        found = model.run_with_hooks(tokens, fwd_hooks=[(name, in_place)])
        torch.testing.assert_close(found, expected, **CLOSE, msg=name)


# Decompositions -------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("options", STREAMS, ids=stream_name)
def test_decompose_resid_sums_to_the_stream_before_every_layer(perturbed, draw_tokens, options):
    model = perturbed(**options)
    cache = model.run_with_cache(draw_tokens(3, 7))[1]
    streams = cache.accumulated_resid()
    for layer in range(model.cfg.n_layers + 1):
        parts, labels = cache.decompose_resid(layer, return_labels=True)
        torch.testing.assert_close(parts.sum(0), streams[layer], **CLOSE)
        assert ("pos_embed" in labels) == (options["position"] == "learned")
    if not model.cfg.attn_only:
        parts = cache.decompose_resid(1, mlp_input=True)
        torch.testing.assert_close(parts.sum(0), cache["resid_mid", 1], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("options", STREAMS, ids=stream_name)
@pytest.mark.parametrize("expand_neurons", [True, False])
def test_the_full_decomposition_sums_to_the_stream(perturbed, draw_tokens, options, expand_neurons):
    model = perturbed(**options)
    cache = model.run_with_cache(draw_tokens(3, 7))[1]
    for layer in (1, 2):
        parts, labels = cache.get_full_resid_decomposition(layer, expand_neurons=expand_neurons, return_labels=True)
        torch.testing.assert_close(parts.sum(0), cache["resid_post", layer - 1], **CLOSE)
        neurons = 0 if model.cfg.attn_only else layer * (model.cfg.d_mlp if expand_neurons else 1)
        embeds = 1 + (options["position"] == "learned")
        assert len(parts) == len(labels) == layer * model.cfg.n_heads + neurons + embeds + 1


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"gated_mlp": True}, {"n_heads": 4, "n_key_value_heads": 2}])
def test_the_full_decomposition_holds_for_gates_and_shared_keys(perturbed, draw_tokens, options):
    model = perturbed(**options)
    cache = model.run_with_cache(draw_tokens(3, 7))[1]
    at_mlp = cache.get_full_resid_decomposition(1, mlp_input=True)
    torch.testing.assert_close(at_mlp.sum(0), cache["resid_mid", 1], **CLOSE)
    projected = cache.get_full_resid_decomposition(project_output_onto=model.W_U[:, 3])
    torch.testing.assert_close(projected.sum(0), cache["resid_post", 1] @ model.W_U[:, 3], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("cached", [True, False])
def test_head_results_biases_and_embeddings_sum_to_the_stream(perturbed, draw_tokens, cached):
    model = perturbed(d_mlp=0)
    model.set_use_attn_result(cached)
    cache = model.run_with_cache(draw_tokens(3, 7))[1]
    assert ("blocks.0.attn.hook_result" in cache) == cached
    heads, labels = cache.stack_head_results(return_labels=True)
    assert labels == ["L0H0", "L0H1", "L1H0", "L1H1"]
    whole = heads.sum(0) + model.accumulated_bias(2) + cache["hook_embed"] + cache["hook_pos_embed"]
    torch.testing.assert_close(whole, cache["resid_post", 1], **CLOSE)
    one = cache["z", 1][:, :, 0] @ model.W_O[1, 0]
    torch.testing.assert_close(heads[2], one, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("norm", [None, "LN", "RMS"])
@pytest.mark.parametrize("position", ["learned", "rope"])
def test_logit_attributions_sum_to_the_logit(perturbed, draw_tokens, norm, position):
    """Exact without a norm.  With one it is exact once the gain is folded away (w = 1, b = 0): `logit_attrs`
    divides by the cached scale, and knows nothing of gains."""
    model, tokens = perturbed(normalization_type=norm, position=position), draw_tokens(3, 7)
    if norm is not None:
        model.ln_final.w.fill_(1.0)
    if norm == "LN":
        model.ln_final.b.fill_(0.0)
    logits, cache = model.run_with_cache(tokens)
    right, wrong = draw_tokens(3, 7, seed=1), draw_tokens(3, 7, seed=2)
    parts = cache.get_full_resid_decomposition()
    found = cache.logit_attrs(parts, right).sum(0) + model.b_U[right]
    torch.testing.assert_close(found, logits.gather(-1, right[..., None])[..., 0], **CLOSE)
    difference = cache.logit_attrs(parts, right, incorrect_tokens=wrong).sum(0) + model.b_U[right] - model.b_U[wrong]
    expected = (logits.gather(-1, right[..., None]) - logits.gather(-1, wrong[..., None]))[..., 0]
    torch.testing.assert_close(difference, expected, **CLOSE)
    one_token = cache.logit_attrs(parts, 4).sum(0) + model.b_U[4]
    torch.testing.assert_close(one_token, logits[..., 4], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("norm", [None, "LN", "RMS"])
def test_the_last_entry_of_the_logit_lens_is_the_logits(perturbed, draw_tokens, norm):
    model, tokens = perturbed(normalization_type=norm), draw_tokens(3, 7)
    logits, cache = model.run_with_cache(tokens)
    lens = cache.accumulated_resid(apply_ln=True) @ model.W_U + model.b_U
    torch.testing.assert_close(lens[-1], logits, **CLOSE)
    first = model.unembed(model.ln_final(cache["resid_pre", 0]))
    torch.testing.assert_close(lens[0], first, **CLOSE)
    in_one_call = cache.logit_lens(positions=None)
    torch.testing.assert_close(in_one_call.values, lens, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_the_factored_circuits_are_the_products_of_the_weights(perturbed, kv_heads):
    model = perturbed(n_heads=4, n_key_value_heads=kv_heads)
    attn = model.blocks[1].attn
    for head in range(4):
        kv = head // (4 // kv_heads)
        by_hand = FactoredMatrix(model.W_V[1, kv], model.W_O[1, head])
        torch.testing.assert_close(attn.OV[head].AB, by_hand.AB, **CLOSE)
        torch.testing.assert_close(attn.OV[head].AB, attn.W_V[kv] @ attn.W_O[head], **CLOSE)
        torch.testing.assert_close(attn.QK[head].AB, attn.W_Q[head] @ attn.W_K[kv].T, **CLOSE)
