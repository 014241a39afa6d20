"""Normalisers that learn, and those that run fused: log_n, off_by_one and sink_logit as a softmax of something else."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.toy_models.test_normalisers import ROW, masked, one_row, weigh
from toy_models import Transformer, TransformerConfig, normalisers
from toy_models.attention.masks import count_visible, visible_keys
from toy_models.errors import ConfigError, InputError, ModelError
from toy_models.hf.writing import to_hf
from toy_models.normalisers.log_n import LogN
from toy_models.normalisers.off_by_one import OffByOne
from toy_models.normalisers.sink_logit import SinkLogit
from toy_models.normalisers.softmax import Softmax

FUSED = [LogN(s=0.4), LogN(s=0.6, learned=True), OffByOne(), SinkLogit(start=0.5)]
by_spec = pytest.mark.parametrize("spec", FUSED, ids=["log_n", "log_n learned", "off_by_one", "sink_logit"])
MASKS = {
    "causal": {},
    "window": {"window": 3},
    "bidirectional": {"causal": False},
    "bidirectional window": {"causal": False, "window": 2},
}
PADDED = torch.tensor([[False] * 4 + [True] * 6, [True] * 10])  # rows that see no key


# What is learned ----------------------------------------------------------------------------------


@given(row=ROW, logit=st.floats(-20, 20))
def test_a_learned_sink_logit_is_off_by_one_of_scores_that_are_so_much_lower(row, logit):
    learned = SinkLogit()(*one_row(row), sink_logit=torch.tensor([logit], dtype=torch.float64))
    torch.testing.assert_close(learned[0, 0, 0], weigh(OffByOne(), row - logit), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(weigh(SinkLogit(start=logit), row), learned[0, 0, 0], rtol=1e-12, atol=1e-15)


@given(row=ROW, s=st.floats(-2, 4))
def test_a_learned_s_does_what_a_fixed_one_does_and_may_be_negative(row, s):
    learned = LogN(learned=True)(*one_row(row), s=torch.tensor([s], dtype=torch.float64))[0, 0, 0]
    expected = weigh(Softmax(), s * math.log(len(row)) * row)
    torch.testing.assert_close(learned, expected, rtol=1e-10, atol=1e-14)
    assert torch.equal(weigh(LogN(s=0.7, learned=True), row), weigh(LogN(s=0.7), row))


@pytest.mark.parametrize(
    ("spec", "name"), [(LogN(learned=True), "s"), (SinkLogit(), "sink_logit")], ids=["s", "sink_logit"]
)
def test_what_is_learned_per_head_has_the_gradient_of_finite_differences(spec, name):
    scores, visible = masked()
    start = torch.tensor([0.5, -0.3, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda s, value: spec(s.masked_fill(~visible, -torch.inf), visible, **{name: value}),
        (scores.masked_fill(~visible, 0.0).requires_grad_(), start),
        atol=1e-6,
    )


# Fused ----------------------------------------------------------------------------------------------


@given(
    n_key=st.integers(1, 9),
    missing=st.integers(0, 8),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 10),
    real=st.none() | st.lists(st.booleans(), min_size=18, max_size=18),
)
def test_visible_keys_are_counted_without_the_mask(n_key, missing, causal, window, real):
    padding = None if real is None else torch.tensor(real[: 2 * n_key]).reshape(2, n_key)
    shape, masks = (max(1, n_key - missing), n_key), {"causal": causal, "window": window, "key_padding": padding}
    assert torch.equal(count_visible(*shape, **masks), visible_keys(*shape, **masks)[:, 0].sum(-1))


@by_spec
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("options", [{}, {"n_heads": 6, "n_key_value_heads": 2, "position": "rope"}], ids=["", "GQA"])
def test_fused_and_held_weights_give_one_output_and_one_gradient(spec, mask, options, perturbed, draw_tokens):
    model, tokens = perturbed(normaliser=spec, **MASKS[mask], **options), draw_tokens(2, 10)
    found = {}
    for backend in ("reference", "sdpa", "tiled", "auto"):
        model.set_attention(backend)
        model.zero_grad()
        logits = model(tokens, attention_mask=PADDED)
        logits.square().mean().backward()
        assert model.backends == (backend if backend != "auto" else "sdpa",) * 2
        found[backend] = [logits.detach(), *(p.grad for p in model.parameters())]
    held = found.pop("reference")
    assert all(grad is not None for grad in held)
    for fused in found.values():
        for one, other in zip(fused, held, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@by_spec
@pytest.mark.parametrize("mask", MASKS)
def test_statistics_without_the_pattern_are_those_of_the_weights_that_it_would_hold(spec, mask, perturbed, draw_tokens):
    model, tokens = perturbed(normaliser=spec, **MASKS[mask]), draw_tokens(2, 10)
    asked = {"attention_mask": PADDED, "targets": torch.full((1, 1, 10), 5), "received": True}
    fused = model.attention_statistics(tokens, **asked)
    assert model.backends == ("tiled", "tiled")
    model.set_attention("reference")
    held = model.attention_statistics(tokens, **asked)
    pattern = model.run_with_cache(tokens, attention_mask=PADDED)[1]["pattern", 1]
    for name in fused[1].__dataclass_fields__:
        one, other = getattr(fused[1], name), getattr(held[1], name)
        assert (one is None) == (other is None) == (name == "unassigned_mass" and not spec.virtual_key)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(fused[1].sink_mass, pattern[..., 0], rtol=1e-10, atol=1e-12)
    if spec.virtual_key:
        torch.testing.assert_close(fused[1].unassigned_mass, 1 - pattern.sum(-1), rtol=0, atol=1e-12)


@by_spec
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_models_keep_the_error_budget_fused(spec, dtype, perturbed, draw_tokens):
    """Twice the error of the model that holds its weights, and a unit in the last place of the largest logit."""
    tokens, logits = draw_tokens(3, 14), {}
    model = perturbed(normaliser=spec).to(dtype)
    for backend in ("reference", "tiled", "auto"):
        model.set_attention(backend)
        logits[backend] = model(tokens).detach().double()
    model.double().set_attention("reference")
    exact = model(tokens).detach()
    unit = torch.finfo(dtype).eps * exact.abs().max()
    held = (logits.pop("reference") - exact).abs().max()
    for found in logits.values():
        assert (found - exact).abs().max() <= 2 * held + unit


@by_spec
def test_token_by_token_every_row_counts_the_keys_in_the_cache(spec, perturbed, draw_tokens):
    model, tokens = perturbed(normaliser=spec, window=4), draw_tokens(2, 10)
    whole = model(tokens, attention_mask=PADDED)
    past, steps = model.empty_cache(), []
    for at in range(10):
        steps.append(model(tokens[:, at : at + 1], past=past, attention_mask=PADDED[:, : at + 1]))
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", ["sdpa", "tiled"])
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"position": "alibi"}, "multiplies the bias of position=Alibi(slopes=None) as well"),
        ({"attn_scores_soft_cap": 5.0}, "multiplies scores behind attn_scores_soft_cap=5.0"),
    ],
    ids=["bias", "cap"],
)
def test_log_n_is_held_where_multiplied_queries_would_miss_a_part_of_the_scores(
    options, reason, backend, perturbed, draw_tokens
):
    tokens = draw_tokens(2, 10)
    for spec in (LogN(), LogN(learned=True)):
        model = perturbed(normaliser=spec, **options)
        logits, cache = model.run_with_cache(tokens)
        torch.testing.assert_close(model(tokens), logits, rtol=1e-12, atol=1e-13)
        assert model.backends == ("reference", "reference")
        expected = spec(cache["attn_scores", 1], visible_keys(10, 10), **model.blocks[1].attn.per_head)
        assert torch.equal(cache["pattern", 1], expected)
    with pytest.raises(ConfigError) as caught:
        TransformerConfig(n_layers=1, n_heads=2, d_model=8, d_vocab=9, n_ctx=12, attention=backend,
                          normaliser="log_n", **options)  # fmt: skip
    assert str(caught.value).endswith(f"which {reason}: use attention='auto'")


# In a model -----------------------------------------------------------------------------------------


def test_a_model_starts_where_the_spec_says_and_holds_a_number_per_head():
    size = {"n_layers": 2, "n_heads": 4, "d_model": 8, "d_vocab": 9, "n_ctx": 12, "n_key_value_heads": 2}
    plain = Transformer(TransformerConfig(**size), seed=3)
    for spec, name in ((LogN(s=0.4, learned=True), "s"), (SinkLogit(start=-1.5), "sink_logit")):
        model = Transformer(TransformerConfig(**size, normaliser=spec), seed=3)
        extra = {key: value for key, value in model.state_dict().items() if key not in plain.state_dict()}
        assert list(extra) == [f"blocks.{layer}.attn.per_head.{name}" for layer in range(2)]
        start = spec.per_head[name]
        assert all(torch.equal(value, torch.full((4,), start)) for value in extra.values())
        shared = plain.state_dict()
        assert all(torch.equal(model.state_dict()[key], value) for key, value in shared.items())


@pytest.mark.parametrize("name", ["softmax", "log_n", "off_by_one", "relu"])
def test_a_normaliser_that_learns_nothing_adds_no_parameter(name):
    size = {"n_layers": 1, "n_heads": 2, "d_model": 8, "d_vocab": 9, "n_ctx": 12}
    names = [set(Transformer(TransformerConfig(**size, normaliser=one)).state_dict()) for one in ("softmax", name)]
    assert names[0] == names[1]


@pytest.mark.parametrize("name", ["log_n", "off_by_one", "sink_logit", "relu"])
def test_a_hugging_face_directory_holds_softmax_and_refuses_the_others_by_name(name, tmp_path):
    config = TransformerConfig(
        n_layers=1, n_heads=2, d_model=8, d_vocab=9, n_ctx=12, act_fn="gelu_new", normaliser=name
    )
    with pytest.raises(ModelError, match=f"normaliser='{normalisers.find(name).__name__}' must be 'Softmax'"):
        to_hf(Transformer(config), tmp_path / "out")


def test_statistics_of_weights_that_sum_to_nothing_in_particular_are_still_refused(perturbed, draw_tokens):
    for name in ("relu", "sigmoid", "linear"):
        with pytest.raises(InputError, match="sum to 1"):
            perturbed(normaliser=name).attention_statistics(draw_tokens(1, 5))
