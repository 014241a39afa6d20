import math

import numpy as np
import pytest

from analyses.core.errors import WorkbenchError
from analyses.core.statistics import bootstrap_interval, interval


def binomial_tolerance(level, trials):
    """Four standard errors of an observed coverage."""
    return 4 * math.sqrt(level * (1 - level) / trials)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_interval_of_the_mean_covers_as_often_as_it_says(level):
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(3000, 5))
    covered = np.mean([low <= 3.0 <= high for low, high in (interval(row, level) for row in draws)])
    assert abs(covered - level) <= binomial_tolerance(level, len(draws))


def test_the_interval_of_two_values_is_the_closed_form():
    low, high = interval([0.0, 2.0], 0.5)  # Student's t with one degree of freedom has its quartiles at -1 and 1
    assert (low, high) == pytest.approx((0.0, 2.0))


def test_equal_values_have_an_interval_without_width():
    assert interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_the_bootstrap_interval_of_the_mean_covers_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    draws = generator.normal(size=(250, 100))
    found = [bootstrap_interval(row, np.mean, 0.9, generator, resamples=300) for row in draws]
    # The percentile interval lacks the factor t/z and sqrt(n/(n-1)); at n=100 that costs less than 0.01.
    assert abs(np.mean([low <= 0 <= high for low, high in found]) - 0.9) <= binomial_tolerance(0.9, len(draws)) + 0.01


def test_the_bootstrap_draws_from_its_generator_alone():
    seeds = (3, 3, 4)
    once, again, other = (bootstrap_interval(np.arange(10.0), np.std, 0.9, np.random.default_rng(s)) for s in seeds)
    assert once == again != other


@pytest.mark.parametrize("found", [lambda v, p: interval(v, p), lambda v, p: bootstrap_interval(v, np.mean, p, None)])
def test_one_seed_has_no_interval_and_bad_values_are_refused(found):
    assert found([1.0], 0.9) is None
    for values, level, message in [
        ([], 0.9, "one per seed"),
        ([[1.0, 2.0]], 0.9, "one per seed"),
        ([1.0, math.nan], 0.9, "finite values: got nan"),
        ([1.0, math.inf], 0.9, "finite values: got inf"),
        ([1.0, 2.0], 1.0, r"between 0 and 1: got 1\.0"),
    ]:
        with pytest.raises(WorkbenchError, match=message):
            found(values, level)
