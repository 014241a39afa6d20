"""The figure of sharpness against context can be read, draws its medians and bounds, and its caption is computed."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.attention import sharpness_vs_context as subject
from figures.draw import figure_for

LENGTHS = (256, 1024, 16384)
HEADS = {subject.TRAINED: (2, 4), subject.UNTRAINED: (2, 4), subject.UNIFORM: (1, 1)}  # layers, heads


def result(
    seeds: tuple[int, ...] = (3, 5), lengths: tuple[int, ...] = LENGTHS, depth: int = 2, path: str | None = None
) -> Result:
    rows = []
    for condition, (layers, heads) in HEADS.items():
        layers = layers if condition == subject.UNIFORM else depth
        sharp = {subject.TRAINED: 0.5, subject.UNTRAINED: 0.95, subject.UNIFORM: 1.0}[condition]
        for seed, layer, head, n in product(seeds, range(layers), range(heads), lengths):
            used = n ** (sharp / (1 + layer) + 0.01 * head)
            row = {"condition": condition, "seed": seed, "layer": layer, "head": head, "length": n, "keys": n}
            row |= {"n_eff": used, "peak": 1 / used, "spread": 40 * (1 - sharp) * (1 + layer), "peak_excess": 2e-7}
            rows.append(row | {"peak_bound": min(1, np.exp(row["spread"]) / n)})
    config = {"task": {"n_ctx": 256, "path": path}, "last_rows": 64, "texts": 2}
    run = {"study": "sharpness_vs_context", "config_hash": "0" * 12, "profile": "full", "config": config}
    return Result(pd.DataFrame(rows).sample(frac=1, random_state=0), run=run)


def of_checkpoint(tokens: str, **options) -> Result:
    """The same numbers, told to be of a checkpoint."""
    made = result(**options)
    config = {**made.run["config"], "model": "/there/pythia-70m"}
    told = {"config": config, "checkpoint": {"n_ctx": 2048}, "text": {"tokens": tokens}}
    return replace(made, run={**made.run, **told})


def drawn(measured: Result):
    return figure_for("sharpness_vs_context", {"sharpness_vs_context": measured})


@pytest.mark.parametrize(
    "options",
    [{}, {"seeds": (0,)}, {"lengths": (256, 131072)}, {"lengths": (256, 1024, 2048)}, {"depth": 5}, {"depth": 12}],
    ids=str,
)
def test_the_figure_can_be_read(options, legible):
    legible(drawn(result(**options)))


def test_medians_bounds_and_every_head_are_drawn():
    measured = result()
    figure = drawn(measured)
    lines = {line.get_label(): line for line in figure.axes[1].lines}
    for condition, layer, name in ((subject.TRAINED, 1, "trained, layer 1"), (subject.UNTRAINED, None, "untrained")):
        rows = measured.table[measured.table.condition == condition]
        rows = rows if layer is None else rows[rows.layer == layer]
        np.testing.assert_allclose(lines[name].get_ydata(), rows.groupby("length").peak.median())
        bound = rows.groupby("length").peak_bound.median()
        assert any(np.allclose(line.get_ydata(), bound) for line in figure.axes[1].lines if len(line.get_ydata()) == 3)
    thin = [line for line in figure.axes[0].lines if line.get_linewidth() == 0.5]
    assert len(thin) == 2 * (8 + 8)  # seeds, trained and untrained heads
    assert figure.axes[2].get_yscale() == "linear"


def test_the_caption_is_computed_from_the_table():
    told = subject.caption({"sharpness_vs_context": result()})
    assert "256 to 16384 tokens" in told
    assert "16 heads of 2 seeds" in told
    assert f"uses {256**0.515:.0f} to {16384**0.515:.0f} keys in the first layer" in told
    assert "in 16 of 16 heads" in told
    assert "largest excess 2e-07 nats" in told


def test_more_layers_than_colours_are_drawn_as_first_last_and_those_between():
    measured = result(depth=12)
    figure = drawn(measured)
    lines = {line.get_label(): line for line in figure.axes[1].lines if line.get_linewidth() == 1.8}
    assert list(lines) == ["trained, layer 0", "layers 1 to 10", "layer 11", "untrained"]
    trained = measured.table[measured.table.condition == subject.TRAINED]
    between = trained[(trained.layer > 0) & (trained.layer < 11)]
    np.testing.assert_allclose(lines["layers 1 to 10"].get_ydata(), between.groupby("length").peak.median())
    thin = [line for line in figure.axes[0].lines if line.get_linewidth() == 0.5]
    assert len(thin) == 2 * 2 * 12 * 4  # seeds, trained and untrained, layers, heads


def test_a_checkpoint_has_its_own_length_marked_and_its_texts_named():
    measured = of_checkpoint("held-out text")
    assert any(list(line.get_xdata()) == [2048, 2048] for line in drawn(measured).axes[0].lines)
    told = subject.caption({"sharpness_vs_context": measured})
    assert "text of Python's standard library, 256 to 16384 tokens, by the checkpoint pythia-70m, made for 2048" in told
    assert "untrained twin" in told
    assert "/there" not in told
    drawn_at_random = subject.caption({"sharpness_vs_context": of_checkpoint("uniform random ids")})
    assert drawn_at_random.startswith("Attention on uniform random ids, 256")
    elsewhere = subject.caption({"sharpness_vs_context": of_checkpoint("held-out text", path="/some/novels")})
    assert elsewhere.startswith("Attention on text of novels, 256")


def test_the_equal_heads_peak_lies_on_its_theory_where_the_mean_of_1_over_n_is_not_1_over_the_mean():
    measured = result()
    equal = measured.table.condition == subject.UNIFORM
    measured.table.loc[equal, ["peak", "peak_bound"]] *= 1.1
    lines = [line.get_ydata() for line in drawn(measured).axes[1].lines if line.get_linestyle() == "--"]
    peak = measured.table[equal].groupby("length").peak.median()
    assert any(np.allclose(line, peak, rtol=1e-9, atol=0) for line in lines)
