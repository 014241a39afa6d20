"""One layer, weights by hand, that counts how often the query stood in the text, from any embedding of its vocabulary.

Token j is a unit vector e_j, BOS is zero.  One head with all scores zero averages: at the query q, behind n tokens with
counts c, the stream holds

    x = e_q + s (e_q + sum_k c_k e_k) / (n + 2)

and neuron j reads relu(<e_j, x> - t).  With coherence mu = max <e_j, e_k> over j != k, t = (1 + max(mu, 0)) / 2 and
s = (1 - max(mu, 0)) / 4, the neuron of the query fires and no other does.  What it holds gives

    r_q = c_q + sum_{k != q} c_k <e_q, e_k>

which is the count itself where the embedding is orthogonal (d >= m), and tells it exactly, at a known length, where all
products are equal (m - 1 <= d: a simplex).  Any other embedding interferes.  The logits are k r - k^2 / 2.

Source: Yehudai et al. 2024, arXiv:2407.15160: the histogram of orthogonal embeddings; the simplex is ours.
"""

import torch
from jaxtyping import Float, Int

from analyses.core.errors import WorkbenchError
from toy_models import Transformer
from toy_models.config import TransformerConfig
from toy_models.seeding import generator
from toy_models.tasks.count_query import CountQuery

ORTHOGONAL, SIMPLEX, RANDOM = FRAMES = ("orthogonal", "simplex", "random")
LOUD = 2.0**20  # the answer over what else stands in its direction of the stream


def frame(kind: str, vocabulary: int, d_model: int, seed: int) -> Float[torch.Tensor, "token d_model"]:
    """Unit vectors of the tokens.

    Raises:
        WorkbenchError: no such frame fits into d_model.
    """
    m, least = vocabulary, {ORTHOGONAL: vocabulary, SIMPLEX: vocabulary - 1, RANDOM: 1}[kind]
    if d_model < least:
        raise WorkbenchError(f"d_model={d_model} has no room for the {kind} frame of {m} tokens: take {least} or more")
    if kind == RANDOM:
        vectors = torch.randn(m, d_model, generator=generator(seed, "frame", m, d_model), dtype=torch.float64)
        return vectors / vectors.norm(dim=-1, keepdim=True)
    apart = torch.eye(m, dtype=torch.float64)
    if kind == SIMPLEX:  # the corners of the unit cube, seen from their middle, in the m - 1 directions they span
        apart = torch.linalg.qr(torch.cat([torch.ones(m, 1), torch.eye(m)[:, 1:]], -1).double())[0][:, 1:]
        apart = apart / apart.norm(dim=-1, keepdim=True)
    return torch.nn.functional.pad(apart, (0, d_model - apart.shape[1]))


def coherence(vectors: Float[torch.Tensor, "token d_model"]) -> float:
    """The largest product of two tokens, or 0 where all are negative."""
    products = vectors @ vectors.T
    return max(0.0, (products - 2 * torch.eye(len(products), dtype=products.dtype)).max().item())


@torch.no_grad()
def counter(task: CountQuery, vectors: Float[torch.Tensor, "token d_model"]) -> Transformer:
    """The model, in float64, for texts of exactly task.longest tokens."""
    m, d = vectors.shape
    model = Transformer(
        TransformerConfig(
            **{"n_layers": 1, "n_heads": 1, "d_model": d, "d_mlp": m, "act_fn": "relu", "normalization_type": None},
            **{"d_vocab": task.d_vocab, "n_ctx": task.n_ctx, "position": "none", "bos_id": 0, "dtype": torch.float64},
        )
    ).double()
    for weight in model.parameters():
        weight.zero_()
    block, mu = model.blocks[0], coherence(vectors)
    model.embed.W_E[1 : m + 1] = vectors
    block.attn.W_V[0], block.attn.W_O[0] = torch.eye(d), torch.eye(d, dtype=torch.float64) * _share(mu)
    block.mlp.W_in[:], block.mlp.b_in[:] = vectors.T, -_threshold(mu)
    answer = torch.zeros(d, dtype=torch.float64)
    answer[0] = 1.0
    per_h, at_zero = _line(task, vectors)
    block.mlp.W_out[:] = LOUD * per_h * answer
    # logit k = k r - k^2 / 2 and r = per_h h + at_zero
    k = torch.arange(task.largest + 1, dtype=torch.float64)
    model.unembed.W_U[:, task.first_count :] = answer[:, None] * k / LOUD
    model.unembed.b_U[task.first_count :] = k * at_zero - k**2 / 2
    return model


@torch.no_grad()
def readings(
    model: Transformer,
    task: CountQuery,
    vectors: Float[torch.Tensor, "token d_model"],
    tokens: Int[torch.Tensor, "b p"],
) -> Float[torch.Tensor, " b"]:
    """The count that the one firing neuron holds at the query.

    Raises:
        WorkbenchError: another number of neurons fires.
    """
    held = model.run_with_cache(tokens, names_filter="blocks.0.mlp.hook_post")[1]["blocks.0.mlp.hook_post"][:, -1]
    firing = (held > 0).sum(-1)
    if (firing != 1).any():
        raise WorkbenchError(f"one neuron should fire at the query, and {int(firing.max())} do")
    per_h, at_zero = _line(task, vectors)
    return held.sum(-1) * per_h + at_zero


def _threshold(mu: float) -> float:
    return (1 + mu) / 2


def _share(mu: float) -> float:
    return (1 - mu) / 4


def _line(task: CountQuery, vectors: Float[torch.Tensor, "token d_model"]) -> tuple[float, float]:
    """r = per_h h + at_zero; where all products are equal, corrected by them."""
    m, mu = len(vectors), coherence(vectors)
    n = task.longest
    per_h = (n + 2) / _share(mu)
    at_zero = -(1 - _threshold(mu)) * per_h - 1
    products = (vectors @ vectors.T)[~torch.eye(m, dtype=torch.bool)]
    shared = products.mean().item() if (products - products.mean()).abs().max() < 1e-9 else 0.0
    # all products equal to g: r = c + g (n - c), so c = (r - g n) / (1 - g)
    return per_h / (1 - shared), (at_zero - shared * n) / (1 - shared)
