"""The study of uncurrying: steps of equal change, a known context among them, and claims that can fail."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analyses.core.claims import judge
from analyses.core.config import configure
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.currying import uncurry as subject

RUN = {"study": "uncurry", "config_hash": "0" * 12, "profile": "custom"}
SMALL = {"sources": ("chain 0",), "candidates": 2, "fit": 16, "held_out": 16, "steps": 2, "seeds": (0,)}
TINY = replace(configure(subject.Config, SMALL), context_length=4)


def here(function, jobs, label):
    """In this process: what is measured is tested, not the pool."""
    return [function(job) for job in jobs]


@pytest.fixture(scope="module")
def measured() -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "run_jobs", here)
        found = subject.run(TINY)
    return Result(found.table, found.arrays, run=RUN)


def test_every_matrix_has_a_step_down_the_loss_and_a_random_one_of_about_the_same_change(measured):
    table = measured.table
    assert list(table.columns) == list(subject.COLUMNS)
    steps = table[table.kind != subject.OWN]
    assert steps.groupby("kind").matrix.apply(list).to_dict() == {
        kind: ["Q", "K", "V", "O", "MLP"] for kind in ("gradient", "random")
    }
    assert steps.change.between(0.01, 0.2).all()  # 0.05 on the queries of the search, these are others
    assert (table.random_share <= table.tokens_share + 0.5).all()
    assert table.notna().all(axis=None)


def test_steps_of_values_and_outputs_move_nothing_in_the_first_layer_and_no_context_does(measured):
    table = measured.table.set_index(["kind", "matrix"])
    assert table.loc[("gradient", "V"), "moved"] == table.loc[("gradient", "O"), "moved"] == 0
    assert table.loc[("gradient", "Q"), "moved"] > 1e-3
    assert measured.arrays[subject.FIRST].max() < 1e-10


def test_the_sinks_edit_is_its_pair(measured):
    own = measured.table[measured.table.kind == subject.OWN].iloc[0]
    assert own.share > 0.9
    assert own.tokens_share < own.share


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ("in deployment",)}, r"sources=\('in deployment',\) must be some of chain 0"),
        ({"candidates": 0}, "candidates=0"),
        ({"nats": 0.0}, "nats=0.0 must be positive"),
        ({"context_length": 30}, "make 43 positions, beyond net.model.n_ctx=33"),
    ],
)
def test_settings_that_make_no_study_are_refused_in_one_line(changes, message):
    with pytest.raises(WorkbenchError, match=message) as caught:
        configure(subject.Config, changes)
    assert "\n" not in str(caught.value)


SHARES = {"Q": 0.2, "K": 0.3, "V": 0.95, "O": 0.92, "MLP": 0.6}


def table(shares=SHARES, tokens: float = -1.0, own: float = 0.99, moved: float = 0.0, worst: float = 0.0) -> Result:
    """Two seeds as the claims expect them."""
    rows = [
        {
            **{"source": "chain 0", "seed": seed, "kind": "gradient", "matrix": matrix, "share": share},
            **{"tokens_share": tokens, "moved": 0.1 if matrix in "QK" else moved},
        }
        for seed in (0, 1)
        for matrix, share in shares.items()
    ]
    rows += [
        {"source": "chain 0", "seed": seed, "kind": subject.OWN, "matrix": "K, V", "share": own} for seed in (0, 1)
    ]
    return Result(pd.DataFrame(rows), {subject.FIRST: np.full(2, worst)}, run=RUN)


def failing(result: Result) -> set[str]:
    return {claim.sentence[:10] for claim in subject.CLAIMS if not judge("uncurry", claim, result).holds}


def test_the_claims_hold_on_what_they_expect_and_each_can_fail():
    assert failing(table()) == set()
    assert failing(table({**SHARES, "V": 0.8})) == {"Steps of V"}
    assert failing(table({**SHARES, "Q": 0.8})) == {"Steps of Q"}
    assert failing(table({**SHARES, "V": 0.1, "O": 0.1})) == {"V/O steps ", "Steps of V"}
    assert failing(table(tokens=0.9)) == {"Free pairs"}
    assert failing(table(own=0.8)) == {"A step tha"}
    assert failing(table(moved=0.01)) == {"Nor does a"}
    assert failing(table(worst=1e-3)) == {"No context"}
