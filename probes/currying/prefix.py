"""`kv`: the context kept as keys and values.  Exact, and not in weight space: the standard the others are held to."""

from jaxtyping import Int
from torch import Tensor

from probes.currying.curried import Fit
from probes.currying.oracle import Oracle


def kv(oracle: Oracle, queries: Int[Tensor, "batch query"] | None = None) -> Fit:
    """Put the context's keys and values before the query, where they stood.  Needs no queries."""
    past = oracle.past
    return Fit({}, reader=past, stored=past.stored, token_forwards=oracle.text.numel(), same_space=False)
