"""A prefix of the key-value cache: what `patch` reuses of a run."""

import pytest
import torch

from toy_models.errors import InputError


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("length", [0, 3, 6])
def test_copies_of_a_prefix_go_on_as_the_text_does_and_leave_the_cache_alone(perturbed, draw_tokens, batch, length):
    model, tokens = perturbed(position="rope", smeared_keys=True), draw_tokens(batch, 8)
    past = model.empty_cache()
    assert past.length == 0
    model(tokens[:, :6], past=past)
    prefix = past.prefix(length, copies=3)
    found = model(tokens[:, length:].repeat(3, 1), past=prefix)
    torch.testing.assert_close(found, model(tokens)[:, length:].repeat(3, 1, 1), rtol=0, atol=1e-10)
    assert (prefix.length, past.length) == (8, 6)
    torch.testing.assert_close(model(tokens[:, 6:], past=past), model(tokens)[:, 6:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", [-1, 1])
def test_a_prefix_longer_than_the_text_is_refused(perturbed, length):
    with pytest.raises(InputError, match=rf"length={length} must lie in \[0, 0\]"):
        perturbed().empty_cache().prefix(length)
