"""The study of exact steps: its machines agree, its claims can fail, and a model that learned nothing shows."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from analyses.core import calibration
from analyses.core.claims import judge
from analyses.core.config import configure
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.currying import curry_vs_gradient_exact as subject
from analyses.currying.regression import identities, optima, regressors
from probes import gradient_steps
from toy_models import linear_machines, two_inputs
from toy_models.seeding import generator

RUN = {"study": "curry_vs_gradient_exact", "config_hash": "0" * 12, "profile": "custom"}
TINY = configure(
    subject.Config, {"train.steps": 6, "train.batch_size": 16, "eval_every": 4, "tasks": 500, "seeds": (3,)}
)


def here(function, jobs, label):
    """In this process: the machines and models are what is tested, not the pool."""
    return [function(job) for job in jobs]


@pytest.fixture(scope="module")
def measured() -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "run_jobs", here)
        return replace(subject.run(TINY), run=RUN)


@cache
def readings(seed: int = 3):
    return identities.read(seed)


def failing(seed: int = 3) -> set[str]:
    """Quantities of the identities that are off, read anew."""
    table = calibration.table(identities.KNOWN, {seed: identities.read(seed)})
    return set(table.quantity[~(table.error <= table.tolerance)])


def test_every_identity_holds():
    assert failing() == set()
    assert len(identities.KNOWN) >= 12


def test_what_must_fail_fails_by_what_is_known():
    error, bias = readings()[identities.SLOW, identities.UNPROJECTED]
    assert error.item() == pytest.approx(bias.item(), rel=1e-12)
    assert error > 0.05
    left, nearest = readings()[identities.CUBE, identities.LONE]
    assert nearest == pytest.approx(4 / 45)
    assert left > 0.05


def test_a_table_has_every_quantity_and_every_model_at_every_seed(measured):
    table = measured.table
    assert list(table.columns) == list(subject.COLUMNS)
    known = len(identities.KNOWN) + len(optima.KNOWN)
    assert len(table) == known + len(regressors.CONDITIONS) * len(regressors.UNITS)
    assert set(table.instrument[table.tolerance.isna()]) >= {regressors.ONE, regressors.SHUFFLED}
    assert measured.arrays["marks (updates)"].tolist() == [0, 4, 6]
    assert measured.arrays["loss (condition, seed, mark)"].shape == (6, 1, 3)
    assert measured.arrays["loss (condition, seed, scale)"].shape == (6, 1, 7)
    assert measured.arrays["loss (seed, kind, depth)"].shape == (1, 2, 8)


def test_a_model_that_learned_nothing_fails_the_replications_and_the_machines_do_not(measured):
    verdicts = [judge("curry_vs_gradient_exact", claim, measured) for claim in subject.CLAIMS]
    off = {verdict.sentence for verdict in verdicts if not verdict.holds and verdict.kind != "replication"}
    assert off == set()
    lost = {verdict.sentence[:24] for verdict in verdicts if not verdict.holds}
    assert {"Trained linear attention", "It hears the query as th"} <= lost


def test_the_step_by_hand_is_the_step_and_the_untrained_model_is_chance(measured):
    table = measured.table.set_index(["instrument", "quantity"]).measured
    assert table[regressors.BY_HAND, regressors.RATIO] == pytest.approx(1, abs=1e-5)
    assert table[regressors.BY_HAND, regressors.COSINE] == pytest.approx(1, abs=1e-5)
    assert abs(table[regressors.UNTRAINED, regressors.COSINE]) < 0.5


def test_losses_at_every_scale_have_their_closed_form(measured):
    theory = measured.measured_with["theory"]
    hand = measured.arrays["loss (condition, seed, scale)"][0, 0]
    batch = TINY.task.sample(TINY.tasks, generator(3, "held-out tasks"))
    for scale, loss, expected in zip(TINY.scales, hand, theory["step"], strict=True):
        grown = replace(batch, tokens=scale * batch.tokens, targets=scale * batch.targets)
        weight = theory["rate"] / TINY.task.n_examples * grown.y.mT @ grown.x
        squares = 0.5 * ((weight @ grown.query[..., None])[..., 0] - grown.answer).square()
        assert abs(loss - expected) <= 5 * squares.std().item() / TINY.tasks**0.5
    assert theory["step"][2] == pytest.approx(0.2062, abs=1e-4)
    assert theory["zero"][2] == pytest.approx(5 / 12)


def test_depth_pays_and_gd_plus_plus_starts_where_a_step_does(measured):
    steps, plus = measured.arrays["loss (seed, kind, depth)"][0]
    assert (np.diff(steps) < 0).all()
    assert (np.diff(plus) < 0).all()
    assert plus[0] == pytest.approx(steps[0], rel=1e-4)
    assert (plus[1:] < steps[1:]).all()


def test_the_same_seed_gives_the_same_model_and_labels_of_others_another():
    once, again = (regressors.measure(TINY, regressors.LINEAR, 3) for _ in range(2))
    other = regressors.measure(TINY, regressors.SHUFFLED, 3)
    assert once[0] == again[0]
    assert (once[1] == again[1]).all()
    assert once[1][0] == other[1][0]  # the same start
    assert once[1][-1] != other[1][-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"scales": (0.5, 2.0)}, r"scales=\(0.5, 2.0\) lack 1"), ({"task.scales": (1.0,) * 10}, "for equal coordinates")],
)
def test_settings_that_the_closed_forms_do_not_cover_are_refused(changes, message):
    with pytest.raises(WorkbenchError, match=message):
        configure(subject.Config, changes)


# Machines and formulas that are off ---------------------------------------------------------------


def test_a_rate_that_is_a_billionth_off_fails(monkeypatch):
    honest = linear_machines.gradient_descent

    def off(d_in, d_out, n, rates, *rest):
        return honest(d_in, d_out, n, [rate * (1 + 1e-9) for rate in rates], *rest)

    monkeypatch.setattr(linear_machines, "gradient_descent", off)
    assert failing() == {quantity for name, quantity in readings() if name == identities.STEP}


def test_a_projection_that_keeps_too_much_is_refused_by_its_shape_and_one_that_keeps_other_rows_fails(monkeypatch):
    monkeypatch.setattr(identities, "_projected", lambda gradient: gradient[1, : identities.D_IN, : identities.D_OUT])
    assert failing() == {"Q1: projected gradient step", "Q1 and Q2: the same W'"}


def test_a_head_that_reads_the_wrong_half_of_the_token_fails(monkeypatch):
    honest = linear_machines.asked
    monkeypatch.setattr(linear_machines, "asked", lambda x, d_out: 1.01 * honest(x, d_out))
    assert "Q2: closed-form W'" in failing()


def test_a_column_that_forgets_the_last_token_fails(monkeypatch):
    honest = two_inputs.Recurrent.curried
    monkeypatch.setattr(two_inputs.Recurrent, "curried", lambda self, context: honest(self, context[:-1]))
    assert failing() == {"recurrent: start token's column"}


def test_a_rate_a_fifth_too_high_is_found_by_the_tasks(monkeypatch):
    honest = optima.best_step

    def off(*args):
        best = honest(*args)
        return gradient_steps.BestStep(1.2 * best.rate, best.loss)

    monkeypatch.setattr(optima, "best_step", off)
    config = replace(TINY, tasks=10000)
    found = optima._best(config, lambda *words: generator(3, *words))
    assert abs(found[optima.BEST, "rate, inputs of the code"][0].item()) > optima.STANDARD_ERRORS


def test_the_query_is_read_by_nobody():
    """Its own token would be a key: what the mask is for."""
    batch = TINY.task.sample(8, generator(0, "data"))
    model = regressors._model(TINY, regressors.LINEAR, 0)
    bare = -model(residual=batch.tokens, stop_at_layer=1)[:, -1, batch.d_in :]
    assert not torch.equal(bare, regressors.answers(model, batch))
    louder = batch.tokens.clone()
    louder[:, -1] *= 2
    heard = regressors.answers(model, replace(batch, tokens=louder))
    assert (heard - 2 * regressors.answers(model, batch)).abs().max() <= 1e-5  # linear in the query
