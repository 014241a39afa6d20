"""Linear attention whose weights are set by hand: what a context does to the answer is an exact change of weights.

All are attention-only, without norms, positions or softmax, in float64.  Tokens are vectors, put in by `residual=`:

    gradient_descent   (x, y)                  layer k is gradient step k on the examples (von Oswald et al.)
    slow_weights       (x, query, y, flag)     one step at the query, beside weights W that answer without a context
    sinks              (query, y, sinks)       W's change carried by sink tokens, one singular pair a sink and head
    cubic              (query, y)              what a lone query can hear of itself without a constant coordinate

Logits are the model's answer.  Source: von Oswald et al. 2022, arXiv:2212.07677, proposition 1 and appendix A.10; Ahn
et al. 2023, arXiv:2306.00297.  That a constant coordinate lets a change of weights take the context's place is derived
in probes/theory/gradient_steps.md.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float

from toy_models.config import TransformerConfig
from toy_models.errors import ConfigError, InputError
from toy_models.normalisers.linear import Linear
from toy_models.transformer import Transformer


def linear_attention(
    n_layers: int, n_heads: int, d_model: int, d_head: int, d_out: int, n_ctx: int, *, mean: bool, **options
) -> Transformer:
    """All weights zero: scores are q . k and every token sees every token that the mask leaves."""
    sizes = {"n_layers": n_layers, "n_heads": n_heads, "d_model": d_model, "d_head": d_head, "n_ctx": n_ctx}
    plain = {"d_mlp": 0, "normalization_type": None, "position": "none", "attn_scale": 1.0, "causal": False}
    config = TransformerConfig(
        **sizes, **{**plain, "d_vocab": 1, "d_vocab_out": d_out, "dtype": "float64", "normaliser": Linear(mean)},
        **options,
    )  # fmt: skip
    model = Transformer(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    return model


@torch.no_grad()
def gradient_descent(
    d_in: int,
    d_out: int,
    n_examples: int,
    rates: Sequence[float],
    gammas: Sequence[float] = (),
    weight: Float[torch.Tensor, "d_out d_in"] | None = None,
) -> Transformer:
    """Layer k is a gradient step of rate rates[k] on sum_j |W x_j - y_j|^2 / (2 n), from `weight` (or 0) on.

    With `gammas` it also moves the inputs, x <- (I - gamma X^T X) x, all of them: GD++, from 0.  A token (x_j, y_j)
    becomes (x_j, y_j - dW x_j); the query goes in as (x, -W x), and minus its last entries are the answer.  Nobody may
    read the query: give `attention_mask=batch.examples`.

    Raises:
        ConfigError: not as many gammas as rates; a weight of another shape; or both, as the weight would read inputs
            that have moved.
    """
    if len(gammas) and weight is not None:
        raise ConfigError(f"gammas={tuple(gammas)} need weight=None: a weight would read inputs that have moved")
    gammas = tuple(gammas) or (0.0,) * len(rates)
    if len(gammas) != len(rates) or not rates:
        raise ConfigError(f"{len(rates)} rates and {len(gammas)} gammas: give one of each per layer")
    start = torch.zeros(d_out, d_in, dtype=torch.float64) if weight is None else weight.double()
    if start.shape != (d_out, d_in):
        raise ConfigError(f"weight has shape {tuple(start.shape)}: it must be (d_out={d_out}, d_in={d_in})")
    d_model = d_in + d_out
    model = linear_attention(len(rates), 1, d_model, d_model, d_out, n_examples + 1, mean=True)
    x, y = torch.arange(d_in), d_in + torch.arange(d_out)
    for block, rate, gamma in zip(model.blocks, rates, gammas, strict=True):
        attn = block.attn
        attn.W_Q[0, x, x] = attn.W_K[0, x, x] = attn.W_V[0, x, x] = attn.W_V[0, y, y] = 1.0
        attn.W_V[0, :d_in, d_in:] = -start.T  # the residual y - W x
        attn.W_O[0, y, y] = -rate
        attn.W_O[0, x, x] = -gamma * n_examples  # the model averages, the source sums
    model.W_U[y, torch.arange(d_out)] = -1.0
    return model


@torch.no_grad()
def slow_weights(weight: Float[torch.Tensor, "d_out d_in"], rate: float, n_examples: int, n_ctx: int) -> Transformer:
    """A query's answer is (W + M) x with M = (rate / n) sum_j (y_j - W x_j) x_j^T, a gradient step: two heads.

    Head 0 adds up what the examples say; head 1 finds the query itself, by its flag, the constant coordinate, and
    applies W, which stands in `slow_slot(model)`.  Scores are summed, not averaged, so that contexts add up and a lone
    query is answered as well.  Tokens come from `examples` and `asked`; one query per sequence.

    Args:
        n_examples: n in the rate; the context may have any length below n_ctx.
    """
    d_out, d_in = weight.shape
    d_model, d_head = 2 * d_in + d_out + 1, max(d_in, d_out)
    model = linear_attention(1, 2, d_model, d_head, d_out, n_ctx, mean=False)
    attn, at = model.blocks[0].attn, torch.arange(d_in)
    y, out, flag = 2 * d_in + torch.arange(d_out), torch.arange(d_out), d_model - 1
    attn.W_Q[0, d_in + at, at] = attn.W_K[0, at, at] = 1.0
    attn.W_V[0, y, out] = 1.0
    attn.W_V[0, :d_in, :d_out] = -weight.T
    attn.W_O[0, out, y] = rate / n_examples
    attn.W_Q[1, flag, 0] = attn.W_K[1, flag, 0] = 1.0
    slow_slot(model).copy_(weight.T)
    attn.W_O[1, out, y] = 1.0
    model.W_U[y, out] = 1.0
    return model


def slow_slot(model: Transformer) -> Float[torch.Tensor, "d_in d_out"]:
    """Where `slow_weights` keeps W, transposed: a view of W_V of head 1, from the query's x to its y."""
    d_out = model.cfg.d_vocab_out
    d_in = (model.cfg.d_model - d_out - 1) // 2
    return model.blocks[0].attn.W_V[1, d_in : 2 * d_in, :d_out]


def examples(
    x: Float[torch.Tensor, "*batch example d_in"], y: Float[torch.Tensor, "*batch example d_out"]
) -> Float[torch.Tensor, "*batch example d_model"]:
    """The context's tokens for `slow_weights`."""
    return torch.cat([x, torch.zeros_like(x), y, torch.zeros_like(y[..., :1])], dim=-1)


def asked(x: Float[torch.Tensor, "*batch d_in"], d_out: int) -> Float[torch.Tensor, "*batch 1 d_model"]:
    """A query's token for `slow_weights`."""
    y, flag = x.new_zeros(*x.shape[:-1], d_out), x.new_ones(*x.shape[:-1], 1)
    return torch.cat([torch.zeros_like(x), x, y, flag], dim=-1)[..., None, :]


@torch.no_grad()
def sinks(update: Float[torch.Tensor, "d_out d_in"], n_sinks: int = 1, n_heads: int = 1) -> Transformer:
    """Sink tokens in place of a constant coordinate carry the leading n_sinks * n_heads singular pairs of `update`.

    The key of a sink is a right singular vector, its value the left one times the singular value; a query reads
    v (k . x) from each.  The sinks' tokens are `sink_tokens(model)`, in front of (x, 0, 0).

    Raises:
        ConfigError: more sinks and heads than singular values.
    """
    d_out, d_in = update.shape
    if n_sinks * n_heads > min(d_out, d_in):
        raise ConfigError(
            f"n_sinks={n_sinks} times n_heads={n_heads} is more than the {min(d_out, d_in)} singular values of the "
            f"update: lower one"
        )
    left, size, right = torch.linalg.svd(update.double(), full_matrices=False)
    model = linear_attention(
        1, n_heads, d_in + d_out + n_sinks, max(d_in, d_out), d_out, n_sinks + 1, mean=False
    )  # fmt: skip
    attn, x = model.blocks[0].attn, torch.arange(d_in)
    y, out = d_in + torch.arange(d_out), torch.arange(d_out)
    for pair in range(n_sinks * n_heads):
        head, sink = pair % n_heads, d_in + d_out + pair // n_heads
        attn.W_K[head, sink, :d_in] = right[pair]
        attn.W_V[head, sink, :d_out] = size[pair] * left[:, pair]
    for head in range(n_heads):
        attn.W_Q[head, x, x] = attn.W_O[head, out, y] = 1.0
    model.W_U[y, out] = 1.0
    return model


def with_sinks(model: Transformer, x: Float[torch.Tensor, "batch d_in"]) -> Float[torch.Tensor, "batch pos d_model"]:
    """Queries x for `sinks`, each behind the sink tokens.

    Raises:
        InputError: x is as wide as another model's queries.
    """
    n_sinks, d_model = model.cfg.n_ctx - 1, model.cfg.d_model
    if x.shape[-1] + model.cfg.d_vocab_out + n_sinks != d_model:
        raise InputError(
            f"x has {x.shape[-1]} entries: this model's queries have {d_model - n_sinks - model.cfg.d_vocab_out}"
        )
    flags = torch.eye(d_model, dtype=x.dtype)[-n_sinks:].expand(len(x), -1, -1)
    return torch.cat([flags, torch.nn.functional.pad(x, (0, d_model - x.shape[-1]))[:, None]], dim=1)


@torch.no_grad()
def cubic(weight: Float[torch.Tensor, "d_out d_in"], own: float, others: float) -> Transformer:
    """A lone query (x, 0) without a constant coordinate: d_in heads that answer W c(x), where

        c_i(x) = own * x_i^3 + others * x_i sum_{k != i} x_k^2.

    Linear attention of one token is A x (x^T B x) per head; no weights make a linear map of that, and these are the
    nearest for inputs of independent coordinates with the factors of `probes.gradient_steps.nearest_cubic`.
    """
    d_out, d_in = weight.shape
    model = linear_attention(1, d_in, d_in + d_out, d_out, d_out, 1, mean=False)
    attn, out = model.blocks[0].attn, torch.arange(d_out)
    for head in range(d_in):
        attn.W_Q[head, head, 0] = attn.W_K[head, head, 0] = 1.0
        value = others * weight.T.clone()
        value[head] = own * weight[:, head]
        attn.W_V[head, :d_in] = value
        attn.W_O[head, out, d_in + out] = 1.0
    model.W_U[d_in + out, out] = 1.0
    return model
