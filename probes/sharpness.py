"""Sharpness: how few keys does a query attend to?

For one row p of an attention pattern that may look at n keys:

    entropy       H(p) = -sum_i p_i ln p_i     nats       0 (one key) to ln n (uniform)
    peak          max_i p_i                    fraction   1/n (uniform) to 1 (one key)
    sum of squares  sum_i p_i^2                fraction   1/n to 1; its inverse counts the keys in use
    n_visible     n                            keys

Source: Velickovic et al. 2024, arXiv:2410.01104.  Lemma 2.1: with scores whose largest and smallest
differ by `spread`, the peak is at most exp(spread) / n, and the entropy at least ln n - spread.
theory/sharpness.md derives it.  `spread` needs two numbers per row and no pattern, so that it serves long texts.

Is a retrieval that fails not sharp enough, or does it look at the wrong key?  `retrieval_loss` sets the loss beside
that of `hard_max`, which puts all weight on the largest of the same scores:

    ranking       loss(hard_max(scores))                what no temperature can repair
    dispersion    loss(softmax(scores)) - ranking       what spreading the weight costs; negative where it helps

A diagnostic, not a split into two costs: theory/sharpness.md says when the dispersion is negative.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int

from probes.errors import ProbeInputError

# A row of n rounded weights sums to 1 within about n * unit roundoff; these allow for n up to about 4,000.
ROW_SUM_TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-4, torch.bfloat16: 4e-2, torch.float16: 5e-3}


@dataclass(frozen=True)
class Sharpness:
    """One value per row; entropy in nats, the others as in the table above."""

    entropy: Float[torch.Tensor, "batch head query"]
    peak: Float[torch.Tensor, "batch head query"]
    sum_squares: Float[torch.Tensor, "batch head query"]
    n_visible: Int[torch.Tensor, " query"]


def causal(n: int, *, device: torch.device | str | None = None) -> Bool[torch.Tensor, "query key"]:
    """The visible keys of a decoder: True on and below the diagonal."""
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()


def sharpness(
    pattern: Float[torch.Tensor, "batch head query key"], visible: Bool[torch.Tensor, "query key"]
) -> Sharpness:
    """Measure every row of an attention pattern.

    Args:
        pattern: softmax weights as TransformerLens stores them in `attn.hook_pattern`.
        visible: True where the query may look at the key; `causal(n)` for a decoder.

    Raises:
        ProbeInputError: a row does not sum to 1, or has weight on a hidden key.  Rows that are masked
            out whole are stored as zeros by TransformerLens: drop them first.
    """
    tolerance = ROW_SUM_TOLERANCE[pattern.dtype]
    p = pattern.to(torch.promote_types(pattern.dtype, torch.float32))
    worst = (p.sum(-1) - 1).abs().max().item()
    if not worst <= tolerance:  # written so that NaN fails too
        raise ProbeInputError(f"rows must sum to 1 within {tolerance:g}; off by {worst:.3g}")
    lowest = p.min().item()
    if lowest < 0:
        raise ProbeInputError(f"weights must not be negative: the least is {lowest:.3g}")
    hidden = p.masked_fill(visible.to(p.device), 0.0).abs().max().item()
    if hidden > 0:
        raise ProbeInputError(f"a row has weight {hidden:.3g} on a hidden key: is `visible` that of this model?")
    return Sharpness(
        entropy=torch.special.entr(p).sum(-1),
        peak=p.amax(-1),
        sum_squares=p.square().sum(-1),
        n_visible=visible.sum(-1),
    )


def spread(
    logsumexp: Float[torch.Tensor, "*rows"],
    peak: Float[torch.Tensor, "*rows"],
    negated_logsumexp: Float[torch.Tensor, "*rows"],
    negated_peak: Float[torch.Tensor, "*rows"],
) -> Float[torch.Tensor, "*rows"]:
    """Largest less smallest score of each row, in nats, 0 or more, without the pattern.

    The largest weight belongs to the largest score: max s = logsumexp + ln peak.  The same attention with the
    signs of all its scores turned (run it on -q) gives min s = -(negated_logsumexp + ln negated_peak).
    In float32 or better; off by about 4 roundings of the largest of the four numbers.

    Raises:
        ProbeInputError: a peak outside (0, 1], as a row has that may look at no key: leave such rows out.
    """
    for name, value in (("peak", peak), ("negated_peak", negated_peak)):
        fits = (value > 0) & (value <= 1 + ROW_SUM_TOLERANCE[value.dtype])  # written so that NaN fails too
        if not fits.all():
            raise ProbeInputError(
                f"{name} has a row of {value[~fits][0].item():.3g}, not in (0, 1]: leave out rows that see no key"
            )
    numbers = (logsumexp, peak, negated_logsumexp, negated_peak)
    s, p, t, q = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in numbers)
    return (s + p.log() + t + q.log()).clamp(min=0)  # rounding alone can make it negative


def peak_bound(
    spread: float | Float[torch.Tensor, "*rows"], n_visible: Int[torch.Tensor, " query"]
) -> Float[torch.Tensor, "*rows"]:
    """Lemma 2.1: no peak is above min(1, exp(spread) / n), when the scores span `spread` nats.

    One spread for all rows, or one for each, with the queries last.
    """
    return _nats(spread, n_visible).exp().div(n_visible).clamp(max=1.0)


def entropy_bound(
    spread: float | Float[torch.Tensor, "*rows"], n_visible: Int[torch.Tensor, " query"]
) -> Float[torch.Tensor, "*rows"]:
    """From the same lemma: no entropy is below max(0, ln n - spread), in nats; `spread` as for `peak_bound`."""
    return (n_visible.double().log() - _nats(spread, n_visible)).clamp(min=0.0)


@dataclass(frozen=True)
class RetrievalLoss:
    """In the unit and the shape of the loss; total = ranking + dispersion, up to rounding.

    `total` and `ranking` have the range of the loss, `dispersion` either sign.
    """

    total: Float[torch.Tensor, "*losses"]
    ranking: Float[torch.Tensor, "*losses"]
    dispersion: Float[torch.Tensor, "*losses"]


def retrieval_loss(
    scores: Float[torch.Tensor, "*rows key"],
    loss: Callable[[torch.Tensor], torch.Tensor],
    pattern: Float[torch.Tensor, "*rows key"] | None = None,
) -> RetrievalLoss:
    """Set the loss of spread weights beside the loss of the hard-max of the same scores.

    Args:
        scores: in nats, -inf where the key is hidden.
        loss: from weights `(*rows, key)` to a loss of any shape, lower is better: `missed_mass` of a target key,
            the error of `weights @ values`, or that of a model which runs with these weights in place of its own.
        pattern: the weights to judge; softmax of the scores unless given.  Those of another normaliser of the same
            scores share the ranking, so that their dispersions compare.

    Raises:
        ProbeInputError: as `hard_max`.
    """
    hard = hard_max(scores)
    ranking = loss(hard)
    total = loss(scores.to(hard.dtype).softmax(-1) if pattern is None else pattern.to(hard.dtype))
    return RetrievalLoss(total=total, ranking=ranking, dispersion=total - ranking)


def hard_max(scores: Float[torch.Tensor, "*rows key"]) -> Float[torch.Tensor, "*rows key"]:
    """All weight on the key with the largest score, in equal parts if several have it: the limit of softmax(b * scores)
    for large b.  In float32 or better; no gradient.

    Raises:
        ProbeInputError: a score is nan or inf, or a row sees no key (all its scores are -inf): leave such rows out.
    """
    scores = scores.detach().to(torch.promote_types(scores.dtype, torch.float32))
    largest = scores.amax(-1, keepdim=True)
    if not largest.isfinite().all():
        found = largest[~largest.isfinite()][0].item()
        raise ProbeInputError(f"a row's largest score is {found}, not finite: leave out rows that see no key")
    chosen = (scores == largest).to(scores.dtype)
    return chosen / chosen.sum(-1, keepdim=True)


def missed_mass(
    weights: Float[torch.Tensor, "*rows key"], targets: Int[torch.Tensor, "*rows"]
) -> Float[torch.Tensor, "*rows"]:
    """1 less the weight on the target key of each row, from 0 to 1; for the hard-max, the error of the argmax.

    Raises:
        ProbeInputError: a target that is no key.
    """
    n = weights.shape[-1]
    bad = (targets < 0) | (targets >= n)
    if bad.any():
        raise ProbeInputError(f"target {targets[bad][0].item()} is no key: there are {n}, from 0 to {n - 1}")
    return 1 - weights.gather(-1, targets.to(weights.device)[..., None].long())[..., 0]


def _nats(spread, like: torch.Tensor) -> Float[torch.Tensor, "*rows"]:
    return torch.as_tensor(spread, dtype=torch.float64, device=like.device)
