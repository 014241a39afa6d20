"""The own-token map: exact for heads that only re-add their token, and the share that `sinks.own_token` reports."""

import pytest
import torch

from probes import names
from probes.ablation import Mean, ablate, ablated
from probes.errors import ProbeInputError
from probes.own_token_map import OwnTokenMap
from probes.sinks import own_token
from tests.probes.models import HandWritten, ours, same, text, trace
from toy_models.constructed import diagonal_head, first_token_head, previous_token_head
from toy_models.seeding import generator

ENOUGH = {"batch": 8, "n": 12}  # queries for the width of the streams here


def random_texts(word: str, n: int = 60) -> torch.Tensor:
    """BOS, then independent tokens."""
    tokens = torch.randint(1, 9, (n, 12), generator=generator(0, word))
    return tokens.index_fill(1, torch.tensor([0]), 0)


def recorded(model, tokens, layer: int) -> torch.Tensor:
    return model.run_with_cache(tokens, names_filter=[names.z(layer)])[1][names.z(layer)]


@pytest.mark.parametrize("build", [diagonal_head, first_token_head])
def test_nothing_is_lost_where_a_head_tells_of_no_other_token(build):
    model = build(9, 12).double()
    lost = ablate(model, random_texts("score"), [(0, 0)], OwnTokenMap(random_texts("fit"))).change
    assert lost.abs().max() < 1e-6  # the softmax beside the match is exp(-20) per key


def test_a_previous_token_head_is_lost_as_with_its_mean():
    model, fit = previous_token_head(9, 12).double(), random_texts("fit", 600)
    texts = random_texts("score")
    with ablated(model, [(0, 0)], OwnTokenMap(fit)):
        mapped = recorded(model, texts, 0)[:, 2:]  # query 1 looks at BOS, which is always the same
    with ablated(model, [(0, 0)], Mean(fit[:, 2:])):
        mean = recorded(model, texts, 0)[:, 2:]
    # Means over 600 texts of shares of 1/8: standard error below .02 each; the map's own chance as much.
    assert (mapped - mean).abs().mean() < 0.04
    assert (recorded(model, texts, 0)[:, 2:] - mapped).abs().max() > 0.8


@pytest.mark.parametrize("norm", ["LN", "RMS", None])
def test_a_head_forced_onto_itself_is_an_affine_map_of_what_it_reads_whatever_the_norm(norm):
    model, fit, texts = ours(normalization_type=norm), text(1, **ENOUGH), text(2, **ENOUGH)

    def diagonal(pattern, hook):
        return torch.eye(pattern.shape[-1], dtype=pattern.dtype).expand_as(pattern)

    with model.hooks(fwd_hooks=[(names.pattern(1), diagonal)]):
        assert ablate(model, texts, [(1, 0), (1, 1)], OwnTokenMap(fit)).change.abs().max() < 1e-8


@pytest.mark.parametrize("norm", ["LN", "RMS", None])
def test_the_share_that_the_map_explains_is_the_probes(norm):
    model, fit, texts = ours(normalization_type=norm), text(1, **ENOUGH), text(2, **ENOUGH)
    expected = own_token(model, fit, texts).linear
    for layer in range(3):
        with ablated(model, [(layer, 0), (layer, 1)], OwnTokenMap(fit)):
            mapped = recorded(model, texts, layer)
        true, W_O = recorded(model, texts, layer), model.blocks[layer].attn.W_O
        energy = [torch.einsum("bphe,hed->bphd", z[:, 1:], W_O).square().sum((0, 1, 3)) for z in (true - mapped, true)]
        torch.testing.assert_close(1 - energy[0] / energy[1], expected[layer], rtol=1e-8, atol=1e-9)


def test_heads_outside_the_group_and_the_first_query_stay_as_they_are():
    model, texts = ours(), text(2, **ENOUGH)
    with ablated(model, [(1, 1)], OwnTokenMap(text(1, **ENOUGH))):
        found = recorded(model, texts, 1)
    true = recorded(model, texts, 1)
    assert torch.equal(found[:, :, 0], true[:, :, 0])
    assert torch.equal(found[:, 0], true[:, 0])
    assert not torch.allclose(found[:, 1:, 1], true[:, 1:, 1])


@pytest.mark.parametrize("build", [ours, HandWritten], ids=["ours", "somebody else's"])
def test_no_trace_is_left(build):
    model = build()
    before = trace(model)
    ablate(model, text(2, **ENOUGH), [(0, 0), (1, 1)], OwnTokenMap(text(1, **ENOUGH)))
    assert same(before, trace(model))


def test_too_few_queries_are_refused_with_how_many_are_needed():
    with pytest.raises(ProbeInputError, match="reference has 11 queries after the first: more than d_model"):
        ablate(ours(), text(2), [(0, 0)], OwnTokenMap(text(1, batch=1)))
