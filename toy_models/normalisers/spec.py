"""What a normaliser may do.  Each file beside this one overrides one method, or two."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float

from toy_models.attention.reference import softmax
from toy_models.normalisers.hidden import n_visible, scaled


class Normaliser:
    """Options of one way from scores to weights.

        sums_to_one    whether every row that sees a key has weights of 0 or more that sum to 1
        virtual_key    whether they do so with the weight of a virtual key, which has no value, counted in

    Entropy, peak and their like are defined for these two alone.
    """

    sums_to_one: ClassVar[bool] = False
    virtual_key: ClassVar[bool] = False

    @property
    def per_head(self) -> dict[str, float]:
        """What attention learns for it, one number a head: the names, and where each starts."""
        return {}

    def unfused(self, config) -> str | None:
        """Why no fused backend may run in its place in a model of this TransformerConfig, or None."""
        return "needs all scores of a row at once"

    def __call__(
        self,
        scores: Float[torch.Tensor, "batch head query key"],
        visible: Bool[torch.Tensor, "#batch 1 query key"],
        **per_head: Float[torch.Tensor, " head"],
    ) -> Float[torch.Tensor, "batch head query key"]:
        """The weights; what is learned per head stands at its start unless given."""
        raise NotImplementedError

    def judged(
        self, scores: Float[torch.Tensor, "batch head query key"], visible: torch.Tensor, **per_head: torch.Tensor
    ) -> tuple[Float[torch.Tensor, "batch head query key"], Float[torch.Tensor, " head"] | None]:
        """What row statistics take for the scores, and the score of the virtual key if there is one."""
        return scores, None


class SoftmaxOf(Normaliser):
    """Softmax of `factor` times the score, with a virtual key of score `sink_logit`: fused backends do the same."""

    sums_to_one: ClassVar[bool] = True
    counts_keys: ClassVar[bool] = False  # whether there is a factor

    def factor(
        self, n_keys: Float[torch.Tensor, "#batch 1 query 1"], **per_head: Float[torch.Tensor, " head"]
    ) -> Float[torch.Tensor, "#batch #head query 1"]:
        """What scores are multiplied by, for queries that may look at `n_keys` keys, at least 1."""
        raise NotImplementedError

    def sink_logit(
        self, like: Float[torch.Tensor, "batch head query key"], **per_head: Float[torch.Tensor, " head"]
    ) -> Float[torch.Tensor, " head"] | None:
        """The score of the virtual key, in nats, or None; `like` says how many heads there are, and of which type."""
        return None

    def unfused(self, config) -> str | None:
        return None

    def judged(self, scores, visible, **per_head):
        if self.counts_keys:
            scores = scaled(scores, self.factor(n_visible(visible, scores), **per_head))
        return scores, self.sink_logit(scores, **per_head)

    def __call__(self, scores, visible, **per_head):
        return softmax(*self.judged(scores, visible, **per_head))
