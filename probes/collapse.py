"""Collapse: does the last token still hold what tells two texts apart?

Two texts with the same last token; x and y are what the model holds at the last position of each, in one place:

    1, 2, inf   ||x - y|| in that norm                             units of the stream (of the head's output)
    relative    ||x - y||_2 / (mean of ||x||_2 and ||y||_2)        0 (equal) to 2; NaN where both are zero
    identical   share of coordinates equal once both are rounded   0 to 1

and of the logits there, in nats: the largest difference, and each text's margin, best less second best.

Three kinds of pair.  "repeated": a text, and the same text with its last token once more; of this pair the theorem
says that the distance tends to 0.  "middle": one token differs, neither the first nor the last: the control that
tells a last position which drowns in its text from a model that contracts everything.  "any": no statement.

Source: Barbero et al. 2024, arXiv:2406.04267, theorem 4.2 (the 1-norm) and figure 5 (the inf-norm).  The identity of
one head, the margin and the control are derived in theory/collapse.md.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor

from probes import names
from probes.errors import ProbeInputError
from probes.model import HookedModel, cached
from probes.precision import rounded
from probes.weights import head_weights

NORMS = ("1", "2", "inf", "relative")
PAIRS = ("repeated", "middle", "any")
HEADS = ("z", "result")


@dataclass(frozen=True)
class Collapse:
    """Distances between the two last tokens; the first axis counts `norms`.

    `reading` counts n_layers + 2: the stream before the first block, after every block, and what the unembedding
    reads, behind the final norm.  `margin` holds the first text's, then the second's.
    """

    norms: tuple[str, ...]
    stream: Float[Tensor, "norm reading batch"]
    heads: Float[Tensor, "norm layer batch head"]
    identical: Float[Tensor, "reading batch"]
    logit_distance: Float[Tensor, " batch"] = field(metadata={"unit": "nats"})
    margin: Float[Tensor, "text batch"] = field(metadata={"unit": "nats"})
    same_answer: Bool[Tensor, " batch"]


@dataclass(frozen=True)
class Slope:
    """The exponent of a power law, and its standard error."""

    value: float
    error: float


@torch.no_grad()
def collapse(
    model: HookedModel,
    first: Int[Tensor, "batch n"],
    second: Int[Tensor, "rows m"],
    *,
    pair: str = "repeated",
    norms: Sequence[str] = NORMS,
    head: str = "z",
    format: str = "bfloat16",
) -> Collapse:
    """Compare the last tokens of two texts, row by row, in two forward passes.

    Args:
        pair: what the two texts are to each other, a name in PAIRS; it is checked.
        norms: names in NORMS.
        head: "z", what each head mixed, or "result", z W_O: what it adds to the stream.
        format: to which `identical` rounds, a name in `probes.precision.FORMATS`.

    Raises:
        ProbeInputError: texts that are no such pair, more tokens than the model has positions, an unknown name,
            activations that are not finite, or a model without the hooks, the final norm or, for "result", W_O.
    """
    check_pair(first, second, pair)
    for norm in norms:
        _known("norm", norm, NORMS)
    _known("head", head, HEADS)
    (x, x_heads, x_logits), (y, y_heads, y_logits) = (_last(model, tokens, head) for tokens in (first, second))
    top = torch.stack([x_logits, y_logits]).topk(2).values
    return Collapse(
        norms=tuple(norms),
        stream=torch.stack([distance(x, y, norm) for norm in norms]),
        heads=torch.stack([distance(x_heads, y_heads, norm) for norm in norms]),
        identical=identical(x, y, format),
        logit_distance=distance(x_logits, y_logits, "inf"),
        margin=top[..., 0] - top[..., 1],
        same_answer=x_logits.argmax(-1) == y_logits.argmax(-1),
    )


def distance(x: Float[Tensor, "*place d"], y: Float[Tensor, "*place d"], norm: str) -> Float[Tensor, "*place"]:
    """How far apart two vectors are, in a norm of NORMS, in float32 or better.

    The difference of numbers that are rounded already: below about 1e-7 of their size in float32 it is noise.

    Raises:
        ProbeInputError: an unknown norm.
    """
    _known("norm", norm, NORMS)
    x, y = (v.to(torch.promote_types(v.dtype, torch.float32)) for v in (x, y))
    if norm == "relative":
        return (x - y).norm(dim=-1) / ((x.norm(dim=-1) + y.norm(dim=-1)) / 2)
    return torch.linalg.vector_norm(x - y, ord=float(norm), dim=-1)


def identical(x: Float[Tensor, "*place d"], y: Float[Tensor, "*place d"], format: str) -> Float[Tensor, "*place"]:
    """The share of coordinates in which x and y are equal once rounded to a format; 0 and -0 are equal.

    int8 and ternary take one scale for each vector.

    Raises:
        ProbeInputError: as `probes.precision.rounded`.
    """
    equal = rounded(x, format, "row") == rounded(y, format, "row")
    return equal.to(torch.promote_types(x.dtype, torch.float32)).mean(-1)


def uniform_law(n: int, copies: int) -> float:
    """The 1-norm between the z of a head that attends to all keys alike, for a repeated pair.

    2 (n - c) / (n (n + 1)), where the values of different tokens are different unit vectors, the first text has n
    tokens, and c of them are copies of its last.  The inf-norm is half of it.

    Raises:
        ProbeInputError: copies outside [1, n]: the last token is one.
    """
    if not 1 <= copies <= n:
        raise ProbeInputError(f"copies={copies} must lie in [1, {n}]: the last of {n} tokens is a copy of itself")
    return 2 * (n - copies) / (n * (n + 1))


def critical_length(collapsed: Callable[[int], bool], shortest: int, longest: int) -> int | None:
    """The first length from `shortest` to `longest` that has collapsed, by bisection; None if `longest` has not.

    Asks about 2 + log2(longest - shortest) lengths.  It counts on what has collapsed to stay so: if not, the answer
    still has collapsed, and the length before it has not (unless it is `shortest`), but it need not be the first.

    Raises:
        ProbeInputError: no length between the two, or one below 1.
    """
    if not 1 <= shortest <= longest:
        raise ProbeInputError(f"lengths from {shortest} to {longest}: give 1 <= shortest <= longest")
    if not collapsed(longest):
        return None
    if collapsed(shortest):
        return shortest
    apart, together = shortest, longest
    while together - apart > 1:
        middle = (apart + together) // 2
        if collapsed(middle):
            together = middle
        else:
            apart = middle
    return together


def slope(lengths: Sequence[int], distances: Sequence[float]) -> Slope:
    """b of the least squares line ln d = a + b ln n, with its standard error sqrt(RSS / (k - 2) / Sxx).

    The error is that of k independent points around a line: for a law that is no power exactly, such as
    1 / (n (n + 1)), it measures the bend.

    Raises:
        ProbeInputError: fewer than 3 points, equal lengths, or numbers that are not positive and finite.
    """
    if len(lengths) != len(distances) or len(set(lengths)) < 3:
        raise ProbeInputError(
            f"{len(set(lengths))} different lengths and {len(distances)} distances: "
            f"a slope with an error needs 3 points or more, each a length and a distance"
        )
    for n, d in zip(lengths, distances, strict=True):
        if not (n > 0 and 0 < d < math.inf):  # written so that NaN fails too
            raise ProbeInputError(
                f"distance {d:g} at length {n} has no logarithm: leave it out, or measure in a wider dtype"
            )
    found = stats.linregress([math.log(n) for n in lengths], [math.log(d) for d in distances])
    return Slope(float(found.slope), float(found.stderr))


def check_pair(first: Int[Tensor, "batch n"], second: Int[Tensor, "rows m"], pair: str) -> None:
    """Refuse two texts that are not to each other what `pair` says.

    Raises:
        ProbeInputError: with the row and the position, or the lengths.
    """
    _known("pair", pair, PAIRS)
    n, m = first.shape[1], second.shape[1]
    if len(first) != len(second) or not (n and m):
        raise ProbeInputError(
            f"the texts have shapes {tuple(first.shape)} and {tuple(second.shape)}: "
            f"a pair needs as many rows in both, and tokens in each"
        )
    if pair == "any":
        return
    if m - n != (pair == "repeated"):
        wanted = "one token longer than" if pair == "repeated" else "as long as"
        raise ProbeInputError(f"the texts have {n} and {m} tokens: of a {pair} pair the second is {wanted} the first")
    if pair == "repeated":
        _check_same(torch.cat([first, first[:, -1:]], 1), second, n)
    else:
        _check_middle(first != second)


def _check_same(expected: Tensor, second: Tensor, n: int) -> None:
    wrong = (expected != second).nonzero().tolist()
    if wrong:
        row, position = wrong[0]
        what = "must repeat the last token" if position == n else "needs the same prefix"
        raise ProbeInputError(
            f"row {row} of the second text has token {second[row, position]} at position {position}, "
            f"not {expected[row, position]}: a repeated pair {what}, other texts need pair='middle' or 'any'"
        )


def _check_middle(differs: Bool[Tensor, "batch n"]) -> None:
    for row, where in enumerate(differs):
        places = where.nonzero()[:, 0].tolist()
        if len(places) != 1 or places[0] in (0, len(where) - 1):
            raise ProbeInputError(
                f"row {row} differs at positions {places[:5]}: a middle pair differs at one position, "
                f"neither the first nor the last"
            )


def _known(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ProbeInputError(f"unknown {what} {name!r}: it must be one of {', '.join(known)}")


def _last(model: HookedModel, tokens: Tensor, head: str) -> tuple[Tensor, Tensor, Tensor]:
    """At the last position: the stream (reading, batch, d), the heads (layer, batch, head, d), the logits."""
    n_ctx = getattr(model.cfg, "n_ctx", None)
    if n_ctx is not None and tokens.shape[1] > n_ctx:
        raise ProbeInputError(f"a text of {tokens.shape[1]} tokens goes beyond n_ctx={n_ctx}: shorten it")
    if not callable(getattr(model, "ln_final", None)):
        raise ProbeInputError("the model has no module ln_final: what the unembedding reads is taken behind it")
    layers = range(model.cfg.n_layers)
    streams = [names.resid_pre(0), *map(names.resid_post, layers)]
    logits, cache = cached(model, tokens, [*streams, *map(names.z, layers)])
    residual = [cache[name][:, -1:] for name in streams]
    residual.append(model.ln_final(residual[-1]))
    heads = [cache[names.z(layer)][:, -1] for layer in layers]
    if head == "result":
        heads = [torch.einsum("bhe,hed->bhd", z, head_weights(model, layer).W_O) for layer, z in enumerate(heads)]
    found = torch.stack(residual)[:, :, 0], torch.stack(heads), logits[:, -1]
    if not all(x.isfinite().all() for x in found):
        raise ProbeInputError("the last token holds NaN or infinity in some layer: no distance is defined there")
    return found
