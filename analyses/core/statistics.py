"""Intervals: how far another set of seeds might have come out."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from analyses.core.errors import WorkbenchError


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student-t interval of the mean.

    Args:
        values: one per seed.
        level: coverage, above 0 and below 1; exact for normal values.

    Returns:
        Both ends in the unit of the values. None for a single value: one seed says nothing about spread.

    Raises:
        WorkbenchError: no values, a value that is not finite, or a level out of range.
    """
    found = _checked(values, level)
    if len(found) == 1:
        return None
    mean, error = found.mean(), found.std(ddof=1) / np.sqrt(len(found))
    reach = stats.t.ppf((1 + level) / 2, len(found) - 1) * error
    return float(mean - reach), float(mean + reach)


def bootstrap_interval(
    values: Sequence[float],
    statistic: Callable[[np.ndarray], float],
    level: float,
    generator: np.random.Generator,
    resamples: int = 2000,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of any statistic of one sample.

    Args:
        values: one per seed.
        statistic: from a vector of values to a number; one with an `axis`, as numpy's, is quick.
        level: coverage, above 0 and below 1; approximate, and too narrow below some ten values.
        generator: the only source of chance.
        resamples: how often to draw.

    Returns, Raises: as `interval`.
    """
    found = _checked(values, level)
    if len(found) == 1:
        return None
    drawn = stats.bootstrap(
        (found,), statistic, n_resamples=resamples, confidence_level=level, method="percentile",
        rng=generator,
    )  # fmt: skip
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def _checked(values: Sequence[float], level: float) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not len(found):
        raise WorkbenchError(f"an interval needs a list of values, one per seed; got shape {found.shape}")
    if not np.isfinite(found).all():
        raise WorkbenchError(f"an interval needs finite values: got {found[~np.isfinite(found)][0]}")
    if not 0 < level < 1:
        raise WorkbenchError(f"the level of an interval lies between 0 and 1: got {level}")
    return found
