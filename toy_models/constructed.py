"""Transformers whose weights are set by hand: what each head does is known, so probes can be calibrated.

All are attention-only, without norms, with learned positions (the diagonal head: rotary).  The residual stream
is a set of one-hot blocks, [token | position | previous token], so a weight is a wire from one block to another.
`sharpness` is the score of a match in nats; with n keys the mass beside the match is at most (n - 1) exp(-sharpness).
"""

import math

import torch

from toy_models.config import TransformerConfig
from toy_models.positions.rope import Rope
from toy_models.transformer import Transformer

SHARPNESS = 20.0


def _blank(n_layers: int, d_vocab: int, n_ctx: int, d_model: int, **options) -> Transformer:
    """One head per layer, all weights zero, tokens and learned positions embedded one-hot in the first blocks."""
    config = TransformerConfig(
        n_layers=n_layers,
        n_heads=1,
        d_model=d_model,
        d_vocab=d_vocab,
        n_ctx=n_ctx,
        d_mlp=0,
        normalization_type=None,
        attn_scale=1.0,
        bos_id=0,
        **{"d_head": max(d_vocab, n_ctx), "position": "learned", **options},
    )
    model = Transformer(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.W_E[:, :d_vocab] = torch.eye(d_vocab)
        if config.position.where == "embed":
            model.W_pos[:, d_vocab : d_vocab + n_ctx] = torch.eye(n_ctx)
    return model


@torch.no_grad()
def _look_back(model: Transformer, layer: int, sharpness: float, write_to: int) -> None:
    """Head 0 of `layer` attends to the previous position and writes its token at coordinate `write_to` on."""
    d_vocab, n_ctx = model.cfg.d_vocab, model.cfg.n_ctx
    attn = model.blocks[layer].attn
    at = torch.arange(n_ctx)
    attn.W_Q[0, d_vocab + at, at] = sharpness  # "I am at i"
    attn.W_K[0, d_vocab + at[:-1], at[1:]] = 1.0  # "I am the one before j + 1"
    token = torch.arange(d_vocab)
    attn.W_V[0, token, token] = 1.0
    attn.W_O[0, token, write_to + token] = 1.0


@torch.no_grad()
def uniform_head(d_vocab: int = 16, n_ctx: int = 32) -> Transformer:
    """One layer, all scores zero: p_j = 1/(i + 1) for j <= i, entropy ln(i + 1) nats.  The logits are
    the share of each token among those seen."""
    answer = d_vocab + n_ctx
    model = _blank(1, d_vocab, n_ctx, d_model=2 * d_vocab + n_ctx)
    attn, token = model.blocks[0].attn, torch.arange(d_vocab)
    attn.W_V[0, token, token] = 1.0
    attn.W_O[0, token, answer + token] = 1.0
    model.W_U[answer + token, token] = 1.0
    return model


@torch.no_grad()
def previous_token_head(d_vocab: int = 16, n_ctx: int = 32, sharpness: float = SHARPNESS) -> Transformer:
    """One layer: position i > 0 attends to i - 1, and the logits say that token.  Position 0 sees itself."""
    model = _blank(1, d_vocab, n_ctx, d_model=2 * d_vocab + n_ctx)
    previous = d_vocab + n_ctx
    _look_back(model, 0, sharpness, write_to=previous)
    token = torch.arange(d_vocab)
    model.W_U[previous + token, token] = sharpness
    return model


@torch.no_grad()
def diagonal_head(
    d_vocab: int = 16, n_ctx: int = 32, sharpness: float = SHARPNESS, base: float = 10000.0
) -> Transformer:
    """One layer with rotary positions: every position attends to itself, and the logits say its own token.

    Queries and keys are one constant psi = (a, ..., a, 0, ..., 0) whatever the token, so that the score of j for i
    is a^2 sum_c cos((i - j) theta_c), over all d_head / 2 frequencies theta_c = base^(-2c / d_head) rad per token.
    One frequency alone nearly returns to its start within a long text; all together do not, and a is as large as
    the closest return needs: every other key's score is at least `sharpness` nats lower.
    Source: Barbero et al. 2024, arXiv:2410.06205, theorem 5.3.  Without positions no head of the first layer can
    do this (proposition 5.2).
    """
    n_frequencies = math.ceil(d_vocab / 2)
    model = _blank(1, d_vocab, n_ctx, 2 * d_vocab, d_head=2 * n_frequencies, position=Rope(base=base))
    theta = base ** (-torch.arange(n_frequencies, dtype=torch.float64) / n_frequencies)
    distance = torch.arange(1, max(2, n_ctx), dtype=torch.float64)
    closest = (1 - (distance[:, None] * theta).cos()).sum(-1).min()
    attn, token = model.blocks[0].attn, torch.arange(d_vocab)
    attn.b_Q[0, :n_frequencies] = attn.b_K[0, :n_frequencies] = (sharpness / closest).sqrt()
    attn.W_V[0, token, token] = 1.0
    attn.W_O[0, token, d_vocab + token] = 1.0
    model.W_U[d_vocab + token, token] = sharpness
    return model


@torch.no_grad()
def induction_circuit(d_vocab: int = 16, n_ctx: int = 32, sharpness: float = SHARPNESS) -> Transformer:
    """Two layers.  Layer 0 writes the previous token beside each token; layer 1 looks for the position whose
    previous token is the current one and says the token found there.

    Where the current token is new, layer 1 has no match and attends to all keys alike.
    """
    previous, answer = d_vocab + n_ctx, 2 * d_vocab + n_ctx
    model = _blank(2, d_vocab, n_ctx, d_model=3 * d_vocab + n_ctx)
    _look_back(model, 0, sharpness, write_to=previous)
    attn, token = model.blocks[1].attn, torch.arange(d_vocab)
    attn.W_Q[0, token, token] = sharpness  # "I am token t"
    attn.W_K[0, previous + token, token] = 1.0  # "before me stood t"
    attn.W_V[0, token, token] = 1.0
    attn.W_O[0, token, answer + token] = 1.0
    model.W_U[answer + token, token] = sharpness
    return model
