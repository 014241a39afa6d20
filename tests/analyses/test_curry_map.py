"""The map of contexts: distances and scaling are what they are called, sources are found, claims can fail."""

import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.core.config import configure
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.currying import curry_map as subject
from analyses.currying.mapping.distances import by_chance, divergences, in_the_plane, lengths, nearest_is_own
from analyses.currying.mapping.transfer import ITSELF, share
from probes.currying.curried import NULLS

TINY = configure(
    subject.Config,
    {
        **{"net.model.d_model": 16, "net.model.d_mlp": 16, "net.train.steps": 3, "net.train.batch_size": 4},
        **{"sources": ("biased die", "copy 2"), "contexts": 2, "context_length": 8, "query_length": 4},
        **{"queries": (32, 16), "transferred": (1, 16), "seeds": (3,)},
    },
)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "run_jobs", lambda function, jobs, label: [function(job) for job in jobs])
        patch.setenv("WORKBENCH_RESULTS", str(tmp_path_factory.mktemp("results")))
        found = subject.run(TINY)
        return Result(found.table, found.arrays, found.measured_with, run={"config": asdict(TINY)})


# Distances ----------------------------------------------------------------------------------------


def test_a_divergence_is_the_two_ways_together_and_nothing_to_oneself():
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64).log()[:, None]
    found = divergences(torch.stack([p, q, p]))
    both = sum(x * math.log(x / y) + y * math.log(y / x) for x, y in ((0.5, 0.9), (0.5, 0.1)))
    assert found[0, 1].item() == found[1, 0].item() == pytest.approx(both)
    assert found[0, 2].item() == pytest.approx(0, abs=1e-15)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(3, 9), seed=st.integers(0, 99))
def test_points_of_a_plane_come_back_up_to_a_turn(n, seed):
    plane = torch.randn(n, 2, generator=draw(seed), dtype=torch.float64)
    turned = torch.linalg.qr(torch.randn(5, 5, generator=draw(seed + 1), dtype=torch.float64))[0][:2]
    distance = lengths(plane @ turned + 4)
    assert torch.allclose(lengths(in_the_plane(distance.square())), distance, atol=1e-9)


def test_neighbours_are_counted_by_source_and_chance_is_that_of_any_other():
    source = ["a", "a", "b", "b"]
    apart = lengths(torch.tensor([[0.0], [1.0], [10.0], [11.0]]))
    mixed = lengths(torch.tensor([[0.0], [10.0], [1.0], [11.0]]))
    assert nearest_is_own(apart, source) == 1.0
    assert nearest_is_own(mixed, source) == 0.0
    assert by_chance(source) == pytest.approx(1 / 3)
    drawn = [nearest_is_own(lengths(torch.randn(40, 3, generator=draw(i))), ["a", "b"] * 20) for i in range(60)]
    # neighbours may be each other's, so that 40 contexts count for at least half as many
    assert np.mean(drawn) == pytest.approx(by_chance(["a", "b"] * 20), abs=4 * (0.25 / (60 * 20)) ** 0.5)


def test_a_share_is_one_for_the_same_and_undefined_where_nothing_is_to_be_removed():
    goal = torch.randn(2, 3, 5, generator=draw())
    assert share(goal, goal, 0.5) == pytest.approx(1)
    assert math.isnan(share(goal, goal, 1e-4))


# The study ----------------------------------------------------------------------------------------


def test_every_source_is_held_against_every_other_and_the_nulls(measured):
    table = measured.table
    assert list(table.columns) == list(subject.COLUMNS)
    moved = table[table.part == "transfer"]
    for _, rows in moved.groupby(["model", "source"]):
        assert set(rows.what) == {"biased die", "copy 2", ITSELF, *NULLS}
        assert len(rows) == 2 + 1 + len(NULLS)
    nothing = moved[moved.what == "none"].value.dropna()
    assert (nothing == 0).all()
    near = table[table.part == "nearest"]
    assert set(near.what) == {"behaviour", "weights", "chance"}
    assert near.value.between(0, 1).all()
    assert measured.arrays["behaviour (seed, context, number)"].shape == (1, 4, 2)
    assert measured.measured_with["of source"] == ["biased die"] * 2 + ["copy 2"] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ("chain 9",)}, "there is no 'chain 9', only chain 0"),
        ({"sources": ("chain 0",)}, "must have biased die and copy 2"),
        ({"contexts": 1}, "contexts=1 must be 2 or more"),
        ({"transferred": (9, 16)}, r"transferred=\(9, 16\) begin with at most as many"),
        ({"context_length": 21}, "make 34 positions, beyond net.model.n_ctx=33"),
    ],
)
def test_settings_that_make_no_study_are_refused_in_one_line(changes, message):
    with pytest.raises(WorkbenchError, match=message) as caught:
        configure(subject.Config, changes)
    assert "\n" not in str(caught.value)


# Claims -------------------------------------------------------------------------------------------

NEAR = {"behaviour": 0.8, "weights": 0.5, "chance": 0.1}


def made(near=NEAR, born=0.3, die=0.95, chain=-5.0, copy=-0.5, skew=0.0) -> Result:
    rows = []
    for seed in (0, 1):
        rows += [("nearest", "trained", seed, what, "all", 0, value) for what, value in near.items()]
        rows += [
            ("nearest", "untrained", seed, what, "all", 0, value) for what, value in {**near, "behaviour": born}.items()
        ]
        for source, told in (
            ("biased die", {"biased die": die, "copy 2": chain}),
            ("copy 2", {"biased die": -2, "copy 2": copy}),
        ):
            rows += [("transfer", "trained", seed, what, source, 0, value) for what, value in told.items()]
    names = ["part", "model", "seed", "what", "source", "index", "value"]
    divergence = np.zeros((2, 3, 3))
    divergence[:, 0, 1] = skew
    arrays = {"divergence (seed, context, number)": divergence}
    return Result(pd.DataFrame(rows, columns=names), arrays, run={"config": {"sources": ["biased die", "copy 2"]}})


def failing(result: Result) -> set[int]:
    return {i for i, one in enumerate(subject.CLAIMS) if not one.expected.contains(np.mean(one.measure(result)))}


def test_the_claims_hold_on_what_they_expect_and_each_can_fail():
    assert failing(made()) == set()
    assert failing(made(skew=1e-3)) == {0}
    assert failing(made({**NEAR, "behaviour": 0.35}, born=0.2)) == {1, 2}
    assert failing(made({**NEAR, "weights": 0.9})) == {2}
    assert failing(made(born=0.9)) == {3}
    assert failing(made(chain=0.99)) == {4}
    assert failing(made(die=0.5)) == {5}
    assert failing(made(copy=0.4)) == {6}
