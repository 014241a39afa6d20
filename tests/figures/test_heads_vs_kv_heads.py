"""The figure of shared heads can be read, draws its theory, and its caption is computed."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.draw import figure_for
from figures.glasses import heads_vs_kv_heads as subject

MODELS = {
    subject.ALL: ("shared", 8, 8, 8, 0.9), "8 heads, 2 kv": ("shared", 8, 2, 8, 0.9),
    subject.ONE_KV: ("shared", 8, 1, 8, 0.8), subject.HALF: ("fewer heads", 4, 4, 8, 0.7),
    subject.ONE: ("fewer heads", 1, 1, 8, 0.3), "8 heads of 4": ("thinner heads", 8, 8, 4, 0.6),
    "8 heads of 1": ("thinner heads", 8, 8, 1, 0.4), "1 head and an MLP": ("other", 1, 1, 8, 0.5),
    "1 head of 64": ("other", 1, 1, 64, 0.55), "8 heads of 14, 1 kv": ("other", 8, 1, 14, 0.85),
    "8 heads of 4, 1 kv": ("other", 8, 1, 4, 0.45),
}  # fmt: skip


def result(seeds: tuple[int, ...] = (3, 5)) -> Result:
    rows = []
    for condition, (family, heads, kv, d_head, accuracy) in MODELS.items():
        shape = {"family": family, "n_heads": heads, "n_kv": kv, "d_head": d_head, "cache_bytes": 8.0 * kv * d_head}
        shape |= {"value_rank": min(64, kv * d_head), "key_rank": min(64, kv * d_head)}
        shape |= {"query_rank": min(64, heads * d_head)}
        for seed in seeds:
            for w in range(1, 9):
                row = {"condition": condition, "seed": seed, "lookups": w, "distinct": min(w, heads), **shape}
                rows += [row | {"step": 0, "accuracy": 0.01}, row | {"step": 400, "accuracy": accuracy}]
    run = {"study": "heads_vs_kv_heads", "config_hash": "0" * 12, "profile": "full", "config": {}}
    return Result(pd.DataFrame(rows).sample(frac=1, random_state=0), run=run)


def drawn(measured: Result):
    return figure_for("heads_vs_kv_heads", {"heads_vs_kv_heads": measured})


@pytest.mark.parametrize("seeds", [(0,), (3, 5), (1, 2, 3, 4, 5)])
def test_the_figure_can_be_read(seeds, legible):
    legible(drawn(result(seeds)))


def test_accuracy_stands_at_its_measured_cache_and_theory_beside_it():
    axes = drawn(result()).axes
    lines = {line.get_label(): line for line in axes[0].lines}
    np.testing.assert_allclose(lines["8 heads share kv heads"].get_xdata(), [64, 128, 512])
    np.testing.assert_allclose(lines["8 heads share kv heads"].get_ydata(), [0.8, 0.9, 0.9])
    assert lines["untrained"].get_ydata() == pytest.approx(0.01)
    dashed = [line.get_ydata() for line in axes[1].lines if line.get_color() == "0.3"]
    np.testing.assert_allclose(dashed[0], [1, 1, 1, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16])


def test_the_caption_is_computed_from_the_table():
    told = subject.caption({"heads_vs_kv_heads": result()})
    assert "2 seeds" in told
    assert "sharing one loses +0.100 (+0.100 to +0.100, bootstrap over seeds) for 64 instead of 512 bytes" in told
    assert "one whole head answers 0.30, 8 of width 1 0.40" in told
    assert "bootstrap" not in subject.caption({"heads_vs_kv_heads": result((0,))})
