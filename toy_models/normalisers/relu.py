"""ReLU: p_j = max(0, s_j) / n, for a query that may look at n keys.

A key of score 0 or less weighs nothing, and a row may be all zeros: no key has to take what the others leave.
With `uncounted=1` the divisor is n - 1, and scores of 1 give the exact mean of all keys but one, such as a first token.

Sources: Wortsman et al. 2023, arXiv:2309.08586, where n is the length of the text; here n is counted for each query.
The code of Ran-Milo 2026, arXiv:2603.11487, does not count the first token.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float

from toy_models.canonical import added
from toy_models.errors import ConfigError
from toy_models.normalisers.hidden import n_visible
from toy_models.normalisers.spec import Normaliser


@dataclass(frozen=True)
class Relu(Normaliser):
    """Args: uncounted: keys that the divisor leaves out; it is at least 1.

    Rows sum to the positive parts of their scores over that divisor, their mean if all keys count.
    """

    uncounted: int = added(0)

    def __post_init__(self):
        if isinstance(self.uncounted, bool) or not isinstance(self.uncounted, int) or self.uncounted < 0:
            raise ConfigError(f"relu needs uncounted to be a whole number of at least 0, not {self.uncounted!r}")

    def __call__(
        self,
        scores: Float[torch.Tensor, "batch head query key"],
        visible: Bool[torch.Tensor, "#batch 1 query key"],
    ) -> Float[torch.Tensor, "batch head query key"]:
        """Weights of 0 or more, in nats of score per key; a row without a key is zeros."""
        return scores.relu() / (n_visible(visible, scores) - self.uncounted).clamp(min=1)
