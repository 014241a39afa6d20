"""Every activation patch of `transformer_lens.patching` on our Transformer, against the same patch made by hand."""

import inspect
from itertools import product

import pytest
import torch
from transformer_lens import patching

CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # patching keeps its results in float32
N_POS, CHANGED = 5, 1  # clean and corrupted text differ in one token

# activation, axes after the layer (p: pos, h: head, q: dest_pos, k: src_pos) in the order of the result
PATCHES = {
    "resid_pre": ("hook_resid_pre", "p"),
    "resid_mid": ("hook_resid_mid", "p"),
    "attn_out": ("hook_attn_out", "p"),
    "mlp_out": ("hook_mlp_out", "p"),
    "attn_head_out_by_pos": ("attn.hook_z", "ph"),
    "attn_head_q_by_pos": ("attn.hook_q", "ph"),
    "attn_head_k_by_pos": ("attn.hook_k", "ph"),
    "attn_head_v_by_pos": ("attn.hook_v", "ph"),
    "attn_head_pattern_by_pos": ("attn.hook_pattern", "hq"),
    "attn_head_pattern_dest_src_pos": ("attn.hook_pattern", "hqk"),
    "attn_head_out_all_pos": ("attn.hook_z", "h"),
    "attn_head_q_all_pos": ("attn.hook_q", "h"),
    "attn_head_k_all_pos": ("attn.hook_k", "h"),
    "attn_head_v_all_pos": ("attn.hook_v", "h"),
    "attn_head_pattern_all_pos": ("attn.hook_pattern", "h"),
}
EVERY = {
    "attn_head_all_pos_every": [f"attn_head_{x}_all_pos" for x in ("out", "q", "k", "v", "pattern")],
    "attn_head_by_pos_every": [f"attn_head_{x}_by_pos" for x in ("out", "q", "k", "v", "pattern")],
    "block_every": ["resid_pre", "attn_out", "mlp_out"],
}
DIRECT = {"direct_path", "direct_path_all_sources"}
MODELS = [{}, {"position": "rope", "n_heads": 4, "d_head": 4, "n_key_value_heads": 2, "normalization_type": "RMS"}]


class Scene:
    """A model with a clean text, a corrupted one, and the logit that tells them apart."""

    def __init__(self, model, tokens):
        self.model, self.clean = model, tokens
        self.corrupted = tokens.clone()
        self.corrupted[:, CHANGED] = (tokens[:, CHANGED] + 3) % model.cfg.d_vocab
        self.clean_logits, self.cache = model.run_with_cache(self.clean)
        self.corrupted_logits, self.corrupted_cache = model.run_with_cache(self.corrupted)

    @staticmethod
    def metric(logits):
        return logits[:, -1, 4].mean() - logits[:, -1, 6].mean()

    def patched(self, hook, layer, where):
        """The metric with `activation[where]` of the clean run put into the corrupted one."""
        name = f"blocks.{layer}.{hook}"

        def put(x, hook):
            x = x.clone()
            x[where] = self.cache[name][where]
            return x

        return self.metric(self.model.run_with_hooks(self.corrupted, fwd_hooks=[(name, put)]))


@pytest.fixture(params=MODELS, ids=["mha-learned", "gqa-rope"])
def scene(request, perturbed, draw_tokens):
    with torch.no_grad():
        yield Scene(perturbed(**request.param), draw_tokens(2, N_POS, seed=3))


def run(scene, name, **options):
    function = getattr(patching, f"get_act_patch_{name}")
    return function(scene.model, scene.corrupted, scene.cache, scene.metric, **options)


def test_no_patching_function_is_left_out():
    found = {name.removeprefix("get_act_patch_") for name, _ in inspect.getmembers(patching, callable)}
    assert {name for name in found if f"get_act_patch_{name}" in dir(patching)} == {*PATCHES, *EVERY, *DIRECT}


@pytest.mark.parametrize("name", PATCHES)
def test_each_patch_equals_the_same_patch_by_hand(scene, name):
    hook, axes = PATCHES[name]
    found = run(scene, name)
    heads = scene.model.cfg.n_key_value_heads if hook[-1] in "kv" else scene.model.cfg.n_heads
    sizes = {"p": N_POS, "q": N_POS, "k": N_POS, "h": heads}
    assert found.shape == (2, *(sizes[axis] for axis in axes))
    for index in product(*map(range, found.shape)):
        at = dict(zip(axes, index[1:], strict=True))
        order = "hqk" if "pattern" in hook else "ph"  # the axes of the activation after its batch
        where = (slice(None), *(at.get(axis, slice(None)) for axis in order))
        expected = scene.patched(hook, index[0], where)
        torch.testing.assert_close(found[index].double(), expected, **CLOSE)


@pytest.mark.parametrize("name", EVERY)
def test_every_stacks_the_single_patches(scene, name):
    stacked = run(scene, name)
    for row, part in zip(stacked, EVERY[name], strict=True):
        single = run(scene, part)
        if part == "attn_head_pattern_by_pos":
            single = single.transpose(1, 2)
        assert torch.equal(row[..., : single.shape[-1]], single)


def test_patching_the_entrance_restores_the_clean_run(scene):
    found = run(scene, "resid_pre")
    clean, corrupted = (scene.metric(x).float() for x in (scene.clean_logits, scene.corrupted_logits))
    assert (clean - corrupted).abs() > 0.01
    torch.testing.assert_close(found[0, CHANGED], clean, rtol=1e-6, atol=0)
    untouched = [p for p in range(N_POS) if p != CHANGED]
    torch.testing.assert_close(found[0, untouched], corrupted.expand(N_POS - 1), rtol=1e-6, atol=0)


def test_patching_a_text_into_itself_changes_nothing(scene):
    scene.corrupted = scene.clean
    clean = scene.metric(scene.clean_logits).float()
    for name in PATCHES:
        found = run(scene, name)
        torch.testing.assert_close(found, clean.expand(found.shape), rtol=1e-5, atol=0)


def test_a_result_with_its_baseline_reports_the_corrupted_run(scene):
    result = run(scene, "resid_pre", baseline=True)
    torch.testing.assert_close(result.baseline, scene.metric(scene.corrupted_logits).float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("component", ["q", "k", "v"])
@pytest.mark.parametrize("position", ["learned", "shortformer", "rope"])
@torch.no_grad()
def test_the_direct_path_equals_an_edit_of_that_heads_projection(perturbed, draw_tokens, component, position):
    """The source's change is added to what one head reads: by hand, to its q, k or v through the norm."""
    scene = Scene(perturbed(position=position), draw_tokens(2, N_POS, seed=3))
    model = scene.model
    found = patching.get_act_patch_direct_path(
        model, scene.corrupted, scene.cache, scene.corrupted_cache, scene.metric, 0, 1, component, verbose=False
    )
    change = (scene.cache["z", 0] - scene.corrupted_cache["z", 0])[:, :, 1] @ model.W_O[0, 1]
    read = model.blocks[1].ln1(scene.corrupted_cache["resid_pre", 1] + change)
    if position == "shortformer" and component != "v":
        read = read + model.W_pos[:N_POS]
    letter = component.upper()
    for head in range(model.cfg.n_heads):
        weight, bias = getattr(model, f"W_{letter}")[1, head], getattr(model, f"b_{letter}")[1, head]

        def put(x, hook, head=head, value=read @ weight + bias):
            x = x.clone()
            x[:, :, head] = value
            return x

        edited = model.run_with_hooks(scene.corrupted, fwd_hooks=[(f"blocks.1.attn.hook_{component}", put)])
        torch.testing.assert_close(found[1, head].double(), scene.metric(edited), **CLOSE)
    assert (found[1] - scene.metric(scene.corrupted_logits)).abs().max() > 1e-5
    assert torch.equal(found[0], torch.zeros(2))


def test_all_direct_paths_are_the_single_ones(scene):
    parts = (scene.model, scene.corrupted, scene.cache, scene.corrupted_cache, scene.metric)
    found = patching.get_act_patch_direct_path_all_sources(*parts, verbose=False)
    heads = scene.model.cfg.n_heads
    assert found.shape == (2, heads, 2, heads)
    for head in range(heads):
        one = patching.get_act_patch_direct_path(*parts, 0, head, verbose=False)
        assert torch.equal(found[0, head], one)


@pytest.mark.parametrize("switched_on", [True, False])
def test_direct_paths_leave_the_cache_switch_as_it_was(scene, switched_on):
    scene.model.set_use_split_qkv_input(switched_on)
    parts = (scene.model, scene.corrupted, scene.cache, scene.corrupted_cache, scene.metric)
    patching.get_act_patch_direct_path(*parts, 0, 0, verbose=False)
    cache = scene.model.run_with_cache(scene.clean)[1]
    assert ("blocks.1.hook_q_input" in cache) == switched_on
