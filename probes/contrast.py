"""Contrast: how far apart does a metric hold a clean and a corrupted text, and how much of that is recovered?

    logit difference  l(correct) - l(wrong) at one position                          nats
    recovery          (m - m(corrupt)) / (m(clean) - m(corrupt)) of means over texts  0 as corrupt, 1 as clean

The logit difference is the log of the odds between two answers: linear in the logits, and blind to whatever
raises both alike.  What every patch needs of its texts, its model and its metric is checked here.

Source: Wang et al. 2022, arXiv:2211.00593, section 2 (logit difference); Heimersheim and Nanda 2024,
arXiv:2404.15255, section 4 (choice of metric).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int

from probes.errors import ProbeInputError
from probes.model import check_tokens

Metric = Callable[[Float[torch.Tensor, "batch pos d_vocab"]], Float[torch.Tensor, " batch"]]


def logit_difference(
    logits: Float[torch.Tensor, "batch pos d_vocab"],
    correct: int | Int[torch.Tensor, " batch"],
    wrong: int | Int[torch.Tensor, " batch"],
    position: int = -1,
) -> Float[torch.Tensor, " batch"]:
    """The logit of `correct` minus that of `wrong` at one position, in nats: the log of their odds.

    Raises:
        ProbeInputError: a token or position that the logits do not have.
    """
    batch, n, d_vocab = logits.shape
    at = logits[:, within("position", position, n, negative=True)]
    at = at.to(torch.promote_types(at.dtype, torch.float32))

    def logit(token):
        ids = torch.as_tensor(token, device=at.device).expand(batch)
        check_tokens(ids, d_vocab)
        return at.gather(1, ids[:, None])[:, 0]

    return logit(correct) - logit(wrong)


def ends(
    metric: Metric,
    clean_logits: Float[torch.Tensor, "batch pos d_vocab"],
    corrupt_logits: Float[torch.Tensor, "batch pos d_vocab"],
) -> tuple[Float[torch.Tensor, " batch"], Float[torch.Tensor, " batch"]]:
    """The metric of the clean and of the corrupted run, per text.

    Raises:
        ProbeInputError: their means are equal, so that no share of the way between them is defined.
    """
    clean, corrupt = score(metric, clean_logits), score(metric, corrupt_logits)
    if not abs(clean.mean() - corrupt.mean()) > 0:  # written so that NaN fails too
        raise ProbeInputError(
            f"the metric is {clean.mean():.6g} on the clean texts and {corrupt.mean():.6g} on the corrupted ones: "
            f"recovery needs texts that it tells apart"
        )
    return clean, corrupt


def score(metric: Metric, logits: Float[torch.Tensor, "batch pos d_vocab"]) -> Float[torch.Tensor, " batch"]:
    """The metric, in float32 or better.

    Raises:
        ProbeInputError: it is not one number per text.
    """
    value = metric(logits)
    found = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
    if found != (len(logits),):
        raise ProbeInputError(
            f"the metric returned {found}: it must be a tensor of one number per text, ({len(logits)},), "
            f"as logit_difference returns"
        )
    return value.to(torch.promote_types(value.dtype, torch.float32))


def recovered(
    effect: Float[torch.Tensor, "batch *place"],
    clean: Float[torch.Tensor, " batch"],
    corrupt: Float[torch.Tensor, " batch"],
) -> Float[torch.Tensor, "*place"]:
    """The share of the way from corrupt to clean that the mean over the texts has come."""
    return (effect.mean(0) - corrupt.mean()) / (clean.mean() - corrupt.mean())


def check_texts(clean: Int[torch.Tensor, "batch pos"], corrupt: Int[torch.Tensor, "_ _"]) -> None:
    """Raise ProbeInputError unless both have the same shape."""
    if clean.shape != corrupt.shape:
        raise ProbeInputError(
            f"clean has shape {tuple(clean.shape)} and corrupt {tuple(corrupt.shape)}: "
            f"a patch needs texts that match position by position"
        )


def within(what: str, index: int, size: int, *, negative: bool = False) -> int:
    """The index, counted from the start.

    Raises:
        ProbeInputError: it lies outside [0, size), or [-size, size) where negative ones count from the end.
    """
    if not (-size if negative else 0) <= index < size:
        raise ProbeInputError(f"{what} {index} is out of range: it must lie in [{-size if negative else 0}, {size})")
    return index % size
