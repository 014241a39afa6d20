"""Names in the table of `counting_vs_width`, and the critical widths, which claims and figure read off it."""

import numpy as np
import pandas as pd

CONSTRUCTED, TRAINED, UNTRAINED = "constructed", "trained", "untrained"
EXACT = 1e-9  # counts: what float64 rounding leaves of a reading, with room
LEVEL = 0.8  # accuracy from which on a vocabulary counts as counted


def critical_widths(table: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """Per seed and vocabulary, the width at which the trained nets' accuracy first reaches `level`.

    Between two widths by the logarithm.  `crossed` is False where all widths reach it, and the smallest is given, or
    none does, and the largest is: a bound, not a value.
    """
    rows = []
    for (seed, m), cells in table[table.model == TRAINED].groupby(["seed", "vocabulary"]):
        cells = cells.sort_values("d_model")
        widths, accuracy = cells.d_model.to_numpy(float), cells.accuracy.to_numpy()
        reached = np.flatnonzero(accuracy >= level)
        if not len(reached) or reached[0] == 0:
            critical = widths[0 if len(reached) else -1]
        else:
            at = reached[0]
            share = (level - accuracy[at - 1]) / (accuracy[at] - accuracy[at - 1])
            critical = widths[at - 1] * (widths[at] / widths[at - 1]) ** share
        rows.append(
            {"seed": seed, "vocabulary": m, "critical": critical, "crossed": len(reached) > 0 and reached[0] > 0}
        )
    return pd.DataFrame(rows)
