"""In-context score: how much better are predictions late in a text than early in it?

    score = loss[late] - loss[early]    nats    NEGATIVE is better: context has helped

Positions count from 0 along `losses`, whose entry i is the loss of the prediction made at position i, of token
i + 1.  The defaults 49 and 499 are the 50th and the 500th prediction.

A model that ignores its context scores 0 on average, on texts that are not harder early than late.  There is no
lower bound in general; a model that starts at chance over V tokens can gain at most ln V.

Source: Olsson et al. 2022, arXiv:2209.11895, "in-context learning score": loss at the 500th token less loss at the
50th, averaged over texts; published values lie near -0.4 after induction heads have formed.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float

from probes.errors import ProbeInputError


@dataclass(frozen=True)
class InContext:
    """Late minus early loss, in nats: of each text, their mean, and its standard error over the texts."""

    per_sequence: Float[torch.Tensor, " batch"] = field(metadata={"unit": "nats"})
    mean: Float[torch.Tensor, ""] = field(metadata={"unit": "nats"})
    standard_error: Float[torch.Tensor, ""] = field(metadata={"unit": "nats"})


def in_context(losses: Float[torch.Tensor, "batch pos"], early: int = 49, late: int = 499) -> InContext:
    """Score every text by its loss at position `late` less its loss at position `early`.

    Args:
        losses: per prediction, in nats, never averaged; `probes.model.token_losses(logits, tokens)` gives them.
        early, late: positions along `losses`, from 0; texts shorter than 501 tokens need a smaller `late`.

    Raises:
        ProbeInputError: positions that are not in order or not in the text, a single text (one has no standard
            error), or a loss there that is not finite.
    """
    batch, n = losses.shape
    if not 0 <= early < late < n:
        raise ProbeInputError(f"early={early} and late={late} must keep 0 <= early < late < {n}, the losses per text")
    if batch < 2:
        raise ProbeInputError(f"{batch} text has no standard error: give the losses of at least 2")
    read = losses[:, [early, late]]
    if not read.isfinite().all():
        worst = read[~read.isfinite()][0].item()
        raise ProbeInputError(f"a loss at position {early} or {late} is {worst}: the score needs finite losses")
    read = read.to(torch.promote_types(losses.dtype, torch.float32))
    gain = read[:, 1] - read[:, 0]
    return InContext(per_sequence=gain, mean=gain.mean(), standard_error=gain.std() / batch**0.5)
