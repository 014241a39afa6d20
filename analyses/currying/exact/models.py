"""Models and texts on which a context and its effective weights must agree: random ones, and one with the answer."""

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from toy_models.seeding import generator

D_VOCAB, BOS = 9, 8
N_CONTEXT, N_QUERY = 6, 5
# Every part that a method has to get right, in few configurations.
KINDS = {
    "rope, RMS, gated": {"position": "rope", "normalization_type": "RMS", "gated_mlp": True, "act_fn": "silu"},
    "grouped": {"position": "rope", "normalization_type": "RMS", "n_heads": 4, "d_head": 4, "n_key_value_heads": 2},
    "learned, LN": {"position": "learned"},
    "no positions, attention only": {"position": "none", "normalization_type": None, "d_mlp": 0},
    "alibi, parallel": {"position": "alibi", "parallel_attn_mlp": True},
    "relative, post-norm": {"position": "relative", "norm_position": "post"},
    "shortformer, smeared": {"position": "shortformer", "smeared_keys": True},
}
PLAIN = "no positions, attention only"
LOUD = 30.0  # over the usual size of W_Q, as in the model of constant queries
FAR = 400.0  # nats: scores there spread over tens


def random(seed: int, kind: str = PLAIN, **options):
    """Three layers in float64 whose weights, gains and biases are all random, so that none is left out unnoticed."""
    from toy_models.config import TransformerConfig
    from toy_models.transformer import Transformer

    size = {"n_layers": 3, "n_heads": 2, "d_model": 12, "d_mlp": 20, "d_vocab": D_VOCAB, "n_ctx": 48, "bos_id": BOS}
    model = Transformer(TransformerConfig(**{**size, "dtype": "float64", **KINDS[kind], **options}), seed=seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator(seed, "exact", name), dtype=weight.dtype))
    return model


def every(seed: int) -> Iterator:
    """A random model of every kind."""
    return (random(seed, kind) for kind in KINDS)


def constant(seed: int, n_layers: int = 2):
    """Softmax attention that asks the same whatever the token.

    The stream is [1 | token, one-hot | what heads write], so that BOS has a direction of its own at every layer.
    """
    from toy_models.constructed import constant_queries

    model = constant_queries(n_layers=n_layers, seed=seed)
    token = 1 + torch.arange(model.cfg.d_vocab)
    with torch.no_grad():
        model.W_E[:, 1:] = 0.0
        model.W_E[:, token] = torch.eye(len(token), dtype=model.W_E.dtype)
        for block in model.blocks:
            block.attn.W_O[..., token] = 0.0
    return model


@torch.no_grad()
def differing(seed: int):
    """The same with queries that depend on the token, and are as loud."""
    model = constant(seed)
    for block in model.blocks:
        block.attn.W_Q.copy_(LOUD * block.attn.W_K.roll(1, 0))
    return model


def context(model, seed: int, name: str = "context", n: int = N_CONTEXT) -> Int[Tensor, " context"]:
    """Random tokens, none of them BOS."""
    return asked(model, seed, name, 1, n)[0]


def asked(model, seed: int, name: str = "held out", n: int = 24, length: int = N_QUERY) -> Int[Tensor, "batch query"]:
    """Random queries."""
    from probes.currying import uniform_queries

    return uniform_queries(model, n, length, generator(seed, "exact", name))


def fit(model, seed: int) -> Int[Tensor, "batch query"]:
    """Queries for a method to try its context on, none of them held out."""
    drawn, held_out = asked(model, seed, "fit", 60), asked(model, seed)
    return drawn[(drawn[:, None] != held_out).any(-1).all(-1)]


def whole(model, words: Int[Tensor, " context"], queries: Int[Tensor, "batch query"]) -> Int[Tensor, "batch pos"]:
    """BOS, context and query in one text."""
    first = torch.cat([torch.tensor([model.cfg.bos_id]), words]).expand(len(queries), -1)
    return torch.cat([first, queries], dim=1)


@torch.no_grad()
def in_another_basis(model, seed: int):
    """The same function: queries and keys, values and outputs of every head in other coordinates."""
    d_head = model.cfg.d_head
    for layer, block in enumerate(model.blocks):
        attn = block.attn
        draws = generator(seed, "exact", "basis", layer)
        a, b = torch.randn(2, model.cfg.n_heads, d_head, d_head, generator=draws, dtype=torch.float64)
        for letter, basis in (("Q", torch.linalg.inv(a).mT), ("K", a), ("V", b)):
            weight, bias = getattr(attn, f"W_{letter}"), getattr(attn, f"b_{letter}")
            weight.copy_(weight @ basis)
            bias.copy_((bias[:, None] @ basis)[:, 0])
        attn.W_O.copy_(torch.linalg.solve(b, attn.W_O))
    return model


@torch.no_grad()
def hidden_context(seed: int):
    """One layer of constant queries whose keys of the last three tokens lie far below all others."""
    model = constant(seed, n_layers=1)
    attn, embedded = model.blocks[0].attn, model.W_E
    away = torch.zeros(len(embedded), dtype=embedded.dtype)
    away[-3:] = 1.0
    told_apart = torch.linalg.pinv(embedded) @ away  # reads 1 from the three, 0 from all others
    query = embedded[0] @ attn.W_Q + attn.b_Q  # head d_head, the same for every token
    lower = FAR * model.cfg.attn_scale * query / query.square().sum(-1, keepdim=True)
    attn.W_K -= told_apart[:, None] * lower[:, None]
    return model
