"""The study of distances: ways begin and end where they say, what is read off a path is right, and claims can fail."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analyses.core.claims import judge
from analyses.core.config import configure
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.currying import curry_vs_distance as subject
from analyses.currying.distance.likeness import cosines
from analyses.currying.distance.measuring import BEYOND, PAIRS
from analyses.currying.distance.reading import best_alpha, log_ratio, scan_error, share_at_half_the_way, smallest
from analyses.currying.distance.ways import ALPHAS, LENGTHS, RANKS
from probes.currying.curried import NULLS, curry
from toy_models import Transformer
from toy_models.config import TransformerConfig

RUN = {"study": "curry_vs_distance", "config_hash": "0" * 12, "profile": "custom"}
SMALL = {"fit": 24, "held_out": 16, "samples": 24, "steps": 1, "fit_steps": (2,), "regs": (0.0, 3.0), "seeds": (0,)}
TINY = configure(subject.Config, {**SMALL, "contexts": ("chain 0",)})


@pytest.fixture(scope="module")
def measured() -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "run_jobs", lambda function, jobs, label: [function(job) for job in jobs])
        found = subject.run(TINY)
    return replace(found, run={**RUN, **found.measured_with})


def of(table: pd.DataFrame, path: str, method: str) -> pd.DataFrame:
    return table[(table.path == path) & (table.method == method)]


# What is measured ---------------------------------------------------------------------------------


def test_every_way_has_its_points(measured):
    table = measured.table
    assert list(table.columns) == list(subject.COLUMNS)
    assert set(NULLS) | {"sibling", "wrong task", "child", "gradient"} <= set(table[table.path == ""].method)
    for method in ("sink", "lsq"):
        assert tuple(of(table, "alpha", method)["at"]) == ALPHAS
    assert tuple(of(table, "length", "gradient")["at"]) == LENGTHS
    assert tuple(of(table, "rank", "lora")["at"]) == RANKS
    assert tuple(of(table, "reg", "lsq")["at"]) == TINY.regs
    assert tuple(of(table, "steps", "kl")["at"]) == (0, 2, 0, 2)
    assert table.drop(columns="at").notna().all(axis=None)


def test_scans_begin_at_none_and_pass_through_the_method(measured):
    assert scan_error(measured.table) < 1e-6
    none = of(measured.table, "", "none").iloc[0]
    assert none.share == none.distance == 0
    assert none.kl == none.baseline_kl


def test_steps_down_the_gradient_have_the_lengths_they_are_called_by(measured):
    steps = of(measured.table, "length", "gradient")
    np.testing.assert_allclose(steps.distance, steps["at"], rtol=1e-5)


def test_a_scan_is_as_far_as_its_alpha_says(measured):
    scan, sink = of(measured.table, "alpha", "sink"), of(measured.table, "", "sink").distance.item()
    np.testing.assert_allclose(scan.distance, scan["at"] * sink, rtol=1e-5)


def test_descents_begin_at_their_starts_whatever_they_lower(measured):
    starts = measured.table[(measured.table.path == "steps") & (measured.table["at"] == 0)]
    for start in ("none", "sink"):
        known = of(measured.table, "", start).kl.item()
        np.testing.assert_allclose(starts[starts.start == start].kl, known, rtol=1e-6)


def test_arrays_have_an_entry_for_every_context_seed_and_pair(measured):
    assert measured.arrays[subject.LIKENESS].shape == (1, 1, len(PAIRS), 2)
    assert (np.abs(measured.arrays[subject.LIKENESS]) <= 1 + 1e-9).all()
    assert measured.arrays[subject.RATIO].shape == measured.arrays[subject.SPREAD].shape == (1, 1, 2)


# What is read off a path --------------------------------------------------------------------------


def descent(method: str, kl: list[float], error: list[float], start: str = "none") -> pd.DataFrame:
    steps = {"path": "steps", "method": method, "start": start, "at": range(len(kl))}
    return pd.DataFrame({**steps, "kl": kl, "entity_error": error})


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_on_power_laws_the_ratio_at_equal_kl_is_that_of_the_laws(one, other):
    kl, faster = np.array([1.0, 0.3, 0.1]), np.array([1.0, 0.2, 0.05, 0.01])
    rows = pd.concat([descent("entity", kl, kl**one), descent("kl", faster, faster**other)])
    assert log_ratio(rows, "none") == pytest.approx((other - one) * np.log(0.1), abs=1e-9)


def test_a_fit_that_never_moves_is_compared_where_it_stands():
    rows = pd.concat([descent("entity", [1.0, 0.1], [2.0, 0.5]), descent("kl", [1.0, 1.0], [2.0, 2.0])])
    assert log_ratio(rows, "none") == 0


def test_the_least_distance_is_that_of_the_nearest_which_removes_enough():
    rows = pd.DataFrame({"distance": [0.0, 0.1, 0.3, 0.2], "share": [0.95, 0.8, 0.99, 0.9]})
    assert smallest(rows) == 0.2
    assert smallest(rows[:2]) == BEYOND


def test_the_best_alpha_has_the_least_kl_of_its_own_scan():
    rows = pd.DataFrame({"path": "alpha", "method": ["sink"] * 3 + ["lsq"], "at": [0, 1, 2, 9], "kl": [3, 1, 2, 0]})
    assert best_alpha(rows, "sink") == 1


def test_half_the_way_looks_no_further():
    rows = pd.DataFrame({"path": "reg", "at": [0, 1, 2], "distance": [1.0, 0.6, 0.5], "share": [0.99, 0.97, 0.7]})
    assert share_at_half_the_way(rows) == 0.7
    assert share_at_half_the_way(rows[:2]) == 0.0


def test_cosines_do_not_turn_with_the_basis_inside_a_head():
    model = Transformer(TransformerConfig(n_layers=1, n_heads=2, d_model=8, d_vocab=9, n_ctx=12, bos_id=0), seed=1)
    context, queries = torch.tensor([1, 2, 3]), torch.randint(1, 9, (24, 6), generator=torch.Generator().manual_seed(0))
    ways = {name: curry(model, context, name, queries) for name in ("sink", "lsq_o", "gradient")}
    same, opposite = cosines(model, ways, (("sink", "sink"), ("sink", "sink"))), ("sink", "lsq_o")
    np.testing.assert_allclose(same, 1, atol=1e-9)
    assert cosines(model, ways, (opposite,))[0, 0] == 0  # sink changes W_K and W_V, lsq_o W_O
    before = cosines(model, ways, (("sink", "gradient"),))[0, 1]
    for one in (model, *(way.model for way in ways.values())):  # W_V A, A^-1 W_O
        turn = torch.eye(4) + torch.triu(torch.ones(4, 4), 1)
        one.blocks[0].attn.W_V.data @= turn
        one.blocks[0].attn.b_V.data @= turn
        one.blocks[0].attn.W_O.data.copy_(torch.linalg.inv(turn) @ one.blocks[0].attn.W_O.data)
    assert cosines(model, ways, (("sink", "gradient"),))[0, 1] == pytest.approx(before, abs=1e-4)


# Settings that are refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contexts": ("chain 9",)}, r"contexts=\('chain 9',\): 'chain 9' is no source; take some of chain 0"),
        ({"contexts": ()}, r"contexts=\(\): 'nothing' is no source"),
        ({"context_length": 21}, r"context_length=21 and query_length=12 make 34 positions, beyond net.model.n_ctx=33"),
        ({"regs": (0.3, 3.0)}, r"regs=\(0.3, 3.0\) must begin with 0 and rise"),
        ({"fit_steps": (5, 5)}, r"fit_steps=\(5, 5\) must be step counts that rise"),
    ],
)
def test_settings_that_make_no_study_are_refused_in_one_line(changes, message):
    with pytest.raises(WorkbenchError, match=message) as caught:
        configure(subject.Config, changes)
    assert "\n" not in str(caught.value)


# Claims -------------------------------------------------------------------------------------------


def expected(**changes: float) -> Result:
    """Two seeds as the claims expect them, but for `changes`."""
    said = {"scan": 0.0, "ratio": 0.5, "end": 0.01, "near": 0.95, "cosine": 0.2, "free": 0.2, "far": 0.2} | changes
    rows = []
    for context in ("chain 0", "in deployment"):
        for seed in (0, 1):
            key = {"context": context, "seed": seed, "start": ""}
            rows += [{**key, "path": "", "method": name, "kl": kl} for name, kl in (("none", 1.0), ("sink", 0.05))]
            for alpha, kl in ((0.0, 1.0 + said["scan"]), (1.0, 0.05), (1.5, said["end"] + 0.05)):
                rows.append({**key, "path": "alpha", "method": "sink", "at": alpha, "kl": kl})
            for reg, distance, share in ((0.0, 0.4, 0.97), (3.0, 0.2, said["near"])):
                more = {"method": "lsq", "at": reg, "distance": distance, "share": share}
                rows.append({**key, "path": "reg", **more})
    likeness = np.tile([said["cosine"], said["free"]], (2, 2, len(PAIRS), 1))
    arrays = {
        subject.LIKENESS: likeness,
        subject.RATIO: np.full((2, 2, 2), said["ratio"]),
        subject.SMALLEST: np.array([[0.1, 0.1], [said["far"]] * 2]),
    }
    told = {"contexts": ["chain 0", "in deployment"], "pairs": [" and ".join(pair) for pair in PAIRS]}
    return Result(pd.DataFrame(rows), arrays, run={**RUN, **told})


def failing(result: Result) -> set[str]:
    return {claim.sentence[:12] for claim in subject.CLAIMS if not judge("curry_vs_distance", claim, result).holds}


def test_the_claims_hold_on_what_they_expect_and_each_can_fail():
    assert failing(expected()) == set()
    assert failing(expected(scan=0.1)) == {"A scan of W "}
    assert failing(expected(ratio=-0.1)) == {"A fit of the"}
    assert failing(expected(end=-0.04)) == {"On a chain t"}
    assert failing(expected(near=0.8)) == {"On a chain a"}
    assert failing(expected(cosine=0.9)) == {"W' is a set:"}
    assert failing(expected(free=0.9)) == {"It is one in"}
    assert failing(expected(far=0.05)) == {"A word that "}
