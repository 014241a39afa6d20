"""The figure of sinks can be read, draws what the table holds, and computes its caption."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.draw import figure_for
from figures.glasses import sink_necessity as subject

ALL = (*subject.WAYS, *(name + subject.ALONE for name in subject.WAYS), *subject.OTHERS)
VIRTUAL = ("off by one", "sink logit")
NUMBERS = ("first_other", "virtual_other", "worst", "hidden_worst", "bound", "top", "massive", "value_ratio", "slack",
           "gate_other", "gate_trigger")  # fmt: skip


def result(seeds: tuple[int, ...] = (10, 11, 12), arms: tuple[str, ...] = ALL) -> Result:
    noise = np.random.default_rng(0)
    rows = []
    for arm in arms:
        for seed in seeds:
            for moment in (subject.UNTRAINED, subject.TRAINED):
                row = {"arm": arm, "seed": seed, "moment": moment, **dict.fromkeys(NUMBERS, 0.01)}
                row |= {name: 0.1 + 0.2 * noise.random() for name in ("first_other", "bound")}
                row |= {"top": row["bound"] + 0.1, "virtual_other": np.nan, "worst": 10 ** noise.uniform(-3, 0)}
                row |= {"virtual_other": 0.9} if arm.startswith(VIRTUAL) else {}
                rows.append(row)
    grid = np.tril(np.ones((16, 16))) / np.arange(1, 17)[:, None]
    arrays = {f"{arm}: pattern (seed, query, key)": np.stack([grid] * len(seeds)) for arm in arms}
    config = {"test_texts": 512, "task": {"n_ctx": 16}}
    run = {"study": "sink_necessity", "config_hash": "0" * 12, "profile": "full", "config": config}
    return Result(pd.DataFrame(rows).sample(frac=1, random_state=0), arrays, run=run)


@pytest.mark.parametrize(
    "options", [{}, {"seeds": (0,)}, {"arms": tuple(arm for arm in ALL if "sigmoid" not in arm)}], ids=str
)
def test_the_figure_can_be_read(options, legible):
    legible(figure_for("sink_necessity", {"sink_necessity": result(**options)}))


def test_every_seed_is_a_point_at_its_value():
    measured = result()
    mass, errors, direction = figure_for("sink_necessity", {"sink_necessity": measured}).axes[:3]
    trained = measured.table[measured.table.moment == subject.TRAINED]
    for ax, column in ((mass, "first_other"), (errors, "worst"), (errors, "hidden_worst")):
        for arm in (*subject.WAYS, *subject.OTHERS):
            values = trained[trained.arm == arm].sort_values("seed")[column].to_numpy()
            assert any(np.array_equal(line.get_xdata(), values) for line in ax.lines)
    assert sum(len(line.get_xdata()) for line in direction.lines if line.get_marker() in "os") == 2 * len(trained)
    even = np.mean([1 / (i + 1) for i in range(1, 16)])
    assert any(list(line.get_xdata()) == [even, even] for line in mass.lines)


def test_the_caption_is_computed_from_the_table():
    measured = result()
    table = measured.table
    table.loc[(table.arm == "softmax") & (table.moment == subject.TRAINED), "first_other"] = 0.987
    told = subject.caption({"sink_necessity": measured})
    assert "3 seeds (points), 512 test texts each" in told
    assert "softmax 0.99 (untrained 0." in told
    assert "A virtual key gets 0.90 (off by one) and 0.90 (sink logit) beside a first token" in told
    assert "trigger at position 8" in told
