"""What a model makes of the k-th copy of a token, beside the closed form of its first layer.

A text is a prefix of p tokens (none, a start token, or more) and then the token x, again and again.  In the first
layer, without a position code, one head of the k-th copy gives the prefix the scores a_1 to a_p and every copy the
same score a.  With c = a - ln(e^a_1 + ... + e^a_p)

    weight on the prefix    w_k = 1 / (1 + k e^c)                             exactly; 0 without a prefix
    what the head mixes     z_k = w_k m + (1 - w_k) v_x                       m: the prefix's values by its own softmax
    less the lone token     z_k - v_x = w_k (m - v_x)

Without a prefix every copy is the lone token in every layer, by induction over layers: all keys and values are then
equal, whatever the scores, so that this holds for codes that act on scores (RoPE, ALiBi) too, and not for those that
are added to the stream.  With one, later layers average over copies whose distances fall as 1/k, which sum to ln k:
behind them the distance falls as ln(k)/k, at k = 100 to 500 a slope of about -0.8.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int

from probes import names
from probes.collapse import distance
from probes.model import cached
from toy_models import Transformer

ATTN_OUT = "blocks.0.hook_attn_out"


def first_layer(
    model: Transformer, prefix: Int[torch.Tensor, " p"], token: int, copies: Int[torch.Tensor, " k"]
) -> tuple[Float[torch.Tensor, "k head"], Float[torch.Tensor, "k d_model"]]:
    """The closed form above, from the weights: w_k by head, and what the layer writes for the k-th copy."""
    block = model.blocks[0]
    attn, read = block.attn, block.ln1(model.embed(torch.cat([prefix, torch.tensor([token])])[None]))[0]
    q = torch.einsum("d,hde->he", read[-1], attn.W_Q) + attn.b_Q
    k, v = (torch.einsum("pd,hde->phe", read, W) + b for W, b in ((attn.W_K, attn.b_K), (attn.W_V, attn.b_V)))
    scores = torch.einsum("he,phe->ph", q, k) * attn.scale
    if not len(prefix):
        weight, z = torch.zeros(len(copies), len(q), dtype=read.dtype), v[-1].expand(len(copies), -1, -1)
    else:
        c = scores[-1] - scores[:-1].logsumexp(0)
        weight = 1 / (1 + copies[:, None] * c.exp())
        mean = torch.einsum("ph,phe->he", scores[:-1].softmax(0), v[:-1])
        z = weight[..., None] * mean + (1 - weight[..., None]) * v[-1]
    return weight, torch.einsum("khe,hed->kd", z, attn.W_O) + attn.b_O


@torch.no_grad()
def repeated(
    model: Transformer, prefix: Int[torch.Tensor, " p"], token: int, copies: Sequence[int], typical: float
) -> Iterator[dict[str, float]]:
    """One row per k of `copies`; `typical` is the mean 2-norm behind the last layer of ordinary tokens."""
    last = names.resid_post(model.cfg.n_layers - 1)
    text = torch.cat([prefix, torch.full((copies[-1],), token)])[None]
    _, long = cached(model, text, [names.pattern(0), ATTN_OUT, last])
    _, lone = cached(model, torch.tensor([[token]]), [ATTN_OUT, last])
    at = len(prefix) - 1 + torch.tensor(copies)
    weight = long[names.pattern(0)][0, :, at, : len(prefix)].sum(-1).T
    known = model.cfg.position.where is None  # scores do not depend on the place
    theory, written = first_layer(model, prefix, token, torch.tensor(copies))
    alone = lone[ATTN_OUT][0]
    columns = {
        "weight": weight.mean(-1),
        "weight_theory": theory.mean(-1),
        "weight_off": (weight - theory).abs().amax(-1),
        "first_layer": distance(long[ATTN_OUT][0, at], alone.expand(len(at), -1), "relative"),
        "first_theory": distance(written, alone.expand(len(at), -1), "relative"),
        "first_off": (long[ATTN_OUT][0, at] - written).abs().amax(-1),
        "last_layer": distance(long[last][0, at], lone[last][0].expand(len(at), -1), "relative"),
        "size": long[last][0, at].norm(dim=-1) / typical,
        "lone_size": (lone[last][0].norm(dim=-1) / typical).expand(len(at)),
    }
    for row, k in enumerate(copies):
        found = {name: values[row].item() for name, values in columns.items()}
        for name in ("weight_theory", "weight_off", "first_theory", "first_off"):
            found[name] = found[name] if known else float("nan")
        yield {"k": k, **found}


@torch.no_grad()
def as_keys(
    model: Transformer, prefix: Int[torch.Tensor, " p"], body: Int[torch.Tensor, " k"], asking: int
) -> dict[str, float]:
    """What an ordinary token behind prefix and body looks at in the last layer, mean over heads.

    `first`: weight on position 0;  `each`: mean weight on a token of the body but its first.
    """
    text = torch.cat([prefix, body, torch.tensor([asking])])[None]
    pattern = names.pattern(model.cfg.n_layers - 1)
    row = cached(model, text, [pattern])[1][pattern][0, :, -1].mean(0)
    return {"first": row[0].item(), "each": row[len(prefix) + 1 : -1].mean().item()}


@torch.no_grad()
def typical_size(model: Transformer, texts: Int[torch.Tensor, "text pos"]) -> float:
    """Mean 2-norm behind the last layer, over all positions but the first."""
    last = names.resid_post(model.cfg.n_layers - 1)
    return cached(model, texts, [last])[1][last][:, 1:].norm(dim=-1).mean().item()
