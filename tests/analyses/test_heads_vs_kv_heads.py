"""Shared keys and values: memory, parameters and ranks of every condition, and the claims on made-up tables."""

import pandas as pd
import pytest
import torch

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.glasses import heads_vs_kv_heads as subject

SMALL = {"train.steps": 2, "eval_texts": 32, "seeds": (0,)}


def small(**changes) -> subject.Config:
    return study.configure(subject.Config, {**SMALL, **changes})


def first_row(condition: str) -> dict:
    return next(iter(subject._rows(small(), condition, 0, subject._model(small(), condition, 0), 0)))


def test_a_run_measures_every_number_of_lookups_before_and_after_training_and_again_alike():
    rows, ran = subject._train_one((small(), subject.ONE_KV, 0))
    assert [(row["step"], row["lookups"]) for row in rows] == [(s, w) for s in (0, 2) for w in range(1, 9)]
    assert set(rows[0]) == set(subject.COLUMNS)
    assert ran == {"sdpa"}
    assert rows == subject._train_one((small(), subject.ONE_KV, 0))[0]


@pytest.mark.parametrize("condition", subject.MODELS)
def test_cache_and_ranks_are_those_of_the_formulas(condition):
    _, n_heads, n_kv, d_head, _ = subject.MODELS[condition]
    row = first_row(condition)
    assert row["cache_bytes"] == 8 * n_kv * d_head
    assert row["value_rank"] == row["key_rank"] == min(64, n_kv * d_head)
    assert row["query_rank"] == min(64, n_heads * d_head)


def test_the_controls_match_what_they_are_said_to_match():
    found = {condition: first_row(condition) for condition in subject.MODELS}
    shared = found[subject.ONE_KV]
    for condition in (subject.ONE, subject.THIN, subject.MLP):
        assert found[condition]["cache_bytes"] == shared["cache_bytes"]
    assert found[subject.MLP]["parameters"] == pytest.approx(shared["parameters"], rel=0.02)
    assert found[subject.WIDENED]["parameters"] == pytest.approx(found[subject.ALL]["parameters"], rel=0.02)
    assert found[subject.WIDE]["cache_bytes"] == found[subject.ALL]["cache_bytes"]
    assert found[subject.WIDE]["parameters"] == found[subject.ALL]["parameters"]


def test_different_keys_are_counted_once_each():
    pattern = torch.zeros(1, 4, 2, 5)
    for head, (first, second) in enumerate([(0, 3), (0, 1), (2, 4), (0, 2)]):
        pattern[0, head, 0, first] = pattern[0, head, 1, second] = 1
    assert subject._distinct(pattern).tolist() == [[2, 4]]


def made_up(**accuracy: float) -> Result:
    good = {subject.ONE: 0.2, subject.THIN: 0.3, subject.MLP: 0.5, subject.HALF: 0.8, subject.NARROW: 0.8}
    rows = []
    for condition, (family, n_heads, n_kv, d_head, _) in subject.MODELS.items():
        for seed in range(3):
            row = {"condition": condition, "family": family, "seed": seed, "lookups": 8, "n_kv": n_kv}
            row |= {"n_heads": n_heads, "d_head": d_head, "cache_bytes": 8 * n_kv * d_head}
            row |= {"value_rank": min(64, n_kv * d_head), "key_rank": min(64, n_kv * d_head)}
            row |= {"query_rank": min(64, n_heads * d_head)}
            trained = accuracy.get(condition, good.get(condition, 0.99)) if seed == 1 else good.get(condition, 0.99)
            rows += [row | {"step": 0, "accuracy": 0.01}, row | {"step": 400, "accuracy": trained}]
    run = {"study": "heads_vs_kv_heads", "config_hash": "0" * 12, "profile": "full"}
    return Result(pd.DataFrame(rows), run=run)


def failing(result: Result) -> list[int]:
    verdicts = [judge("heads_vs_kv_heads", claim, result) for claim in subject.CLAIMS]
    return [at for at, verdict in enumerate(verdicts) if not verdict.holds]


def test_all_claims_hold_where_they_should():
    assert failing(made_up()) == []


@pytest.mark.parametrize(
    ("condition", "value", "claims"),
    [
        (subject.ONE, 1.0, [4]),
        (subject.THIN, 1.0, [5]),
        (subject.MLP, 1.0, [6]),
        (subject.HALF, 0.97, [7]),
        (subject.ALL, 0.5, [8]),
        (subject.NARROW_FULL, 0.4, [9]),
        (subject.HALF, 0.05, [10]),
    ],
)
def test_a_seed_that_misses_fails_its_claim_and_no_other(condition, value, claims):
    assert failing(made_up(**{condition: value})) == claims


@pytest.mark.parametrize(
    ("column", "claim"), [("cache_bytes", 0), ("value_rank", 1), ("key_rank", 2), ("query_rank", 3)]
)
def test_a_formula_that_is_off_by_one_fails_its_identity(column, claim):
    result = made_up()
    result.table.loc[5, column] += 1
    assert failing(result) == [claim]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model.n_layers": 2}, "n_layers=2 must be 1"),
        ({"task.n_keys": 20}, "needs model.n_ctx=29"),
        ({"eval_texts": 0}, "eval_texts=0 must be 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes, complaint):
    with pytest.raises(WorkbenchError, match=complaint) as caught:
        small(**changes)
    assert "\n" not in str(caught.value)
