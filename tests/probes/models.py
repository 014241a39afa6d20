"""Models that the tests of several probes run on, and what a probe must leave of them."""

import math
from types import SimpleNamespace

import torch
from torch import nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from toy_models import Transformer, TransformerConfig
from toy_models.seeding import generator


def ours(**options) -> Transformer:
    """Every gain and bias is random, so that none can be left out unnoticed."""
    size = {"n_layers": 3, "n_heads": 2, "d_model": 12, "d_mlp": 20, "d_vocab": 9, "n_ctx": 16, "dtype": "float64"}
    model = Transformer(TransformerConfig(**{**size, **options}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_((0.3 * torch.randn(weight.shape, generator=generator(1, name))).to(weight.dtype))
    return model


def text(seed: int = 0, batch: int = 3, n: int = 12) -> torch.Tensor:
    """Tokens that every model here knows."""
    return torch.randint(9, (batch, n), generator=generator(seed, "text"))


class Weights(nn.Module):
    """Random matrices under the names given."""

    def __init__(self, seed: int, **shapes: tuple[int, ...]):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(*shape, generator=random) / 2))


class Attention(Weights):
    def __init__(self, seed: int, n_heads: int, d_model: int, d_head: int):
        read, write = (n_heads, d_model, d_head), (n_heads, d_head, d_model)
        super().__init__(seed, W_Q=read, W_K=read, W_V=read, W_O=write)
        self.hook_pattern, self.hook_z = HookPoint(), HookPoint()

    def forward(self, x):
        q, k, v = (torch.einsum("bpd,hde->bphe", x, w) for w in (self.W_Q, self.W_K, self.W_V))
        scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / math.sqrt(q.shape[-1])
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        pattern = self.hook_pattern(scores.masked_fill(hidden, -torch.inf).softmax(-1))
        z = self.hook_z(torch.einsum("bhqk,bkhe->bqhe", pattern, v))
        return torch.einsum("bphe,hed->bpd", z, self.W_O)


class Block(nn.Module):
    def __init__(self, seed: int, n_heads: int, d_model: int, d_head: int):
        super().__init__()
        self.attn = Attention(seed, n_heads, d_model, d_head)
        self.hook_resid_pre, self.hook_resid_post = HookPoint(), HookPoint()

    def forward(self, x):
        x = self.hook_resid_pre(x)
        return self.hook_resid_post(x + self.attn(x))


class RMS(Weights):
    def __init__(self, d_model: int):
        super().__init__(8, w=(d_model,))
        self.hook_scale = HookPoint()

    def forward(self, x):
        return x / self.hook_scale(x.pow(2).mean(-1, keepdim=True).sqrt()) * self.w


class Unembed(Weights):
    def forward(self, x):
        return x @ self.W_U


class HandWritten(HookedRootModule):
    """Somebody else's: it shares nothing with ours but TransformerLens's names for hooks and weights.

    Attention only, an RMS norm at the end alone, no positions, no biases.
    """

    def __init__(self, n_layers: int = 2, n_heads: int = 2, d_model: int = 8, d_vocab: int = 16):
        super().__init__()
        self.cfg = SimpleNamespace(n_layers=n_layers, n_heads=n_heads, normalization_type="RMS")
        self.embed = Weights(9, W_E=(d_vocab, d_model))
        self.hook_embed = HookPoint()
        self.blocks = nn.ModuleList(Block(layer, n_heads, d_model, 4) for layer in range(n_layers))
        self.ln_final = RMS(d_model)
        self.unembed = Unembed(7, W_U=(d_model, d_vocab))
        self.setup()

    def forward(self, tokens):
        x = self.hook_embed(self.embed.W_E[tokens])
        for block in self.blocks:
            x = block(x)
        return self.unembed(self.ln_final(x))


def trace(model) -> tuple:
    """What a probe might leave behind: weights, their gradients, hooks, the mode."""
    points = [m for m in model.modules() if isinstance(m, HookPoint)]
    assert points
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [p.grad is None for p in model.parameters()],
        [(len(p._forward_hooks), len(p._backward_hooks), len(p.ctx)) for p in points],
        model.training,
    )


def same(before: tuple, after: tuple) -> bool:
    """Whether two traces are equal, weights bit for bit."""
    weights = before[0].keys() == after[0].keys() and all(torch.equal(v, after[0][k]) for k, v in before[0].items())
    return weights and before[1:] == after[1:]
