"""Sinks: which heads park their attention on the first token, what does that carry, and who only re-adds its own token?

For one head with pattern A on a text of n tokens, positions from 0, values v_j as written into the stream (v_j W_O):

    mass             mean over all n queries of A[i, 0], query 0 with its 1 included   share    1/n to 1
    sink rate        share of (text, layer, head) whose mass is above epsilon          share    0 to 1
    value ratio      |v_0| over the mean of |v_j|, j >= 1                              ratio    0 or more
    carried          sum of A[i, 0] |v_0| over sum of A[i, j] |v_j|, queries i >= 1    share    0 to 1

and for the stream x behind each layer

    massive          |x_0|^2 / sum over j >= 1 of |x_j|^2                              ratio    0 or more
    largest          largest |coordinate| of the text over the median one              ratio    1 or more, or inf

`own_token` asks how much of a head's output a fixed map of the query's own token says: the mean alone, or an affine
map of what the head reads there, fitted on some texts and scored on others.  What is lost without such a head is a
question for `probes.ablation`.

Sources: Gu et al. 2024, arXiv:2410.10781, section 3 (mass and rate, epsilon 0.3; their texts have 64 tokens); Barbero
et al. 2025, arXiv:2504.02732 (epsilon 0.8); Kobayashi et al. 2020, arXiv:2004.10102 (weights times value norms); Sun et
al. 2024, arXiv:2402.17762 (massive activations); Barbero et al. 2024, arXiv:2410.06205, section 5 (diagonal heads).
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes import names
from probes.errors import ProbeInputError
from probes.model import HookedModel, cached
from probes.weights import head_weights, norm_gain

EPSILON = {"gu": 0.3, "barbero": 0.8}  # whose threshold: the same mass, two conventions


@dataclass(frozen=True)
class Sinks:
    """Shares and ratios as in the table above.  `carried` and `value_ratio` are NaN where a head writes nothing."""

    mass: Float[Tensor, "batch layer head"]
    carried: Float[Tensor, "layer head"]
    value_ratio: Float[Tensor, "layer head"] = field(metadata={"unit": "ratio"})
    massive: Float[Tensor, "batch layer"] = field(metadata={"unit": "ratio"})
    largest: Float[Tensor, "batch layer"] = field(metadata={"unit": "ratio"})


@dataclass(frozen=True)
class OwnToken:
    """Shares of the sum of squares of a head's output on held-out texts; negative where a fit misleads.

    A head that writes the same everywhere has `constant` 1; one that re-adds its own token has `linear` 1 alone.
    Both are NaN where a head writes nothing.
    """

    constant: Float[Tensor, "layer head"]
    linear: Float[Tensor, "layer head"]


@torch.no_grad()
def sinks(model: HookedModel, tokens: Int[Tensor, "batch pos"]) -> Sinks:
    """Score every head, and the stream behind every layer, in one forward pass.

    Raises:
        ProbeInputError: a text of one token, tokens outside the vocabulary, or a model without the hooks.
    """
    _check_length(tokens)
    layers = range(model.cfg.n_layers)
    hooks = [f(layer) for layer in layers for f in (names.pattern, _v, names.resid_post)]
    _, cache = cached(model, tokens, hooks)
    carried, ratios = [], []
    for layer in layers:
        size = _value_norms(cache[_v(layer)], head_weights(model, layer).W_O)
        received = _wide(cache[names.pattern(layer)])[:, :, 1:].sum(2)
        weighted = (received * size).sum(0)
        carried.append(weighted[:, 0] / weighted.sum(-1))
        ratios.append(size[..., 0].mean(0) / size[..., 1:].mean((0, 2)))
    streams = [_wide(cache[names.resid_post(layer)]) for layer in layers]
    return Sinks(
        mass=torch.stack([sink_mass(cache[names.pattern(layer)]) for layer in layers], 1),
        carried=torch.stack(carried),
        value_ratio=torch.stack(ratios),
        massive=torch.stack([_massive(x) for x in streams], 1),
        largest=torch.stack([_largest(x) for x in streams], 1),
    )


def sink_mass(pattern: Float[Tensor, "batch head query query"]) -> Float[Tensor, "batch head"]:
    """Mean mass on position 0 over all queries of each text.

    Query 0 sees nothing else and counts with 1, as in the source; `probes.heads.first_token` leaves it out.

    Raises:
        ProbeInputError: a weight on a later key, as attention in both directions has it.
    """
    later = pattern.triu(1).abs().amax().item()
    if not later == 0:  # written so that NaN fails too
        raise ProbeInputError(f"a query has weight {later:.3g} on a later key: a sink rate is that of a decoder")
    return _wide(pattern)[..., 0].mean(-1)


def sink_rate(mass: Float[Tensor, "*heads"], epsilon: float) -> float:
    """Share of the given masses above epsilon: `EPSILON["gu"]`, `EPSILON["barbero"]` or another of 0 to 1.

    The threshold is on the mass of each text; the share is over texts, layers and heads alike.

    Raises:
        ProbeInputError: an epsilon outside [0, 1), or no mass at all.
    """
    if not 0 <= epsilon < 1:
        raise ProbeInputError(f"epsilon={epsilon} must lie in [0, 1): no mass is above 1")
    if not mass.numel():
        raise ProbeInputError(f"mass has shape {tuple(mass.shape)}: a share of no heads is none")
    return (mass > epsilon).double().mean().item()


@torch.no_grad()
def own_token(model: HookedModel, train: Int[Tensor, "text pos"], held_out: Int[Tensor, "other later"]) -> OwnToken:
    """Fit every head's output by the mean, and by an affine map of what the head reads at the query, on `train`.

    The map reads the stream as the layer's norm leaves it, before the gain, and is fitted by least squares of least
    norm in float64.  Query 0 is left out of both: it has no other token to write.

    Raises:
        ProbeInputError: texts of one token, too few of them to fit, tokens outside the vocabulary, or hooks or
            weights that the model lacks.
    """
    _check_length(train)
    _check_length(held_out)
    fits, tests = _read(model, train), _read(model, held_out)
    constant, linear = [], []
    for layer, (fit, test) in enumerate(zip(fits, tests, strict=True)):
        (x, z, eps), (x_new, z_new, _) = fit, test
        if len(x) < x.shape[1] + 2:
            raise ProbeInputError(
                f"train has {len(x)} queries after the first: more than d_model + 1 = {x.shape[1] + 1} are needed"
            )
        mean, centre = z.mean(0), x.mean(0)
        weights = torch.linalg.pinv(x - centre, rtol=max(x.shape) * eps) @ (z - mean).flatten(1)
        fitted = mean + ((x_new - centre) @ weights).unflatten(1, z.shape[1:])
        W_O = head_weights(model, layer).W_O.double()
        energy = _energy(z_new, W_O)
        constant.append(1 - _energy(z_new - mean, W_O) / energy)
        linear.append(1 - _energy(z_new - fitted, W_O) / energy)
    return OwnToken(torch.stack(constant), torch.stack(linear))


def _read(model: HookedModel, tokens: Tensor) -> list[tuple[Tensor, Tensor, float]]:
    """Per layer: what the heads read (row, d_model) and write (row, head, d_head), in float64, and the precision."""
    layers = range(model.cfg.n_layers)
    kinds = [norm_gain(model, layer).kind for layer in layers]
    scales = [f"blocks.{layer}.ln1.hook_scale" for layer in layers]
    needed = [f(layer) for layer in layers for f in (names.resid_pre, names.z)]
    _, cache = cached(model, tokens, needed + [s for s, kind in zip(scales, kinds, strict=True) if kind])
    rows = []
    for layer, kind, scale in zip(layers, kinds, scales, strict=True):
        stream, z = cache[names.resid_pre(layer)], cache[names.z(layer)]
        x = stream.double()
        x = x - x.mean(-1, keepdim=True) if kind == "LN" else x
        x = x if kind is None else x / cache[scale].double()
        rows.append((x[:, 1:].flatten(0, 1), z[:, 1:].flatten(0, 1).double(), torch.finfo(stream.dtype).eps))
    return rows


def _energy(z: Float[Tensor, "row head d_head"], W_O: Float[Tensor, "head d_head d_model"]) -> Float[Tensor, " head"]:
    """Sum over rows of |z W_O|^2."""
    return torch.stack([(z[:, head] @ W_O[head]).square().sum() for head in range(len(W_O))])


def _value_norms(
    v: Float[Tensor, "batch pos kv_head d_head"], W_O: Float[Tensor, "head d_head d_model"]
) -> Float[Tensor, "batch head pos"]:
    """|v_j W_O| of every query head, which may share its values with others."""
    v, W_O = _wide(v), _wide(W_O)
    v = v.repeat_interleave(len(W_O) // v.shape[2], 2)
    return torch.stack([(v[:, :, head] @ W_O[head]).norm(dim=-1) for head in range(len(W_O))], 1)


def _massive(x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, " batch"]:
    energy = x.square().sum(-1)
    return energy[:, 0] / energy[:, 1:].sum(-1)


def _largest(x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, " batch"]:
    size = x.abs().flatten(1)
    return size.amax(-1) / size.median(-1).values


def _v(layer: int) -> str:
    """Values, (batch, pos, key-value head, d_head)."""
    return f"blocks.{layer}.attn.hook_v"


def _check_length(tokens: Tensor) -> None:
    if tokens.shape[1] < 2:
        raise ProbeInputError(f"a text of {tokens.shape[1]} token: its one query has no choice, give two or more")


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
