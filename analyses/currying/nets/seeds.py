"""A study whose every row belongs to one seed: seeds run beside each other, and their rows become one table."""

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from analyses.core.sweep import run_jobs


def table_by_seed(
    rows_of: Callable[[tuple[Any, int]], list[dict]], config: Any, columns: Iterable[str]
) -> pd.DataFrame:
    """The rows of every seed of a config, in its order.

    Args:
        rows_of: from (config, seed) to rows; a function of a module, since processes of their own run it.
        columns: their order; what no row has is nan, and what is not named is left out.
    """
    found = run_jobs(rows_of, [(config, seed) for seed in config.seeds], label="seeds")
    return pd.DataFrame([row for rows in found for row in rows], columns=list(columns))
