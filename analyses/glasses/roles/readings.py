"""What the claims of `head_roles` read off its result, one value per seed."""

import numpy as np

from analyses.core.results import Result

TRAINED = "trained"
FREQUENCIES = "share of each frequency (seed, layer, head, pair)"


def kept(result: Result, *, last: bool) -> list[float]:
    """Of the loss that the heads of the first or the last layer are worth, one by one against zero, the share that is
    kept where maps of the own token write in their place."""
    rows = result.table[result.table.condition == TRAINED]
    rows = rows[rows.layer == (rows.layer.max() if last else rows.layer.min())]
    sums = rows.groupby("seed")[["lost_zero", "lost_map"]].sum()
    return (1 - sums.lost_map / sums.lost_zero).tolist()


def slow_share(result: Result) -> list[float]:
    """Share of the slower half of the rotary frequencies, mean over the trained heads; no seed without rotation."""
    name = f"{TRAINED}: {FREQUENCIES}"
    if name not in result.arrays:
        return []
    share = result.arrays[name]
    return share[..., share.shape[-1] // 2 :].sum(-1).mean((1, 2)).tolist()


def positional_excess(result: Result) -> list[float]:
    """Share of the faster half in the best previous-token head, less its mean over the other trained heads; no seed
    without rotation."""
    name = f"{TRAINED}: {FREQUENCIES}"
    if name not in result.arrays:
        return []
    share = result.arrays[name]
    fast = share[..., : share.shape[-1] // 2].sum(-1).reshape(len(share), -1)
    rows = result.table[result.table.condition == TRAINED].sort_values(["seed", "layer", "head"])
    best = rows.previous_token.to_numpy().reshape(fast.shape).argmax(-1)
    chosen = fast[np.arange(len(fast)), best]
    return (chosen - (fast.sum(-1) - chosen) / (fast.shape[1] - 1)).tolist()
