"""Calibration: what an instrument reads where the answer is known, beside that answer.

A study that calibrates lists its quantities by `known`; each gives a claim, and a row of the table per seed.  The
answer itself is worked out at every seed: it may depend on the text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analyses.core.claims import Bound, Claim, Kind
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result

COLUMNS = {
    "instrument": "which probe, or view on the weights",
    "quantity": "what it measures, and where",
    "unit": "of the values; 1 for a share or a score",
    "seed": "of everything drawn",
    "entries": "how many values were compared",
    "measured": "their mean",
    "known": "the mean of the known answers",
    "error": "the largest difference of one value from its known answer",
    "tolerance": "the largest error that agrees, fixed before",
}


Readings = Mapping[tuple[str, str], tuple[Any, Any]]  # (instrument, quantity) -> measured, answer: whatever broadcasts


@dataclass(frozen=True)
class Known:
    """A quantity whose answer is known.

    Attributes:
        instrument, quantity: together its name.
        unit: of its values.
        tolerance: how far rounding, the tail of a softmax or chance may move one value; argue it where it is set.
        sentence: what is claimed of it; names the answer where that is one number.
        source: where the answer is derived.
        kind: "identity" for what holds of any model up to rounding.
    """

    instrument: str
    source: str
    quantity: str
    unit: str
    tolerance: float
    sentence: str
    kind: Kind = "calibration"

    def row(self, seed: int, measured: Any, answer: Any) -> dict[str, object]:
        """One row of COLUMNS.

        Args:
            measured, answer: numbers, arrays or tensors, of shapes that broadcast.

        Raises:
            ValueError: the shapes do not.
            WorkbenchError: there is nothing to compare.
        """
        values, known = np.broadcast_arrays(_array(measured), _array(answer))
        if not values.size:
            raise WorkbenchError(f"seed {seed}: {self.instrument}, {self.quantity} read no value: one is needed")
        return {
            "instrument": self.instrument,
            "quantity": self.quantity,
            "unit": self.unit,
            "seed": seed,
            "entries": values.size,
            "measured": values.mean().item(),
            "known": known.mean().item(),
            "error": np.abs(values - known).max().item(),
            "tolerance": self.tolerance,
        }

    def claim(self) -> Claim:
        """That at every seed the largest error is within the tolerance."""
        unit = "" if self.unit == "1" else f", {self.unit}"
        return Claim(
            sentence=f"{self.instrument}, {self.quantity}: {self.sentence} (largest error{unit})",
            kind=self.kind,
            source=self.source,
            expected=Bound(high=self.tolerance),
            measure=self.errors,
        )

    def errors(self, result: Result) -> Sequence[float]:
        """The error of every seed."""
        table = result.table
        return table.error[(table.instrument == self.instrument) & (table.quantity == self.quantity)].tolist()


def known(rows: Mapping[tuple[str, str], Sequence[tuple]]) -> tuple[Known, ...]:
    """The quantities of a study: by instrument and source, the other fields of each `Known`."""
    return tuple(Known(*key, *fields) for key, group in rows.items() for fields in group)


def table(quantities: Sequence[Known], readings: Mapping[int, Readings]) -> pd.DataFrame:
    """The table: every quantity at every seed, in the order of `quantities`.

    Raises:
        WorkbenchError: a seed did not read every quantity, or read one that is not listed.
    """
    listed = {(one.instrument, one.quantity): one for one in quantities}
    for seed, found in readings.items():
        if odd := sorted(set(listed) ^ set(found)):
            what = "was not read" if odd[0] in listed else "is not listed"
            raise WorkbenchError(f"seed {seed}: {odd[0][0]}, {odd[0][1]} {what}: readings and list must match")
    rows = [one.row(seed, *found[name]) for seed, found in readings.items() for name, one in listed.items()]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _array(values: Any) -> np.ndarray:
    """By way of lists, so that a tensor of any device will do; float64 survives it."""
    return np.asarray(values.tolist() if hasattr(values, "tolist") else values, dtype=np.float64)
