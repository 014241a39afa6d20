"""The study of gradient steps: slopes are known, several steps are steps, cones hold what they say, claims can fail."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.core.claims import judge
from analyses.core.config import configure
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.currying import curry_vs_gradient as subject
from analyses.currying.downhill import slopes
from analyses.currying.downhill.many_steps import LENGTHS, many_steps
from probes.currying.curried import NULLS
from probes.currying.gradients import DIRECTIONS, descent
from probes.currying.oracle import Oracle
from probes.currying.solving import kl
from probes.locality import norm, size
from toy_models import Transformer
from toy_models.config import TransformerConfig

RUN = {"study": "curry_vs_gradient", "config_hash": "0" * 12, "profile": "custom"}
SMALL = {"fit": 12, "held_out": 8, "context_lengths": (5, 8), "angles": (0.0, 45.0), "cone_steps": 1, "gd_steps": (2,)}
TINY = configure(subject.Config, {**SMALL, "contexts": ("chain 0",), "seeds": (0,)})


@pytest.fixture(scope="module")
def measured() -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "run_jobs", lambda function, jobs, label: [function(job) for job in jobs])
        patch.setattr("probes.currying.gradients.SWEEPS", 1)
        found = subject.run(TINY)
    return replace(found, run={**RUN, **found.measured_with})


@pytest.fixture
def oracle() -> Oracle:
    model = Transformer(TransformerConfig(n_layers=2, n_heads=2, d_model=8, d_vocab=9, n_ctx=16, bos_id=0), seed=1)
    return Oracle(model, torch.tensor([1, 2, 3, 1, 2, 3]))


@pytest.fixture
def queries() -> torch.Tensor:
    return torch.randint(1, 9, (12, 5), generator=torch.Generator().manual_seed(0))


# What is measured ---------------------------------------------------------------------------------


def test_every_step_and_null_has_a_row_at_every_length_and_the_dear_ones_at_the_last(measured):
    table = measured.table
    assert list(table.columns) == list(subject.COLUMNS)
    for _, rows in table.groupby("length"):
        assert set(rows[rows.kind == "null"].method) == {*NULLS, "sibling", "wrong task"}
        assert set(DIRECTIONS) <= set(rows[rows.kind == "step"].method)
        assert {"gradient", "distill_gradient"} <= set(rows[rows.kind == "direction"].method)
    last = table[table.length == 8]
    assert {"by matrix", "2 steps"} <= set(last[last.kind == "step"].method)
    assert set(table[table.kind == "cone"].length) == {8}
    assert set(last[last.kind == "cone"].method) == {"gradient", "distill_gradient", "random"}
    assert set(last[last.kind == "cone"].angle) == {0.0, 45.0}


def test_shares_are_of_the_kl_without_the_context(measured):
    rows = measured.table[measured.table.share.notna()]
    np.testing.assert_allclose(rows.share, 1 - rows.kl / rows.baseline_kl, atol=1e-9)
    assert (rows[rows.method == "none"].share == 0).all()


def test_directions_have_cosines_and_the_trained_slopes_are_right(measured):
    rows = measured.table[measured.table.kind == "direction"]
    for column in ("weight_cosine", "curried_cosine", "context_cosine"):
        assert rows[column].abs().max() <= 1 + 1e-9
    known = rows.slope_error.dropna()
    assert len(known) == 2
    assert known.max() < 1e-6


# The parts ----------------------------------------------------------------------------------------


def test_a_loss_falls_at_the_rate_of_its_gradients_square_and_a_wrong_gradient_is_seen(oracle, queries, monkeypatch):
    assert max(slopes.slope_errors(oracle, queries).values()) < 1e-7

    def wrong(at: Oracle) -> tuple:
        found, spent = descent(at)
        return {name: 1.01 * g for name, g in found.items()}, spent

    monkeypatch.setattr(slopes, "descent", wrong)
    assert slopes.slope_errors(oracle, queries)["gradient"] == pytest.approx(0.01 / 1.01, rel=1e-3)


def test_one_of_many_steps_goes_down_the_gradient_by_one_of_the_lengths(oracle, queries, monkeypatch):
    first = slopes.distillation(oracle, queries)  # a short step down this one is sure to help
    monkeypatch.setattr("analyses.currying.downhill.many_steps.descent", lambda at: (first, 0))
    update = many_steps(oracle, queries, (1,))[1]
    assert min(abs(norm(update) / size(oracle.model) / one - 1) for one in LENGTHS) < 1e-3
    flat = [torch.cat([x[name].flatten() for name in first]) for x in (update, first)]
    assert torch.cosine_similarity(*flat, dim=0).item() == pytest.approx(-1, abs=1e-5)


def test_many_steps_never_do_harm_on_the_fit_queries_and_leave_the_model_alone(oracle, queries):
    before = {name: weight.clone() for name, weight in oracle.model.named_parameters()}
    found = many_steps(oracle, queries, (1, 3))
    assert all(torch.equal(weight, before[name]) for name, weight in oracle.model.named_parameters())
    target = oracle.logits(queries)
    none = kl(target, oracle.bare.read(oracle.model, queries)[0]).mean()
    for update in found.values():
        model = oracle.copy_of_model()
        with torch.no_grad():
            for name, change in update.items():
                model.get_parameter(name).add_(change)
            assert kl(target, oracle.bare.read(model, queries)[0]).mean() <= none + 1e-6


# Settings that are refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contexts": ("chain 9",)}, r"contexts=\('chain 9',\): 'chain 9' is no source; take some of chain 0"),
        ({"contexts": ()}, r"contexts=\(\): 'nothing' is no source"),
        ({"context_lengths": (1, 20)}, r"context_lengths=\(1, 20\) must be 2 or more"),
        ({"context_lengths": (5, 21)}, r"query_length=12 make 34 positions, beyond net.model.n_ctx=33"),
        ({"angles": (10.0, 90.0)}, r"angles=\(10.0, 90.0\) must rise from 0 to 90"),
        ({"angles": (0.0, 95.0)}, r"must rise from 0 to 90 degrees at most"),
    ],
)
def test_settings_that_make_no_study_are_refused_in_one_line(changes, message):
    with pytest.raises(WorkbenchError, match=message) as caught:
        configure(subject.Config, changes)
    assert "\n" not in str(caught.value)


# Claims -------------------------------------------------------------------------------------------

# context -> best step, ideal step, sink, bias
SHARES = {"chain 0": (0.2, 0.5, 0.95, 0.1), "biased die": (0.8, 0.9, 0.95, 0.5), "copy 4": (0.01, 0.2, 0.3, 0.05)}


def expected(
    shares: dict = SHARES, cosine: float = 0.3, slope: float = 1e-9, near: float = 0.7, aside: float = 0.4
) -> Result:
    """Two seeds as the claims expect them."""
    rows = []
    for seed in (0, 1):
        for context, (step, ideal, sink, bias) in shares.items():
            known = (("step", "plain", step), ("step", "sign", -1.0), ("distilled", "plain", ideal))
            for kind, method, share in (*known, ("method", "sink", sink), ("null", "bias", bias)):
                rows.append({"context": context, "seed": seed, "kind": kind, "method": method, "share": share})
            more = {"context": context, "seed": seed, "method": "gradient"}
            rows.append({**more, "kind": "direction", "curried_cosine": cosine, "slope_error": slope})
            for method, share in (("gradient", near), ("random", aside)):
                rows.append({**more, "kind": "cone", "method": method, "angle": 30.0, "share": share})
    return Result(pd.DataFrame(rows).assign(length=20), {}, run={**RUN, "contexts": list(shares)})


def failing(result: Result) -> set[str]:
    return {claim.sentence[:14] for claim in subject.CLAIMS if not judge("curry_vs_gradient", claim, result).holds}


def test_the_claims_hold_on_what_they_expect_and_each_can_fail():
    assert failing(expected()) == set()
    assert failing(expected(slope=1e-3)) == {"Along a step t"}
    assert failing(expected(cosine=0.8)) == {"And in what it"}
    assert failing(expected(near=0.45)) == {"Good updates l"}
    assert failing(expected({**SHARES, "chain 0": (0.6, 0.6, 0.95, 0.1)})) == {"On a chain the"}
    assert failing(expected({**SHARES, "chain 0": (0.2, 0.9, 0.95, 0.1)})) == {"Even the ideal"}
    assert failing(expected({**SHARES, "biased die": (0.4, 0.9, 0.95, 0.5)})) == {"On a die a gra"}
    assert failing(expected({**SHARES, "copy 4": (0.08, 0.2, 0.3, 0.05)})) == {"For copying it"}
    assert failing(expected({**SHARES, "copy 4": (0.03, 0.2, 0.3, -0.04)})) == {"What it does f"}
    assert failing(expected({**SHARES, "biased die": (0.8, 0.9, 0.95, 0.01)})) == {"Steps work whe"}


def test_a_context_that_says_nothing_has_no_part_in_the_boundary():
    quiet = expected()
    quiet.table.loc[(quiet.table.context == "copy 4") & quiet.table.kind.isin(["step", "null"]), "share"] = np.nan
    claim = next(one for one in subject.CLAIMS if one.sentence.startswith("Steps work"))
    assert claim.measure(quiet) == pytest.approx([1.0, 1.0])
