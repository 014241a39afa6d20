"""The study of composition: the ways are what their columns say, and every claim can fail."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.core.claims import judge
from analyses.core.config import configure
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.currying import curry_composition as subject
from analyses.currying.extent import halves
from probes.currying.curried import compose, curry
from toy_models.tasks.in_deployment import SWITCHED

RUN = {"study": "curry_composition", "config_hash": "0" * 12, "profile": "custom"}
SMALL = {"net.model.d_model": 16, "net.model.d_mlp": 24, "net.model.n_ctx": 18, "net.task.n_ctx": 18}
SMALL |= {"net.train.steps": 20, "net.train.batch_size": 16, "queries.held_out": 16, "queries.fit": 48}
SMALL |= {"queries.length": 6, "length": 8, "seeds": (3,)}
MIXED = f"chain 0{halves.THEN}{SWITCHED}"
TINY = configure(subject.Config, {**SMALL, "pairs": ("biased die", MIXED)})


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "run_jobs", lambda function, jobs, label: [function(job) for job in jobs])
        patch.setenv("WORKBENCH_RESULTS", str(tmp_path_factory.mktemp("results")))
        found = subject.run(TINY)
        return replace(found, run={**RUN, **found.measured_with})


@pytest.fixture
def one(tmp_path, monkeypatch) -> halves.Pair:
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path))
    net = TINY.net
    return halves.pair("biased die", net.task_of(3), net.trained(3).model, 8, TINY.queries, 3)


# What is measured ---------------------------------------------------------------------------------


def test_every_pair_has_a_row_of_either_method(measured):
    table = measured.table
    assert list(table.columns) == list(subject.COLUMNS)
    assert list(zip(table.pair, table.method, strict=True)) == [
        (pair, method) for pair in ("biased die", MIXED) for method in halves.METHODS
    ]
    assert (table.filter(like="_kl") >= -1e-9).all(axis=None)
    assert table.filter(like="_cosine").stack().between(-1, 1 + 1e-9).all()


def test_a_cache_extended_is_the_cache_of_both_and_another_order_is_not(measured, one):
    assert measured.arrays["cache error (seed, pair)"].max() < 1e-5
    other = replace(one, first=one.second, second=one.first)
    assert halves.cache_error(other) < 1e-5
    assert (measured.table.oracle_swapped_kl > 1e-9).all()


def test_parts_are_halves_of_one_text_or_texts_of_two_sources(one):
    task = TINY.net.task_of(3)
    assert torch.equal(one.whole, torch.cat([one.first, one.second]))
    assert len(one.first) == len(one.second) == 4
    model = one.model
    mixed = halves.pair(MIXED, task, model, 8, TINY.queries, 3)
    assert (mixed.first != task.switch).all()
    assert mixed.second[0] == task.switch
    rows = {tuple(row) for row in mixed.held.tolist()}
    assert rows.isdisjoint({tuple(row) for row in torch.cat([mixed.fit, mixed.again]).tolist()})


def test_no_operator_is_fitted_on_what_is_held_out(one):
    asked = halves.asked_behind(one, one.model, one.first, TINY.queries, 3, "words")
    again = halves.asked_behind(one, one.model, one.first, TINY.queries, 3, "words")
    other = halves.asked_behind(one, one.model, one.first, TINY.queries, 3, "other words")
    assert torch.equal(asked, again)
    assert asked.shape != other.shape or not torch.equal(asked, other)
    held = {tuple(row) for row in one.held.tolist()}
    assert held.isdisjoint({tuple(row) for row in asked.tolist()})


# Distances in weights -----------------------------------------------------------------------------


def test_a_change_is_no_distance_from_itself_and_its_opposite_two_lengths(one):
    made = curry(one.model, one.whole, "sink", one.fit)
    same = halves.in_weights(one.model, made, made, "x")
    assert same == pytest.approx({"x_apart": 0, "x_cosine": 1, "x_free_apart": 0, "x_free_cosine": 1}, abs=1e-12)
    back = {name: -change for name, change in made.weight_update.items()}
    opposite = replace(made, weight_update=back, model=halves.updated(one.model, back))
    found = halves.in_weights(one.model, made, opposite, "x")
    assert found["x_apart"] == pytest.approx(2)
    assert found["x_cosine"] == pytest.approx(-1)


def test_products_do_not_know_the_basis_inside_a_head(one):
    turned = halves.updated(one.model, {})
    draw = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(8, 8, generator=draw)).Q
    with torch.no_grad():
        attn = turned.blocks[0].attn
        attn.W_V.copy_(attn.W_V @ basis)
        attn.b_V.copy_(attn.b_V @ basis)
        attn.W_O.copy_(basis.T @ attn.W_O)
    assert not torch.allclose(turned.blocks[0].attn.W_V, one.model.blocks[0].attn.W_V, atol=1e-3)
    assert torch.allclose(halves.products(turned), halves.products(one.model), atol=1e-6)


def test_composed_is_the_second_put_into_the_weights_of_the_first(one):
    first = curry(one.model, one.first, "sink", one.fit)
    asked = halves.asked_behind(one, first.model, one.second, TINY.queries, 3)
    composed = compose(first, one.second, asked)
    second = curry(first.model, one.second, "sink", asked)
    added = halves.summed(first.weight_update, second.weight_update)
    assert set(added) == set(composed.weight_update)
    assert all(torch.allclose(added[name], composed.weight_update[name], atol=1e-7) for name in added)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": ("chain 9",)}, "pairs='chain 9' must be one of chain 0"),
        ({"pairs": ("chain 0 then nobody",)}, "pairs='chain 0 then nobody' must be one of"),
        ({"pairs": ()}, r"pairs=\(\) must have one or more"),
        ({"length": 3}, "length=3 be 4 or more"),
        ({"length": 21}, "length=21 must lie between 1 and 20"),
    ],
)
def test_settings_that_make_no_study_are_refused_in_one_line(changes, message):
    with pytest.raises(WorkbenchError, match=message) as caught:
        configure(subject.Config, changes)
    assert "\n" not in str(caught.value)


# Claims -------------------------------------------------------------------------------------------

EXPECTED = {
    **{"direct_kl": 0.01, "composed_kl": 0.02, "half_kl": 0.01, "swapped_kl": 0.025, "added_kl": 0.1},
    **{"composed_apart": 0.3, "composed_free_apart": 0.3, "composed_cosine": 0.95, "composed_share": 0.4},
}


def table(error: float = 1e-7, pair: str = "", **changes: float) -> Result:
    """Two seeds as the claims expect them; changes in one pair, or in all."""
    rows = [
        {"pair": name, "seed": seed, "method": method, **EXPECTED, **(changes if pair in ("", name) else {})}
        for seed in (0, 1)
        for name in subject.PAIRS
        for method in halves.METHODS
    ]
    return Result(pd.DataFrame(rows), {"cache error (seed, pair)": np.full((2, 3), error)}, run=RUN)


def failing(result: Result) -> set[str]:
    judged = {claim.sentence: judge(RUN["study"], claim, result) for claim in subject.CLAIMS}
    return {sentence[:12] for sentence, verdict in judged.items() if not verdict.holds}


def test_the_claims_hold_on_what_they_expect_and_each_can_fail():
    assert failing(table()) == set()
    assert failing(table(error=1e-3)) == {"The cache of"}
    assert failing(table(pair="chain 0", composed_kl=0.03)) == {"A chain's ha"}
    assert failing(table(half_kl=0.03)) == {"Half-curried"}
    assert failing(table(composed_apart=0.05)) == {"They do not "}
    assert failing(table(composed_free_apart=0.05)) == {"Nor in the p"}
    assert failing(table(composed_cosine=0.5)) == {"Yet nearly i"}
    assert failing(table(pair="copy 4", composed_share=0.9)) == {"A copied wor"}
    assert failing(table(added_kl=0.001)) == {"Composing is"}
    assert failing(table(pair="chain 0", swapped_kl=0.2)) == {"Of a chain's"}
    assert failing(table(pair=subject.WORD_LAST, swapped_kl=0.2)) == {"In either or"}
