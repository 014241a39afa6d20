"""Transformers whose weights are set by hand: what each head does is known, so probes can be calibrated.

All are attention-only, without norms, with learned positions (diagonal heads: rotary; heads that look for a token:
none).  The residual stream is a set of one-hot blocks, [token | position | previous token], so a weight is a wire from
one block to another.
`sharpness` is the score of a match in nats; with n keys the mass beside the match is at most (n - 1) exp(-sharpness).
"""

import math
from collections.abc import Sequence

import torch

from toy_models.config import TransformerConfig
from toy_models.errors import ConfigError
from toy_models.positions.rope import Rope
from toy_models.tasks.who_did_what import FIRST_ENTITY, WHO, WhoDidWhat
from toy_models.transformer import Transformer

SHARPNESS = 20.0


def _blank(n_layers: int, d_vocab: int, n_ctx: int, d_model: int, **options) -> Transformer:
    """All weights zero, tokens and learned positions embedded one-hot in the first blocks; one head per layer."""
    config = TransformerConfig(
        n_layers=n_layers,
        d_model=d_model,
        d_vocab=d_vocab,
        n_ctx=n_ctx,
        d_mlp=0,
        normalization_type=None,
        attn_scale=1.0,
        bos_id=0,
        **{"n_heads": 1, "d_head": max(d_vocab, n_ctx), "position": "learned", **options},
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
def one_frequency_head(squared_norm: float, d_vocab: int = 16, n_ctx: int = 32) -> Transformer:
    """The diagonal head on the fastest pair alone, which turns by 1 rad per token: the score of j for i is
    squared_norm cos(i - j) nats, and query i gives 1 / sum over r = 0 .. i of exp(squared_norm (cos r - 1)) to itself.

    It fades as the text grows, whatever its norm: cos(44) and cos(710) are within 2e-4 of cos(0).
    Source: Barbero et al. 2024, arXiv:2410.06205, theorem 5.3.
    """
    model = diagonal_head(d_vocab, n_ctx)
    for bias in (model.blocks[0].attn.b_Q, model.blocks[0].attn.b_K):
        bias.zero_()
        bias[0, 0] = math.sqrt(squared_norm)
    return model


@torch.no_grad()
def first_token_head(d_vocab: int = 16, n_ctx: int = 32, sharpness: float = SHARPNESS) -> Transformer:
    """One layer without positions: every query attends to token 0, which stands first and only there, and the logits
    say that token: a sink that carries a value as long as any other."""
    model = _blank(1, d_vocab, n_ctx, 2 * d_vocab, position="none")
    attn, token = model.blocks[0].attn, torch.arange(d_vocab)
    attn.b_Q[0, 0] = sharpness
    attn.W_K[0, model.cfg.bos_id, 0] = 1.0
    attn.W_V[0, token, token] = 1.0
    attn.W_O[0, token, d_vocab + token] = 1.0
    model.W_U[d_vocab + token, token] = sharpness
    return model


@torch.no_grad()
def answering_heads(
    task: WhoDidWhat, shares: Sequence[Sequence[float]], sharpness: float = SHARPNESS, scale: float = 1.0
) -> Transformer:
    """One layer that answers `WhoDidWhat`: head h gives the fillers of WHO, WHOM and NEAR the weights shares[h].

    A key holds the marker before it, a value the entity alone, so the question reads the mixture
    c = (sum over roles of shares[h][role] e_filler, for each head), and says the answer whose own c is nearest:
    logit scale (c' . c - |c'|^2 / 2).  The right answer leads by scale |c - c'|^2 / 2 over the one that means c'.

    With who and whom asked, one head of shares (w, 1 - w) leads by (2 w - 1)^2 over the swapped pair and by
    (1 - w)^2 over a wrong whom: nothing at equal shares, and no more than 1/9, at w = 2/3.  Two heads of one role each
    lead by 1.

    Raises:
        ConfigError: shares of a head that are not those of three roles, or do not sum to 1.
    """
    for row in shares:
        if len(row) != 3 or min(row) < 0 or abs(sum(row) - 1) > 1e-9:
            raise ConfigError(f"shares {tuple(row)}: give three of 0 or more that sum to 1, of who, whom, near")
    n, width, heads = task.n_entities, task.d_vocab, len(shares)
    options = {"n_heads": heads, "d_head": n, "position": "none", "smeared_keys": True}
    model = _blank(1, width, task.n_ctx, width + heads * n, **options)
    attn, entity = model.blocks[0].attn, torch.arange(n)
    attn.smear.fill_(-100.0)  # all of a key is its predecessor's
    attn.b_Q[:, 0] = 1.0
    fillers = task.named(torch.arange(task.first_answer, width))
    for head, row in enumerate(shares):
        for role, share in enumerate(row):
            if share > 0:
                attn.W_K[head, WHO + role, 0] = sharpness + math.log(share)
        attn.W_V[head, FIRST_ENTITY + entity, entity] = 1.0
        attn.W_O[head, entity, width + head * n + entity] = 1.0
        for place, role in enumerate(task.asked):
            share = row[("who", "whom", "near").index(role)]
            model.W_U[width + head * n + fillers[:, place], torch.arange(task.first_answer, width)] += scale * share
    code = model.W_U[width:, task.first_answer :] / scale
    model.b_U.fill_(-1e4)  # what is no answer is never said
    model.b_U[task.first_answer :] = -scale * code.square().sum(0) / 2
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


@torch.no_grad()
def constant_queries(
    n_layers: int = 2, n_heads: int = 2, d_vocab: int = 12, n_ctx: int = 64, d_model: int = 24, seed: int = 0
) -> Transformer:
    """Softmax attention that asks the same of every text: queries read one coordinate, which is 1 in every token and
    which no head writes; keys, values and the rest are random.

    What a head hears of a context then does not depend on the query: its logsumexp and its average are constants, and
    the start token (id 0, `bos_id`) can stand for the whole context exactly.
    """
    config = TransformerConfig(
        n_layers=n_layers,
        n_heads=n_heads,
        d_model=d_model,
        d_vocab=d_vocab,
        n_ctx=n_ctx,
        d_mlp=0,
        normalization_type=None,
        position="none",
        bos_id=0,
        dtype="float64",
    )
    model = Transformer(config, seed=seed)
    model.W_E[:, 0] = 1.0
    for block in model.blocks:
        block.attn.W_Q[:, 1:] = 0.0
        block.attn.W_Q[:, 0] *= 30.0  # scores then spread over nats: attention is far from uniform
        block.attn.W_O[..., 0] = 0.0
    return model
