"""Which statements about contexts as weights are equalities, and do they hold to rounding?

Random models of seven kinds, and models set by hand on which the answer is known, all in float64; every seed draws
weights, contexts and queries.  T(x, y) is the model with a context in front of the query, T' the same model with W' and
the query alone.  Each equality stands beside the tolerance that rounding leaves it.  What must differ is claimed too:
it shows that the premises are needed, and that the comparison can tell.

Source: the notes in probes/theory, which name their own sources.  Machines on which a context is a gradient step are
those of curry_vs_gradient_exact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

import analyses.currying.exact.contexts as contexts
import analyses.currying.exact.groups as groups
import analyses.currying.exact.methods as methods
from analyses.core import calibration
from analyses.core.claims import Bound, Claim
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from toy_models.progress import progress


@dataclass(frozen=True)
class Config:
    """Small enough that the quick profile differs in its seeds alone."""

    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    device: str = "cpu"

    def __post_init__(self):
        if self.device != "cpu":
            raise WorkbenchError(
                f"device={self.device!r}: float64 and its rounding are what is measured; leave it at cpu"
            )


QUICK = {"seeds": (0, 1)}
COLUMNS = {
    **calibration.COLUMNS,
    "instrument": "the method, or what is looked at",
    "tolerance": "the largest error that agrees, or for what must differ the smallest that does; fixed before",
    "must": "agree, or differ",
}

PARTS = (contexts, methods, groups)
KNOWN = tuple(one for part in PARTS for one in calibration.known(part.QUANTITIES))
DIFFERENT = {name: sentence for part in PARTS for name, sentence in part.DIFFERENT.items()}
FAR = 1e-3  # nine orders above rounding, and small beside logits near 1


def run(config: Config) -> Result:
    """Read every quantity at every seed."""
    readings = {seed: _read(seed) for seed in progress(config.seeds, "seeds")}
    agree = {
        seed: {name: pair for name, pair in found.items() if name not in DIFFERENT} for seed, found in readings.items()
    }
    table = calibration.table(KNOWN, agree).assign(must="agree")
    rows = [_row(seed, *name, *readings[seed][name]) for seed in readings for name in DIFFERENT]
    whole = pd.concat([table, pd.DataFrame(rows, columns=list(COLUMNS))], ignore_index=True)
    return Result(whole, measured_with={"device": config.device, "dtype": "float64"})


def _read(seed: int) -> calibration.Readings:
    return {name: pair for part in PARTS for name, pair in part.read(seed).items()}


def _row(seed: int, instrument: str, quantity: str, one: object, other: object) -> dict[str, object]:
    """One row of what must differ."""
    compared = calibration.Known(instrument, contexts.THEORY, quantity, "1", FAR, DIFFERENT[instrument, quantity])
    return compared.row(seed, one, other) | {"must": "differ"}


# Claims -------------------------------------------------------------------------------------------


def _errors(instrument: str, quantity: str) -> Callable[[Result], Sequence[float]]:
    def measure(result: Result) -> Sequence[float]:
        table = result.table
        rows = table[(table.instrument == instrument) & (table.quantity == quantity)]
        return rows.sort_values("seed").error.to_numpy(dtype=np.float64).tolist()

    return measure


CLAIMS = (
    *(one.claim() for one in KNOWN),
    *(
        Claim(
            f"{sentence} must differ (largest difference)", "identity", contexts.THEORY, Bound(low=FAR), _errors(*name)
        )
        for name, sentence in DIFFERENT.items()
    ),
)
