"""The figure of counting and width can be read, draws what the table holds, and computes its caption."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.counting import counting_vs_width as subject
from figures.draw import figure_for


def result(seeds: tuple[int, ...] = (10, 11, 12), vocabularies: tuple[int, ...] = (4, 8, 16, 32)) -> Result:
    rows, widths = [], (2, 4, 8, 16, 32)
    for seed in seeds:
        for m in vocabularies:
            for d in widths:
                cell = {"seed": seed, "vocabulary": m, "d_model": d, "guess": 0.2, "chance": 1 / 16, "frame": ""}
                share = min(1.0, max(0.1, 0.85 + 0.2 * np.log2(d / m) + 0.01 * (seed - 11)))
                rows.append(cell | {"model": "trained", "accuracy": share})
                rows.append(cell | {"model": "untrained", "accuracy": 0.05})
            for d in (*(w for w in widths if w < m - 1), m - 1, m):
                frame, share = ("random", 0.05) if d < m - 1 else ("simplex" if d < m else "orthogonal", 1.0)
                hand = cell | {"model": "constructed", "d_model": d, "frame": frame, "accuracy": share}
                rows.append(hand | {"reading_error": 3e-13 if share == 1 else 9.0})
    config = {"test_texts": 1024, "per_token": 4}
    run = {"study": "counting_vs_width", "config_hash": "0" * 12, "profile": "full", "config": config}
    return Result(pd.DataFrame(rows).sample(frac=1, random_state=0), run=run)


@pytest.mark.parametrize("options", [{}, {"seeds": (0,)}, {"vocabularies": (8, 16)}], ids=str)
def test_the_figure_can_be_read(options, legible):
    legible(figure_for("counting_vs_width", {"counting_vs_width": result(**options)}))


def test_every_seed_and_critical_width_is_drawn_at_its_value_beside_the_theory():
    measured = result()
    cells, curves, critical = figure_for("counting_vs_width", {"counting_vs_width": measured}).axes[:3]
    trained = measured.table[measured.table.model == "trained"]
    drawn = np.flipud(cells.images[0].get_array())
    means = trained.pivot_table(index="d_model", columns="vocabulary", values="accuracy").to_numpy()
    assert np.allclose(drawn, means, rtol=0, atol=1e-12)
    for (m, _), rows in trained.groupby(["vocabulary", "seed"]):
        rows = rows.sort_values("d_model")
        assert any(
            np.array_equal(line.get_xdata(), rows.d_model / m) and np.array_equal(line.get_ydata(), rows.accuracy)
            for line in curves.lines
        )
    found = subject.critical_widths(measured.table)
    points = np.concatenate([line.get_ydata() for line in critical.lines if line.get_marker() == "o"])
    assert sorted(points) == pytest.approx(sorted(found.critical))
    assert any(np.array_equal(line.get_xdata(), line.get_ydata()) for line in critical.lines)


def test_the_caption_is_computed_from_the_table():
    measured = result()
    rows = measured.table[(measured.table.model == "trained") & (measured.table.d_model >= measured.table.vocabulary)]
    told = subject.caption({"counting_vs_width": measured})
    assert "3 seeds (thin lines, points), 1024 test texts each, of 4 m tokens" in told
    assert f"answers {rows.accuracy.mean():.2f} on average where d >= m" in told
    assert "hold the count to 3e-13" in told
    assert "the same weights on random directions answer 0.05" in told
