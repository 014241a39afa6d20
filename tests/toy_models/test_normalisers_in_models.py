"""Every normaliser by its name: in a model, with a fused backend, and from the command line's settings."""

import pytest
import torch

from analyses.core.config import configure
from analyses.core.errors import WorkbenchError
from analyses.induction.induction_vs_step import Config
from toy_models import Transformer, TransformerConfig, normalisers
from toy_models.attention import FUSED
from toy_models.attention.masks import visible_keys
from toy_models.errors import ConfigError, InputError
from toy_models.normalisers.log_n import LogN
from toy_models.normalisers.sigmoid import Sigmoid
from toy_models.normalisers.spec import SoftmaxOf

NAMES = list(normalisers.NAMES)
SMALL = {"n_layers": 2, "n_heads": 2, "d_model": 8, "d_vocab": 9, "n_ctx": 12}
PADDED = torch.tensor([[False] * 3 + [True] * 7, [True] * 10])  # rows that see no key


@pytest.mark.parametrize("name", NAMES)
def test_a_model_weighs_with_the_normaliser_that_its_configuration_names(name, perturbed, draw_tokens):
    model, tokens = perturbed(normaliser=name), draw_tokens(2, 10)
    logits = model(tokens, attention_mask=PADDED)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    watched, cache = model.run_with_cache(tokens, attention_mask=PADDED)
    torch.testing.assert_close(watched, logits.detach(), rtol=0, atol=1e-12)
    visible = visible_keys(10, 10, key_padding=PADDED)
    for layer in range(2):
        scores, pattern = (cache[f"blocks.{layer}.attn.hook_{part}"] for part in ("attn_scores", "pattern"))
        learned = model.blocks[layer].attn.per_head
        assert torch.equal(pattern, normalisers.find(name)()(scores, visible, **learned))
        sums_to_one = torch.allclose(pattern[:, :, 3:].sum(-1), torch.ones((), dtype=pattern.dtype))
        assert sums_to_one == model.cfg.normaliser.sums_to_one


@pytest.mark.parametrize("name", NAMES)
def test_row_statistics_are_told_of_rows_that_sum_to_1_and_refused_of_others(name, perturbed, draw_tokens):
    model, tokens = perturbed(normaliser=name), draw_tokens(2, 10)
    spec = model.cfg.normaliser
    if spec.sums_to_one or spec.virtual_key:
        found = model.attention_statistics(tokens)
        pattern = model.run_with_cache(tokens)[1]["pattern", 1]
        squares = pattern.square().sum(-1)
        if spec.virtual_key:
            squares = squares + found[1].unassigned_mass.square()
        torch.testing.assert_close(found[1].sum_squares, squares, rtol=0, atol=1e-12)
    else:
        with pytest.raises(InputError, match=r"blocks\.0\.attn: row statistics .* sum to 1, not of"):
            model.attention_statistics(tokens)


@pytest.mark.parametrize("name", NAMES)
def test_generating_token_by_token_sees_the_same_rows(name, perturbed, draw_tokens):
    model, tokens = perturbed(normaliser=name), draw_tokens(2, 6)
    text = model.generate(tokens, max_new_tokens=4, temperature=0.0)
    expected = model(text[:, :-1]).argmax(-1)[:, -4:]
    assert torch.equal(text[:, -4:], expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_models_are_weighed_in_float32(name, dtype, draw_tokens):
    model = Transformer(TransformerConfig(**SMALL, normaliser=name, dtype=dtype), seed=1)
    logits, cache = model.run_with_cache(draw_tokens(2, 10), attention_mask=PADDED)
    assert cache["blocks.1.attn.hook_pattern"].dtype == torch.float32
    assert logits.dtype == dtype
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", sorted(FUSED))
def test_a_fused_backend_takes_what_is_a_softmax_and_refuses_the_others_by_name(name, backend):
    spec = normalisers.find(name)()
    if isinstance(spec, SoftmaxOf):
        assert TransformerConfig(**SMALL, normaliser=name, attention=backend).attention == backend
        return
    with pytest.raises(ConfigError) as caught:
        TransformerConfig(**SMALL, normaliser=name, attention=backend)
    message = f"attention={backend!r} cannot run normaliser={spec}, which needs all scores of a row at once"
    assert str(caught.value) == f"{message}: use attention='auto'"


@pytest.mark.parametrize("name", NAMES)
def test_a_study_takes_a_normaliser_from_its_settings(name):
    config = configure(Config, {"model.normaliser": name})
    assert config.model.normaliser == normalisers.find(name)()


def test_a_study_takes_the_options_of_a_normaliser_from_its_settings():
    config = configure(Config, {"model.normaliser": "log_n", "model.normaliser.s": "0.43"})
    assert config.model.normaliser == LogN(s=0.43)
    config = configure(Config, {"model.normaliser": "log_n", "model.normaliser.learned": "true"})
    assert config.model.normaliser == LogN(learned=True)
    config = configure(Config, {"model.normaliser": "sigmoid", "model.normaliser.bias": "-3"})
    assert config.model.normaliser == Sigmoid(bias=-3.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.normaliser": "softmin"}, "'softmin': choose one of " + ", ".join(NAMES)),
        ({"model.normaliser": "log_n", "model.normaliser.s": "-1"}, "positive and finite s, not s=-1"),
        ({"model.normaliser": "log_n", "model.normaliser.s": "big"}, "model.normaliser.s=big: expected float"),
        ({"model.normaliser": "entmax15", "model.normaliser.s": "1"}, r"Entmax15\(\), which has no parts"),
    ],
    ids=str,
)
def test_settings_that_name_no_normaliser_or_option_are_refused(settings, message):
    with pytest.raises(WorkbenchError, match=message):
        configure(Config, settings)
