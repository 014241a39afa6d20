"""When a curried model and an oracle may be held against each other, and from where on that says anything."""

from jaxtyping import Int
from torch import Tensor

from probes.currying.curried import Curried
from probes.currying.oracle import Oracle
from probes.currying.reading import check_queries, rows_in_common
from probes.errors import ProbeInputError

SMALLEST_BASELINE = 1e-3  # nats: below it there is nothing to remove
ENTITY_FLOOR = 0.03  # of |e|_F: a site whose entities hardly differ does not make much of nothing


def require_comparable(curried: Curried, oracle: Oracle, queries: Int[Tensor, "batch query"]) -> None:
    """Refuse a curried model and an oracle that do not belong together, or queries that show nothing.

    Raises:
        ProbeInputError: an oracle of other weights, queries that do not fit, or that the fit has seen.
    """
    if curried.provenance.weights_hash != oracle.weights_hash:
        raise ProbeInputError(
            f"the curried model comes from weights {curried.provenance.weights_hash}, the oracle has "
            f"{oracle.weights_hash}: make both from the same model"
        )
    check_queries(oracle.model, queries, oracle.text.shape[1])
    seen = 0 if curried.fit_queries is None else rows_in_common(queries, curried.fit_queries)
    if seen:
        raise ProbeInputError(
            f"{seen} of {len(queries)} queries were fitted on: drop them, or draw others that are longer"
        )
