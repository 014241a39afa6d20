import pytest
import torch
from transformer_lens import patching as lens_patching

from probes.errors import ProbeInputError
from probes.paths import path_patch
from tests.probes.clean_and_corrupt import case, induction_case, perturbed
from tests.probes.models import same, trace

EXACT = {"rtol": 0.0, "atol": 1e-10}  # float64
MODELS = [{}, {"position": "rope", "normalization_type": "RMS"}, {"norm_position": "post"}, {"d_mlp": 0}]


def frozen_by_hand(one, sender, letter, to, head, *, mlps: bool) -> torch.Tensor:
    """The metric with one receiver's q, k or v computed on a stream to which the sender alone has added its change.

    For models with a norm before attention, of which the MLPs stay as they were unless `mlps`.
    """
    model, (layer, at) = one.model, sender
    z = f"blocks.{layer}.attn.hook_z"
    change = (one.activation(one.clean, z) - one.activation(one.corrupt, z))[:, :, at] @ model.W_O[layer, at]
    for later in range(layer, to):
        if mlps:
            block, mid = model.blocks[later], one.activation(one.corrupt, f"blocks.{later}.hook_resid_mid")
            change = change + block.mlp(block.ln2(mid + change)) - block.mlp(block.ln2(mid))
    read = model.blocks[to].ln1(one.activation(one.corrupt, f"blocks.{to}.hook_resid_pre") + change)
    weight, bias = getattr(model, f"W_{letter.upper()}")[to, head], getattr(model, f"b_{letter.upper()}")[to, head]
    return one.by_hand({f"blocks.{to}.attn.hook_{letter}": ((slice(None), head), read @ weight + bias)})


def test_the_constructed_circuit_composes_through_the_keys_alone():
    one = induction_case()
    found = {letter: path_patch(*one.inputs, (0, 0), [(1, 0, letter)]) for letter in "qkv"}
    assert abs(found["k"].recovery - 1) < 1e-3
    assert abs(found["q"].recovery) < 1e-3
    assert abs(found["v"].recovery) < 1e-3
    assert found["k"].effect.shape == (1,)


@pytest.mark.parametrize("mlps", [False, True])
@pytest.mark.parametrize("to", [1, 2])
@pytest.mark.parametrize("letter", ["q", "k", "v"])
@torch.no_grad()
def test_the_path_equals_an_edit_of_that_heads_projection(letter, to, mlps):
    one = case(perturbed())
    found = path_patch(*one.inputs, (0, 1), [(to, 0, letter)], through_mlps=mlps)
    torch.testing.assert_close(found.effect, frozen_by_hand(one, (0, 1), letter, to, 0, mlps=mlps), **EXACT)
    assert (found.effect - found.corrupt).abs().max() > 1e-4
    torch.testing.assert_close(
        found.recovery, (found.effect - found.corrupt).mean() / (found.clean - found.corrupt).mean(), **EXACT
    )


@pytest.mark.parametrize("letter", ["q", "k", "v"])
@torch.no_grad()
def test_it_agrees_with_the_direct_path_of_transformer_lens(letter):
    one = case(perturbed(n_layers=2))
    clean, corrupt = (one.model.run_with_cache(tokens)[1] for tokens in (one.clean, one.corrupt))
    metric = lambda logits: one.metric(logits).mean()  # noqa: E731
    theirs = lens_patching.get_act_patch_direct_path(
        one.model, one.corrupt, clean, corrupt, metric, 0, 1, letter, verbose=False
    )
    for head in range(2):
        found = path_patch(*one.inputs, (0, 1), [(1, head, letter)])
        torch.testing.assert_close(found.effect.mean().float(), theirs[1, head], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", MODELS)
@torch.no_grad()
def test_all_paths_into_a_layer_together_are_the_patch_of_its_input(options):
    """With the MLP live nothing else leads from layer 0 to layer 1: q, k and v of every head see the whole change."""
    one = case(perturbed(n_layers=2, **options))
    every = [(1, head, letter) for head in range(2) for letter in "qkv"]
    found = path_patch(*one.inputs, (0, 0), every, through_mlps=True)
    z = one.activation(one.clean, "blocks.0.attn.hook_z")[:, :, 0]
    kept = {"blocks.0.attn.hook_z": ((slice(None), 0), z)}
    with one.model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda x, hook: _with_head(x, z))]):
        attention = one.activation(one.corrupt, "blocks.1.attn.hook_z")
    expected = one.by_hand({"blocks.1.attn.hook_z": ((), attention)})
    torch.testing.assert_close(found.effect, expected, **EXACT)
    assert (found.effect - one.by_hand(kept)).abs().max() > 1e-4  # what the sender tells the logits stays out


def _with_head(x, z):
    x = x.clone()
    x[:, :, 0] = z
    return x


def test_under_grouped_queries_keys_and_values_are_counted_by_their_own_heads():
    one = case(perturbed(n_heads=4, d_head=4, n_key_value_heads=2, position="rope"))
    assert path_patch(*one.inputs, (0, 3), [(1, 3, "q"), (2, 1, "k")]).effect.shape == (2,)
    with pytest.raises(ProbeInputError, match=r"\(1, 2, 'v'\) .* \[0, 2\)"):
        path_patch(*one.inputs, (0, 3), [(1, 2, "v")])


def test_a_bridge_gives_a_path_through_its_own_hooks(gpt2_directory, llama_directory):
    import toy_models

    for directory in (gpt2_directory, llama_directory):
        one = case(toy_models.load(directory))
        found = [path_patch(*one.inputs, (0, head), [(1, 1, "k")]) for head in range(2)]
        assert all((one.effect - one.corrupt).abs().max() > 1e-6 for one in found)


@pytest.mark.parametrize("fails", [1, 3, None])
def test_the_model_stays_as_it_was(fails):
    one = case(perturbed())
    before, calls = trace(one.model), []

    def metric(logits):
        calls.append(1)
        if len(calls) == fails:
            raise ArithmeticError("no")
        return one.metric(logits)

    try:
        path_patch(one.model, one.clean, one.corrupt, metric, (0, 0), [(2, 1, "k")])
    except ArithmeticError:
        assert fails
    assert same(before, trace(one.model))


@pytest.mark.parametrize(
    ("sender", "receivers", "told"),
    [
        ((3, 0), [(2, 0, "k")], r"\(layer, head\) = \(3, 0\)"),
        ((0, 2), [(2, 0, "k")], r"head in \[0, 2\)"),
        ((1, 0), [(1, 0, "k")], r"receiver \(1, 0, 'k'\) must lie after the sender \(1, 0\): its layer in \[2, 3\)"),
        ((0, 0), [(3, 0, "k")], r"its layer in \[1, 3\)"),
        ((0, 0), [(1, 2, "q")], r"\(1, 2, 'q'\) .* \[0, 2\)"),
        ((0, 0), [(1, -1, "q")], r"\(1, -1, 'q'\) .* \[0, 2\)"),
        ((0, 0), [(1, 0, "z")], "'z'"),
        ((0, 0), [], "receivers is empty"),
    ],
)
def test_a_path_that_is_not_there_is_refused_in_one_line(sender, receivers, told):
    with pytest.raises(ProbeInputError, match=told) as caught:
        path_patch(*case(perturbed()).inputs, sender, receivers)
    assert "\n" not in str(caught.value)
