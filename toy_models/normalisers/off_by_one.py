"""Off by one: p_j = exp(s_j) / (1 + sum_k exp(s_k)), softmax with a virtual key of score 0 and no value.

What the virtual key takes is missing from 1, so that a head can leave its output near zero without a sink among
the real keys.  The 1 stands for exp(0): adding a constant to all scores changes the weights.

Sources: Miller 2023, "Attention is off by one", evanmiller.org/attention-is-off-by-one.html; Xiao et al. 2023,
arXiv:2309.17453, which trains with it.
"""

from dataclasses import dataclass
from typing import ClassVar

from toy_models.normalisers.spec import SoftmaxOf


@dataclass(frozen=True)
class OffByOne(SoftmaxOf):
    """No options.  Rows sum to less than 1; row statistics count the virtual key, their `unassigned_mass`."""

    sums_to_one: ClassVar[bool] = False
    virtual_key: ClassVar[bool] = True

    def sink_logit(self, like, **per_head):
        return like.new_zeros(like.shape[1])
