"""Circuits: what a head would copy, what it would match, and which heads read which, from the weights alone.

Rows are read first (x W), as in TransformerLens.  For one head, on tokens:

    OV circuit   W_E W_V W_O W_U        what attending to the row's token does to the column's logit
    QK circuit   W_E W_Q W_K^T W_E^T    the score of the column's token as key for the row's token as query

    copying      sum_i Re e_i / sum_i |e_i|   over the eigenvalues e_i of the OV circuit      -1 to 1
    matching     the same of the QK circuit                                                   -1 to 1
    composition  how much a later head reads of what an earlier one writes                     0 to 1
        Q   |W_V W_O  W_Q' W_K'^T| / (|W_V W_O| |W_Q' W_K'^T|)     primes: the later head
        K   |W_V W_O  W_K' W_Q'^T| / (|W_V W_O| |W_Q' W_K'^T|)     |.|: Frobenius norm
        V   |W_V W_O  W_V' W_O'  | / (|W_V W_O| |W_V' W_O'|)

Nothing of d_vocab x d_vocab or of a pair's d_model x d_model is ever built: A B and B A share their non-zero
eigenvalues, and norms come from triangular factors.  Positions, biases, the division by a norm's scale, the
scale of the scores and RoPE's rotation are left out; `fold=True` takes the norms' gains (and LN's centring) in.

Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, sections on copying, on the
eigenvalue summary and on composition; Olsson et al. 2022, arXiv:2209.11895.  theory/circuits.md.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from probes import weights
from probes.errors import ProbeInputError
from probes.weights import NormGain, embedding, final_gain, head_weights, norm_gain, unembedding


@dataclass(frozen=True)
class Circuit:
    """`left @ right` of every head of a layer, in factors.

    `folded`: a norm's gain has been taken in; False where that was not asked for, or no norm stands there.
    """

    left: Float[Tensor, "head d_vocab d_head"]
    right: Float[Tensor, "head d_head d_vocab_out"]
    folded: bool


@dataclass(frozen=True)
class Copying:
    """Of every head: does attending to a token raise that token (+1), or lower it (-1)?

    Read `score` beside `output_norm`, the Frobenius norm of the full OV circuit: the score of a head that
    writes next to nothing is the score of next to nothing.  It is NaN where every eigenvalue is exactly zero.
    `d_model_score` is that of W_V W_O alone, for contrast: it knows neither W_E nor W_U and may have the other sign.
    """

    score: Float[Tensor, "layer head"]
    output_norm: Float[Tensor, "layer head"]
    d_model_score: Float[Tensor, "layer head"]
    folded: bool


@dataclass(frozen=True)
class Matching:
    """Of every head: does a token look for itself (+1), or for anything but itself (-1)?

    As `Copying`, for the QK circuit; `circuit_norm` is before the division by attn_scale.
    """

    score: Float[Tensor, "layer head"]
    circuit_norm: Float[Tensor, "layer head"]
    d_model_score: Float[Tensor, "layer head"]
    folded: bool


@dataclass(frozen=True)
class Composition:
    """Of every pair of heads, 0 to 1: NaN unless the first stands in an earlier layer.  A dead head gives NaN too.

    `random_rms` is the root mean square of each score between random heads: 1 / sqrt(d_model), exactly.
    """

    q: Float[Tensor, "earlier_layer earlier_head layer head"]
    k: Float[Tensor, "earlier_layer earlier_head layer head"]
    v: Float[Tensor, "earlier_layer earlier_head layer head"]
    random_rms: float
    folded: bool


@dataclass(frozen=True)
class RandomComposition:
    """Mean and standard deviation of the composition score of two heads drawn at random."""

    mean: float
    sd: float


# Circuits of one layer ----------------------------------------------------------------------------


def ov_circuit(model: Any, layer: int, *, fold: bool = False) -> Circuit:
    """W_E W_V times W_O W_U, for every head of a layer, in the model's dtype or float32.

    Raises:
        ProbeInputError: no such layer, or a model without these weights.
    """
    heads, gain = head_weights(model, layer), _gain(norm_gain(model, layer), fold)
    W_U, last = unembedding(model)[0], _gain(final_gain(model), fold)
    left = _wide(embedding(model)) @ weights.folded(_wide(heads.W_V), gain)
    right = _wide(heads.W_O) @ weights.folded(_wide(W_U), last)
    return Circuit(left, right, gain.kind is not None or last.kind is not None)


def qk_circuit(model: Any, layer: int, *, fold: bool = False) -> Circuit:
    """W_E W_Q times (W_E W_K)^T, for every head of a layer, in the model's dtype or float32.

    Raises:
        ProbeInputError: no such layer, or a model without these weights.
    """
    heads, gain = head_weights(model, layer), _gain(norm_gain(model, layer), fold)
    W_E = _wide(embedding(model))
    q, k = (W_E @ weights.folded(_wide(weight), gain) for weight in (heads.W_Q, heads.W_K))
    return Circuit(q, k.mT, gain.kind is not None)


def eigenvalues(circuit: Circuit) -> Complex[Tensor, "head d_head"]:
    """Of each head's left @ right: all that are not zero, by way of right @ left, in complex128.

    Raises:
        ProbeInputError: rows and columns are not the same tokens.
    """
    rows, columns = circuit.left.shape[-2], circuit.right.shape[-1]
    _check_square(rows, columns)
    return torch.linalg.eigvals(circuit.right.double() @ circuit.left.double())


# Eigenvalue scores --------------------------------------------------------------------------------


def copying(model: Any, *, fold: bool = False) -> Copying:
    """The copying score of every head, beside its output norm, in float64.

    Args:
        fold: take the gains of the norms before the heads and before the unembedding into the weights.

    Raises:
        ProbeInputError: a model without these weights, or one that reads and says different vocabularies.
    """
    W_E, last = embedding(model).double(), _gain(final_gain(model), fold)
    W_U = weights.folded(unembedding(model)[0].double(), last)
    _check_square(len(W_E), W_U.shape[1])
    said_of_read, into, out_of = W_U @ W_E, _triangle(W_E), _triangle(W_U.mT)
    rows, any_folded = [], last.kind is not None
    for layer in range(weights.layer_count(model)):
        heads, gain = head_weights(model, layer), _gain(norm_gain(model, layer), fold)
        W_V, W_O = weights.folded(heads.W_V.double(), gain), heads.W_O.double()
        any_folded |= gain.kind is not None
        norm = _product_norm(into @ W_V, W_O @ out_of.mT)
        rows.append((_score(W_O @ said_of_read @ W_V), norm, _score(W_O @ W_V)))
    return Copying(*_columns(rows), any_folded)


def matching(model: Any, *, fold: bool = False, through: tuple[int, int] | None = None) -> Matching:
    """The matching score of every head, beside its circuit's norm, in float64.

    Args:
        fold: take the gains of the norms before the heads into the weights.
        through: (layer, head) of a head that writes what the keys read: the key of a token is then made of
            W_E W_V W_O of that head in place of W_E.  For a previous-token head this is the term by which
            a token looks for the position after its own last occurrence.  Layers up to that one are NaN.

    Raises:
        ProbeInputError: a model without these weights, or no such head to go through.
    """
    W_E = embedding(model).double()
    gains = [_gain(norm_gain(model, layer), fold) for layer in range(weights.layer_count(model))]
    keys, first = torch.eye(W_E.shape[1], dtype=W_E.dtype, device=W_E.device), 0
    if through is not None:
        weights.check_head(model, *through)
        heads, first = head_weights(model, through[0]), through[0] + 1
        keys = weights.folded(heads.W_V[through[1]].double(), gains[through[0]]) @ heads.W_O[through[1]].double()
    triangle = _triangle(W_E)
    same_token, rows = keys.mT @ (triangle.mT @ triangle), []
    for layer, gain in enumerate(gains):
        heads = head_weights(model, layer)
        W_Q, W_K = (weights.folded(weight.double(), gain) for weight in (heads.W_Q, heads.W_K))
        norm = _product_norm(triangle @ W_Q, (triangle @ keys @ W_K).mT)
        found = _score(W_K.mT @ same_token @ W_Q), norm, _score(W_K.mT @ keys.mT @ W_Q)
        rows.append(found if layer >= first else tuple(torch.full_like(each, torch.nan) for each in found))
    return Matching(*_columns(rows), any(gain.kind is not None for gain in gains))


# Composition --------------------------------------------------------------------------------------


def composition(model: Any, *, fold: bool = False) -> Composition:
    """Q-, K- and V-composition of every earlier head with every later one, in float64.

    Args:
        fold: take the gains of the norms before the heads into W_Q, W_K and W_V.

    Raises:
        ProbeInputError: a model of one layer, or without these weights.
    """
    n_layers = weights.layer_count(model)
    if n_layers < 2:
        raise ProbeInputError(f"the model has {n_layers} layer: composition needs an earlier and a later one")
    gains = [_gain(norm_gain(model, layer), fold) for layer in range(n_layers)]
    W_Q = head_weights(model, 0).W_Q
    n_heads, d_model, _ = W_Q.shape
    scores = W_Q.new_full((3, n_layers, n_heads, n_layers, n_heads), torch.nan, dtype=torch.float64)
    for later in range(1, n_layers):
        read = _readers(model, later, gains[later])
        for earlier in range(later):  # made anew: float64 copies of two layers are in memory, of however many
            heads = head_weights(model, earlier)
            written = _writer(weights.folded(heads.W_V.double(), gains[earlier]), heads.W_O.double())
            for kind, reader in enumerate(read):
                product = torch.einsum("erm,lms->elrs", written, reader)
                scores[kind, earlier, :, later] = product.flatten(2).norm(dim=-1)
    return Composition(*scores, d_model**-0.5, any(gain.kind is not None for gain in gains))


def _readers(model: Any, layer: int, gain: NormGain) -> list[Float[Tensor, "head d_model rank"]]:
    """What the heads of a layer read through Q, K and V."""
    heads = head_weights(model, layer)
    W_Q, W_K, W_V = (weights.folded(weight.double(), gain) for weight in (heads.W_Q, heads.W_K, heads.W_V))
    return [_reader(W_Q, W_K.mT), _reader(W_K, W_Q.mT), _reader(W_V, heads.W_O.double())]


def random_composition(d_model: int, d_head: int, generator: torch.Generator, *, draws: int = 256) -> RandomComposition:
    """The score between heads whose factors are standard normal, over `draws` pairs; Q, K and V are alike in it.

    Raises:
        ProbeInputError: fewer than two draws.
    """
    if draws < 2:
        raise ProbeInputError(f"draws={draws} must be at least 2: a spread needs two")
    a, b, c, d = torch.randn(4, draws, d_model, d_head, generator=generator, dtype=torch.float64)
    sd, mean = torch.std_mean((_writer(a, b.mT) @ _reader(c, d.mT)).flatten(1).norm(dim=-1))
    return RandomComposition(mean.item(), sd.item())


# Parts of the formulas ----------------------------------------------------------------------------


def _writer(
    left: Float[Tensor, "head d_model d_head"], right: Float[Tensor, "head d_head d_model"]
) -> Float[Tensor, "head rank d_model"]:
    """Of each left @ right the smallest matrix with the same norm after any product from the right; its norm is 1.

    With left = (orthogonal) R it is R right.  A product of zero becomes NaN.
    """
    small = _triangle(left) @ right
    return small / small.flatten(1).norm(dim=-1)[:, None, None]


def _reader(
    left: Float[Tensor, "head d_model d_head"], right: Float[Tensor, "head d_head d_model"]
) -> Float[Tensor, "head d_model rank"]:
    """Of each left @ right the smallest matrix with the same norm after any product from the left; its norm is 1."""
    return _writer(right.mT, left.mT).mT


def _product_norm(left: Float[Tensor, "head m d_head"], right: Float[Tensor, "head d_head n"]):
    """|left right| per head, from the triangular factors of both."""
    return (_triangle(left) @ _triangle(right.mT).mT).flatten(1).norm(dim=-1)


def _triangle(tall: Float[Tensor, "*head m n"]) -> Float[Tensor, "*head k n"]:
    """R of tall = Q R, which has the same Gram matrix and hence the same norms, without squaring anything."""
    return torch.linalg.qr(tall, mode="r").R


def _score(product: Float[Tensor, "head d_head d_head"]) -> Float[Tensor, " head"]:
    found = torch.linalg.eigvals(product)
    return found.real.sum(-1) / found.abs().sum(-1)


def _columns(rows: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))


def _gain(gain: NormGain, fold: bool) -> NormGain:
    return gain if fold else NormGain(None, None, None)


def _wide(weight: Tensor) -> Tensor:
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def _check_square(rows: int, columns: int) -> None:
    if rows != columns:
        raise ProbeInputError(
            f"the model reads {rows} tokens and says {columns}: a token can only be copied where both are the same"
        )
