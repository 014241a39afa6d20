"""What the tests of this floor share: a small model none of whose parameters is special."""

import pytest
import torch


@pytest.fixture(scope="session")
def perturbed():
    """A factory of small float64 models with random gains and biases, so that none can be left out unnoticed."""

    from toy_models import Transformer, TransformerConfig  # the attention tests run where TransformerLens is not

    def make(seed: int = 0, **options):
        size = {"n_layers": 2, "n_heads": 2, "d_model": 12, "d_mlp": 20, "d_vocab": 9, "n_ctx": 16}
        model = Transformer(TransformerConfig(**{**size, "dtype": "float64", **options}), seed=seed)
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                drawn = torch.randn(weight.shape, generator=noise, dtype=torch.float64)
                weight.add_((0.3 * drawn).to(weight.dtype))
        return model

    return make


@pytest.fixture(scope="session")
def draw_tokens():
    """Token ids below `d_vocab`, the same for the same seed."""

    def draw(*shape: int, d_vocab: int = 9, seed: int = 0) -> torch.Tensor:
        return torch.randint(0, d_vocab, shape, generator=torch.Generator().manual_seed(seed))

    return draw
