"""Bases and lengths: closed forms against hand-made rotations, the rows of a run, and the claims on made-up tables."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.glasses import rope_base_vs_length as subject
from analyses.glasses.rotary import forms, propositions

SMALL = {"train.steps": 2, "stretch": (1, 2), "eval_texts": 8, "random_pairs": 32, "distances": 40, "seeds": (0,)}


def small(**changes) -> subject.Config:
    return study.configure(subject.Config, {**SMALL, **changes})


def settings(code: str):
    return subject._settings(small(), code)


def test_a_run_measures_both_questions_at_every_length_before_and_after_training_and_again_alike():
    rows, usage, ran = subject._train_one((small(), subject.QUARTER, 0))
    assert [(row["step"], row["length"]) for row in rows[::2]] == [(0, 48), (0, 96), (2, 48), (2, 96)]
    assert {row["question"] for row in rows} == {subject.SEMANTIC, subject.POSITIONAL}
    assert set(rows[0]) == set(subject.COLUMNS)
    assert {row["distance"] for row in rows if row["question"] == subject.POSITIONAL} == {8.0}
    assert usage.shape == (4, 8)
    assert usage.sum(-1) == pytest.approx(1, abs=1e-6)
    assert ran == {"sdpa"}
    assert rows == subject._train_one((small(), subject.QUARTER, 0))[0]


def test_scores_by_distance_are_those_of_complex_numbers():
    q, k = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = propositions.scores(settings("base 1e3"), q, k, 30)
    frequency, d = 1e3 ** -(torch.arange(8) / 8), torch.arange(30)
    phase = torch.exp(1j * d[:, None] * frequency)  # q . R(-d) k = Re sum conj(q) k e^(-i f d)
    a, b = (torch.complex(x[:, :8], x[:, 8:]) for x in (q, k))
    exact = ((a.conj() * b)[:, None] * phase.conj()).sum(-1).real
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-5)  # the float32 ladder of `frequency` alone
    assert (found - exact).abs().max() > 0


@pytest.mark.parametrize("p", [0.25, 0.75])
def test_p_rope_keeps_the_fastest_pairs_and_turns_no_other(p):
    code = subject.p_rope(1e4, p)
    frequency = propositions.formula(settings(f"base 1e4, p = {p}"))
    assert code.d_rotary(16) == 16 * p
    np.testing.assert_allclose(frequency, (1e4 ** -(np.arange(8) / 8))[: int(8 * p)], rtol=1e-12)


def test_a_base_that_is_spread_over_fewer_pairs_is_not_p_rope():
    spread = 1e4 ** -(np.arange(2) / 2)
    assert abs(spread[1] / propositions.formula(settings(subject.QUARTER))[1] - 1) > 0.9


def test_the_closed_forms_hold_for_every_code():
    codes = {code: settings(code) for code in subject.CODES}
    found = forms.closed_forms(codes, subject.BASES, 64, 40, (0, 1))
    assert found[forms.WAVELENGTH].max() < 1e-12
    assert found[forms.PAIRS_KEPT].max() < 1e-12
    assert (found[forms.NO_TURN] == 0).all()
    assert (found[forms.CROSSING] == np.floor(found[forms.QUARTER_WAVELENGTH]) + 1).all()
    assert found[forms.QUARTER_WAVELENGTH][0] == pytest.approx(math.pi / 2 * 100 ** (7 / 8))
    assert (found[forms.PROP_31] == 1).all()
    assert found[forms.PROP_32].max() < 5.2
    assert found["q = k: mean score (seed, distance)"][:, 0] == pytest.approx(16, abs=5 * math.sqrt(32 / 64))


def made_up() -> Result:
    rows = []
    for code in subject.CODES:
        for seed in range(3):
            for step in (0, 400):
                for length in (48, 96, 192, 768):
                    for question in (subject.SEMANTIC, subject.POSITIONAL):
                        row = {"code": code, "seed": seed, "step": step, "length": length, "question": question}
                        rows.append(row | {"accuracy": _good(code, question, length) if step else 0.02})
    arrays = {forms.WAVELENGTH: np.zeros(6), forms.PAIRS_KEPT: np.zeros(2), forms.NO_TURN: np.zeros(3)}
    arrays |= {forms.QUARTER_WAVELENGTH: np.array([88.3, 662.4]), forms.CROSSING: np.array([89, 663])}
    arrays |= {forms.PROP_31: np.ones((3, 4)), forms.PROP_32: np.full((3, 4), 2.0)}
    run = {"study": "rope_base_vs_length", "config_hash": "0" * 12, "profile": "full"}
    return Result(pd.DataFrame(rows), arrays, run=run)


def _good(code: str, question: str, length: int) -> float:
    if question == subject.SEMANTIC:
        fades = code not in (subject.NONE, subject.QUARTER) and length > 48
        return (0.2 if code == subject.SMALL else 0.5) if fades else 1.0
    if code == subject.NONE:
        return 0.1
    return 1.0 if length == 48 else 0.6 if code == subject.SMALL else 0.1


def failing(result: Result) -> list[int]:
    verdicts = [judge("rope_base_vs_length", claim, result) for claim in subject.CLAIMS]
    return [at for at, verdict in enumerate(verdicts) if not verdict.holds]


def test_all_claims_hold_where_they_should():
    assert failing(made_up()) == []


@pytest.mark.parametrize(
    ("code", "question", "length", "value", "claims"),
    [
        ("base 1e3", subject.SEMANTIC, 768, 1.01, [6]),
        (subject.NONE, subject.SEMANTIC, 768, 0.85, [7]),
        (subject.QUARTER, subject.SEMANTIC, 768, 0.8, [8]),
        (subject.QUARTER, subject.POSITIONAL, 96, 0.5, [9]),
        (subject.SMALL, subject.SEMANTIC, 768, 0.9, [10]),
        (subject.LARGE, subject.POSITIONAL, 192, 1.0, [11]),
        (subject.NONE, subject.POSITIONAL, 96, 0.3, [12]),
    ],
)
def test_a_code_that_misses_fails_its_claim_and_no_other(code, question, length, value, claims):
    result = made_up()
    table = result.table
    at = (table.code == code) & (table.question == question) & (table.length == length) & (table.step > 0)
    table.loc[at & ((table.seed == 1) | (len(claims) and claims[0] in (10, 11))), "accuracy"] = value
    assert failing(result) == claims


@pytest.mark.parametrize(
    ("name", "value", "claim"),
    [
        (forms.WAVELENGTH, 1e-9, 0),
        (forms.PAIRS_KEPT, 1e-9, 1),
        (forms.NO_TURN, 1e-9, 2),
        (forms.CROSSING, 90, 3),
        (forms.PROP_31, 0.99, 4),
        (forms.PROP_32, 5.3, 5),
    ],
)
def test_a_closed_form_that_is_off_fails_its_claim(name, value, claim):
    result = made_up()
    result.arrays[name].flat[0] = value
    assert failing(result) == [claim]


def test_untrained_models_above_chance_fail_the_last_claim():
    result = made_up()
    result.table.loc[0, "accuracy"] = 0.2
    assert failing(result) == [13]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"stretch": (2, 4)}, r"stretch=\(2, 4\) must begin with 1 and rise"),
        ({"task.n_fillers": 99}, "d_vocab=90 must be at least the task's 173"),
        ({"random_pairs": 1}, "random_pairs=1 must be at least 2"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes, complaint):
    with pytest.raises(WorkbenchError, match=complaint) as caught:
        small(**changes)
    assert "\n" not in str(caught.value)
