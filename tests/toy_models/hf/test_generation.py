import pytest
import torch

from tests.toy_models.hf.twins import CASES
from toy_models import from_hf

NEW = 14  # more than any window


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_greedy_tokens_with_the_cache_are_those_of_transformers(case, twin, tokens):
    model, folder = twin(case, torch.float64, seed=1)
    prompt = tokens.reshape(-1, 8)
    # Without a mask of its own transformers would take every token 0 for padding.
    settings = {"do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(prompt)}
    wanted = model.generate(prompt, max_new_tokens=NEW, **settings)
    found = from_hf(folder).generate(prompt, NEW)
    assert torch.equal(found, wanted)
    assert len(found[:, 8:].unique()) > 2  # not one token over and over


@torch.no_grad()
@pytest.mark.parametrize("case", ["gpt2", "mistral", "qwen3_biased_windows", "gemma2", "gemma3"])
def test_the_cache_changes_nothing(case, twin, tokens):
    model = from_hf(twin(case, torch.float64)[1])
    past = model.empty_cache()
    by_pieces = torch.cat([model(piece, past=past) for piece in tokens.split([5, 1, 1, 10, 7], dim=1)], dim=1)
    torch.testing.assert_close(by_pieces, model(tokens), rtol=0, atol=1e-12)
