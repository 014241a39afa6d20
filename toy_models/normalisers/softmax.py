"""Softmax: p_j = exp(s_j) / sum_k exp(s_k).  Every row sums to 1, or is empty."""

from dataclasses import dataclass

from toy_models.normalisers.spec import SoftmaxOf


@dataclass(frozen=True)
class Softmax(SoftmaxOf):
    """No options.  Rows without a visible key become zeros."""
