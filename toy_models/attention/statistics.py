"""What a query does with its keys, in a few numbers per row: the shape that every backend returns.

p_j are the softmax weights of one row, s_j its scores in nats (scaled, capped, biased), and query i of
n_query sits at key position i + n_key - n_query.  A row that may look at no key is dead: its logsumexp is
-inf and every other number 0; leave such rows out of a mean.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float

# The numbers that every row has: the last axis of the model's `hook_row_statistics`, in this order.
STATISTICS = (
    *("logsumexp", "entropy", "peak", "sum_squares"),
    *("mean_distance", "sink_mass", "self_mass", "previous_mass"),
)


@dataclass(frozen=True)
class RowStatistics:
    """Per row, in float32 (float64 for float64 inputs); `entropy` carries gradients, the others do not.

    With a `sink_logit` the row has one key more, a virtual one without a value: it counts in logsumexp,
    entropy, peak and sum_squares, its weight is `unassigned_mass`, and it is at no distance.

        logsumexp        ln sum_j exp(s_j)             nats
        entropy          -sum_j p_j ln p_j             nats, 0 to ln n_visible
        peak             max_j p_j                     0 to 1
        sum_squares      sum_j p_j^2                   0 to 1; its inverse counts the keys in use
        mean_distance    sum_j p_j (position - j)      keys; negative is ahead
        sink_mass        p_0                           0 to 1
        self_mass        p at the query's own position 0 to 1
        previous_mass    p one before it               0 to 1
        target_mass      p at targets[b, h, i]         0 to 1; None unless targets were given
        unassigned_mass  p of the virtual key          0 to 1; None unless there is a sink_logit
        received_mass    sum_i p_ij, per key           0 to n_query; None unless asked for

    A mass on a key that the query may not see, or that does not exist, is 0.
    """

    logsumexp: Float[torch.Tensor, "batch head query"]
    entropy: Float[torch.Tensor, "batch head query"]
    peak: Float[torch.Tensor, "batch head query"]
    sum_squares: Float[torch.Tensor, "batch head query"]
    mean_distance: Float[torch.Tensor, "batch head query"]
    sink_mass: Float[torch.Tensor, "batch head query"]
    self_mass: Float[torch.Tensor, "batch head query"]
    previous_mass: Float[torch.Tensor, "batch head query"]
    target_mass: Float[torch.Tensor, "batch head query"] | None = None
    unassigned_mass: Float[torch.Tensor, "batch head query"] | None = None
    received_mass: Float[torch.Tensor, "batch head key"] | None = None

    @property
    def dead_rows(self) -> Bool[torch.Tensor, "batch head query"]:
        """True where the query may look at no key."""
        return torch.isneginf(self.logsumexp)

    def stacked(self) -> Float[torch.Tensor, "batch head query statistic"]:
        """The numbers that every row has, along a last axis in the order of STATISTICS."""
        return torch.stack([getattr(self, name) for name in STATISTICS], dim=-1)

    @classmethod
    def unstacked(cls, stacked: Float[torch.Tensor, "batch head query statistic"]) -> "RowStatistics":
        """The inverse of `stacked`."""
        return cls(**dict(zip(STATISTICS, stacked.unbind(-1), strict=True)))

    def mean(self) -> dict[str, Float[torch.Tensor, " head"]]:
        """Each number's mean over the rows that are not dead, per head; nan for a head that has none."""
        alive = ~self.dead_rows
        rows = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "received_mass"}
        return {
            name: values.where(alive, 0).sum((0, 2)) / alive.sum((0, 2))
            for name, values in rows.items()
            if values is not None
        }


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type of the statistics of inputs of `dtype`: float32, or float64."""
    return torch.promote_types(dtype, torch.float32)
