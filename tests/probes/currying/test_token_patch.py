"""A context in the MLPs, token by token: exact behind every block, rank one, and another patch for every token."""

import pytest
import torch

from probes.currying import Oracle, compare, curry
from probes.currying.distances import spectrum
from probes.currying.token_patch import patches
from probes.errors import ProbeInputError
from tests.probes.currying.nets import KINDS, context, net, queries
from tests.probes.models import same, trace

WITH_MLP = [kind for kind in KINDS if "attention only" not in kind]


@pytest.mark.parametrize("positions", ["restart", "shift"])
@pytest.mark.parametrize("kind", WITH_MLP)
def test_every_token_is_the_oracles_behind_every_block_and_not_behind_attention(kind, positions):
    model = net(kind)
    curried, oracle = curry(model, context(), "token_patch", positions=positions), Oracle(model, context(), positions)
    asked = queries(model)
    assert (curried.logits(asked) - oracle.logits(asked)).abs().max() < 1e-12
    found = curried.entities(asked)
    for name, entity in oracle.entities(asked).items():
        gap = (found[name] - entity).abs().max()
        assert gap < 1e-12 if name.endswith("resid_post") else gap > 1e-3


@pytest.mark.parametrize("kind", WITH_MLP)
def test_the_patches_are_changes_of_weights_of_rank_one(kind):
    """Each layer with the weights of one token, behind the exact stream: that token's row is exact, others' are not."""
    model, row, token = net(kind), 2, 3
    oracle, asked = Oracle(model, context()), queries(model)
    text, exact = oracle.bare.text(asked), oracle.entities(asked)
    for layer, patch in enumerate(patches(oracle, asked)):
        curried_below = curry(model, context(), "token_patch")
        name = f"blocks.{layer}.hook_resid_pre"
        stream = model.run_with_cache(text, names_filter=[name])[1][name]
        stream[:, 1:] = curried_below.read(asked, [name])[1][name]
        edited = oracle.copy_of_model()
        update = patch.weight_update(model, layer, row, token)
        matrices = {"W_in", "W_gate"} if model.cfg.gated_mlp else {"W_in"}
        assert {name.rsplit(".", 1)[1] for name in update} == matrices | {"b_out"}
        for parameter, change in update.items():
            if change.ndim == 2:
                s = spectrum(change)
                assert s[1] <= 1e-12 * max(1, s[0])  # in parallel blocks the MLP reads what it read: all zero
            with torch.no_grad():
                edited.get_parameter(parameter).add_(change)
        after = one_layer(edited, text, stream, layer)[:, 1:]
        gap = (after - exact[f"blocks.{layer}.hook_resid_post"]).abs().amax(-1)
        assert gap[row, token] < 1e-12
        assert gap[row, token - 1] > 1e-3


def one_layer(model, text, stream, layer):
    entrance = {"tokens": text} if layer == 0 else {"residual": stream}
    with torch.no_grad():
        return model(**entrance, start_at_layer=layer, stop_at_layer=layer + 1)


@pytest.mark.parametrize("kind", ["rope, RMS, gated", "no positions, plain"])
def test_a_single_token_without_bos_has_a_model_of_its_own(kind):
    """Nobody else reads the edited weights then: all layers at once, in the model's own space."""
    options = {"position": "none", "d_mlp": 20} if "plain" in kind else {}
    model = net("grouped" if "plain" in kind else kind, bos_id=None, **options)
    oracle, asked = Oracle(model, context()), queries(model, 3, 1)
    made = patches(oracle, asked)
    for row in range(len(asked)):
        edited = oracle.copy_of_model()
        for layer, patch in enumerate(made):
            for parameter, change in patch.weight_update(model, layer, row, 0).items():
                with torch.no_grad():
                    edited.get_parameter(parameter).add_(change)
        with torch.no_grad():
            assert (edited(asked[row : row + 1]) - oracle.logits(asked[row : row + 1])).abs().max() < 1e-12
            assert (edited(asked[row - 1 :][:1]) - oracle.logits(asked[row - 1 :][:1])).abs().max() > 1e-3


def test_another_token_needs_another_patch():
    model = net()
    first = patches(Oracle(model, context()), queries(model))[0]
    directions = first.direction.flatten(0, 1)
    assert torch.linalg.matrix_rank(directions) == model.cfg.d_model
    assert (first.read * first.direction).sum(-1).sub(1).abs().max() < 1e-12


def test_it_is_no_point_of_weight_space_and_keeps_the_contexts_cache():
    model = net()
    curried = curry(model, context(), "token_patch")
    assert not curried.same_space
    assert curried.weight_update == {}
    assert curried.fit_queries is None
    assert curried.stored_bytes == curry(model, context(), "kv").stored_bytes
    report = compare(curried, Oracle(model, context()), queries(model))
    assert report.kl < 1e-12
    assert report.entity_error[0] > 0.1
    assert report.entity_error[1] < 1e-12


def test_reading_leaves_nothing_behind():
    model = net()
    curried, before = curry(model, context(), "token_patch"), trace(model)
    curried.logits(queries(model))
    assert same(before, trace(model))
    for module in (*model.modules(), *curried.model.modules()):
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
    with pytest.raises(KeyError):
        curried.reader.read(curried.model, queries(model), ["blocks.9.hook_resid_post"])
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in curried.model.modules())


def test_models_that_it_cannot_serve_are_refused_in_one_line():
    for method in ("token_patch", "shared_patch"):
        model = net("no positions, attention only")
        with pytest.raises(ProbeInputError, match=rf"{method} patches MLPs, and the model has none \(d_mlp=0\)") as one:
            curry(model, context(), method, queries(model, 60))
        both = net(use_normalization_before_and_after=True)
        with pytest.raises(ProbeInputError, match=f"{method} needs what an MLP writes to be added as it is") as two:
            curry(both, context(), method, queries(both, 60))
        assert "\n" not in f"{one.value}{two.value}"
    silent = net(normalization_type=None, position="none", norm_position="pre")
    with torch.no_grad():
        silent.W_E.zero_()
        for block in silent.blocks:
            block.attn.W_O.zero_()
            block.attn.b_O.zero_()
    with pytest.raises(ProbeInputError, match="layer 0: an MLP reads zeros from a token"):
        curry(silent, context(), "token_patch").logits(queries(silent))
