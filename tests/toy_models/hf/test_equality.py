import pytest
import torch

from tests.toy_models.hf.twins import CASES, lifted, theirs
from toy_models import from_hf
from toy_models.hf import reading

SEEDS = (0, 1)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return (one - other).abs().max().item()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", CASES)
def test_logits_in_float32_are_those_of_transformers(case, seed, twin, tokens):
    model, folder = twin(case, seed=seed)
    logits = model(tokens).logits
    assert logits.std() > 0.05  # else equality would say little
    assert largest_difference(from_hf(folder)(tokens), logits) <= 1e-4


@pytest.mark.parametrize("case", CASES)
def test_row_statistics_are_those_of_the_patterns_of_transformers(case, twin, tokens):
    model, folder = twin(case)
    patterns = model(tokens, output_attentions=True).attentions
    found = from_hf(folder).attention_statistics(tokens)
    for rows, pattern in zip(found, patterns, strict=True):
        torch.testing.assert_close(rows.peak, pattern.amax(-1), rtol=0, atol=1e-4)
        torch.testing.assert_close(rows.sink_mass, pattern[..., 0], rtol=0, atol=1e-4)
        torch.testing.assert_close(rows.entropy, torch.special.entr(pattern).sum(-1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_read_a_row_at_a_time_every_weight_is_the_same(case, twin, monkeypatch):
    whole = from_hf(twin(case)[1])
    monkeypatch.setattr(reading, "CHUNK", 1)
    pieces = from_hf(twin(case)[1])
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, pieces.state_dict()[name]), name


@pytest.mark.parametrize("case", CASES)
def test_logits_in_float64_are_those_of_transformers_as_it_comes(case, twin, tokens):
    model, folder = twin(case, torch.float64)
    tolerance = 1e-10 if case.startswith("gpt2") else 1e-5  # all but GPT-2 cast to float32 inside
    assert largest_difference(from_hf(folder)(tokens), model(tokens).logits) <= tolerance


@pytest.mark.parametrize("case", CASES)
def test_logits_in_float64_are_those_of_transformers_without_its_casts(case, twin, tokens):
    saved, folder = twin(case, torch.float64)
    with lifted():
        model = theirs(case, torch.float64)
        model.load_state_dict(saved.state_dict())
        logits = model(tokens).logits
    assert logits.dtype == torch.float64
    assert largest_difference(from_hf(folder)(tokens), logits) <= 1e-10
