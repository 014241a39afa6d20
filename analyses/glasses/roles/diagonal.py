"""Can a head of the first layer look at its own position?  On [bos, x, x], and with one rotary frequency."""

import math
from dataclasses import replace

import numpy as np
import torch

from probes import names
from toy_models import Transformer, TransformerConfig
from toy_models.constructed import diagonal_head, one_frequency_head

TEXT = torch.tensor([[0, 3, 3]])
OPTIONS = TransformerConfig(
    **{"n_layers": 1, "n_heads": 8, "d_model": 16, "d_head": 8, "d_mlp": 0, "d_vocab": 8, "n_ctx": 3},
    **{"dtype": "float64", "position": "none"},
)


def on_itself(model) -> torch.Tensor:
    """The weight of the last token of [bos, x, x] on itself, (head,), with its gradient."""
    found = []

    def take(pattern, hook):
        found.append(pattern[0, :, 2, 2])
        return pattern

    model.run_with_hooks(TEXT.to(model.cfg.device), fwd_hooks=[(names.pattern(0), take)])
    return found[0]


@torch.no_grad()
def random_heads(seed: int, scales: tuple[float, ...] = (1.0, 4.0, 16.0)) -> np.ndarray:
    """Heads without positions whose queries are scaled up, with LayerNorm, RMSNorm and none; (head,)."""
    found = []
    for scale in scales:
        for norm in ("LN", "RMS", None):
            model = Transformer(replace(OPTIONS, normalization_type=norm), seed=seed)
            model.blocks[0].attn.W_Q.mul_(scale)
            found.append(on_itself(model))
    return torch.cat(found).numpy()


def optimised_heads(seed: int, position: str, steps: int = 60, lr: float = 0.1) -> np.ndarray:
    """Heads all of whose weights, embedding included, were changed by Adam towards a larger weight; (head,)."""
    model = Transformer(replace(OPTIONS, position=position), seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (-on_itself(model).log().sum()).backward()
        optimizer.step()
    with torch.no_grad():
        return on_itself(model).numpy()


@torch.no_grad()
def constructed_head() -> float:
    """The weight of the last token on itself in the diagonal head with rotary positions."""
    return on_itself(diagonal_head(d_vocab=8, n_ctx=64).double()).item()


@torch.no_grad()
def one_frequency(squared_norm: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Every query's weight on itself in a text of n tokens, measured and in closed form; (query,), float64."""
    tokens = torch.arange(n)[None] % 7 + 1
    model = one_frequency_head(float(squared_norm), d_vocab=8, n_ctx=n).double()
    # The model was built in float32; what it holds is the norm to compare with.
    held = model.blocks[0].attn.b_Q.square().sum().item()
    _, cache = model.run_with_cache(tokens, names_filter=[names.pattern(0)])
    measured = cache[names.pattern(0)][0, 0].diagonal().numpy()
    return measured, 1 / np.cumsum([math.exp(held * (math.cos(r) - 1)) for r in range(n)])


def premises(seeds: tuple[int, ...], squared_norms: tuple[float, ...]) -> dict[str, np.ndarray]:
    """What proposition 5.2 and theorem 5.3 are about: heads that cannot look at their own position, and can."""
    found = {
        "[bos, x, x], no positions, random (seed, head)": np.stack([random_heads(seed) for seed in seeds]),
        "[bos, x, x], no positions, optimised (seed, head)": np.stack([optimised_heads(s, "none") for s in seeds]),
        "[bos, x, x], rotary, optimised (seed, head)": np.stack([optimised_heads(s, "rope") for s in seeds]),
        "[bos, x, x], rotary, constructed (model)": np.array([constructed_head()]),
    }
    for squared_norm in squared_norms:
        for n in (16, 512):
            measured, closed = one_frequency(squared_norm, n)
            found[f"one frequency, {squared_norm}, {n} tokens: own weight (query)"] = measured
            found[f"one frequency, {squared_norm}, {n} tokens: closed form (query)"] = closed
    return found
