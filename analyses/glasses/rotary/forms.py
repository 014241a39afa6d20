"""What `rope_base_vs_length` says without training: every code's rotation beside its formulas, and the propositions."""

from collections.abc import Mapping, Sequence

import numpy as np

from analyses.glasses.rotary import propositions
from toy_models.config import TransformerConfig
from toy_models.positions.rope import Rope

# Names of the arrays; those of the figure alone follow below.
WAVELENGTH = "relative error of the wavelength (code)"
PAIRS_KEPT = "p-RoPE: relative error of the pairs kept (code)"
NO_TURN = "p = 0: difference from no positions (seed)"
QUARTER_WAVELENGTH = "quarter wavelength of the slowest pair (code)"
CROSSING = "its first score below zero (code)"
PROP_31 = "Prop 3.1: share at the distance asked for (seed, base)"
PROP_32 = "Prop 3.2: largest mean in standard errors (seed, base)"


def closed_forms(
    settings: Mapping[str, TransformerConfig], bases: Sequence[str], n: int, distances: int, seeds: Sequence[int]
) -> dict[str, np.ndarray]:
    """Arrays by name.

    Args:
        settings: every code's model; those without rope serve for the difference from no positions.
        bases: the codes in which every pair turns; the last but one is what p-RoPE keeps the fastest pairs of.
        n: random queries and keys of each seed.
        distances: 0, ..., distances - 1 are looked at.
    """
    turning = {name: one for name, one in settings.items() if isinstance(one.position, Rope)}
    (still,) = (one for name, one in settings.items() if name not in turning)
    measured = {name: propositions.frequencies(one, distances) for name, one in turning.items()}
    ladder, p_ropes = measured[bases[-2]], [f for name, f in measured.items() if name not in bases]
    draws = [[propositions.of_seed(settings[name], n, distances, seed) for name in bases] for seed in seeds]
    plotted = [found[-2] for found in draws]
    return {
        WAVELENGTH: np.array([np.abs(measured[k] / propositions.formula(v) - 1).max() for k, v in turning.items()]),
        PAIRS_KEPT: np.array([np.abs(f / ladder[: len(f)] - 1).max() for f in p_ropes]),
        NO_TURN: np.array([propositions.without_turning(still, seed) for seed in seeds]),
        QUARTER_WAVELENGTH: np.pi / 2 / np.array([propositions.formula(one)[-1] for one in turning.values()]),
        CROSSING: np.array([propositions.first_negative(one) for one in turning.values()]),
        PROP_31: np.array([[one.share for one in found] for found in draws]),
        PROP_32: np.array([[np.abs(one.mean / one.error).max() for one in found] for found in draws]),
        "q, k independent: mean score (seed, distance)": np.array([one.mean for one in plotted]),
        "q, k independent: its standard error (seed, distance)": np.array([one.error for one in plotted]),
        "q = k: mean score (seed, distance)": np.array([one.same for one in plotted]),
    } | {f"{name}: quarter wavelengths (pair)": np.pi / 2 / propositions.formula(one) for name, one in turning.items()}
