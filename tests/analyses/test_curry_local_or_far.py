"""The study of local and far contexts: what is measured is what its columns say, and every claim can fail."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.core.claims import judge
from analyses.core.config import configure
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.currying import curry_local_or_far as subject
from analyses.currying.extent import reach
from analyses.currying.extent.divergences import bare_logits, divergence, from_bayes, share
from analyses.currying.extent.subjects import ALONE, alone, of_mixture
from analyses.currying.nets.contexts import mixed
from probes.currying.curried import curry, updated
from probes.currying.oracle import Oracle
from probes.locality import Path, norm, size

RUN = {"study": "curry_local_or_far", "config_hash": "0" * 12, "profile": "custom"}
SHORT = {"context_length": 10, "pool_context_length": 10, "queries.length": 6, "queries.fit": 48}
SMALL = {"net.model.d_model": 24, "net.model.d_mlp": 24, "net.model.n_ctx": 18, "net.task.n_ctx": 18}
SMALL |= {"net.train.steps": 30, "net.train.batch_size": 16, "queries.held_out": 16, "steps": 4, "contexts": 1}
TINY = configure(subject.Config, {**SHORT, **SMALL, "pool_sizes": (), "seeds": (3,)})
SOURCES = ("biased die", "in deployment", ALONE)


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "run_jobs", lambda function, jobs, label: [function(job) for job in jobs])
        patch.setenv("WORKBENCH_RESULTS", str(tmp_path_factory.mktemp("results")))
        found = subject.run(replace(TINY, sources=SOURCES))
        return replace(found, run={**RUN, **found.measured_with})


@pytest.fixture
def context(tmp_path, monkeypatch):
    """A model with a context, and queries to fit on and to be held against."""
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path))
    (one,) = of_mixture(TINY.net, ("biased die",), 10, 1, 3)
    return one, *one.asked(TINY.queries, 3)


# What is measured ---------------------------------------------------------------------------------


def test_every_context_has_a_row_of_either_model(measured):
    table = measured.table
    assert list(table.columns) == list(subject.COLUMNS)
    assert sorted(zip(table.source, table.moment, strict=True)) == sorted(
        (source, moment) for source in SOURCES for moment in (subject.TRAINED, subject.UNTRAINED)
    )
    after = table[table.moment == subject.TRAINED]
    assert (after.baseline_kl > 0).all()
    assert (after.queries > 0).all()
    assert after[["rho_first", "rho_last", "gate_last"]].stack().between(0, 1).all()


def test_one_token_says_the_same_to_every_query(measured):
    rows = measured.table[measured.table.source == ALONE]
    assert rows[["rho_first", "rho_last"]].max(axis=None) < 1e-9
    assert (measured.table[measured.table.source == "biased die"].rho_last > 1e-6).all()


def test_a_distance_is_the_least_of_any_path_and_half_is_never_farther_than_ninety_percent(measured):
    after = measured.table[measured.table.moment == subject.TRAINED]
    assert (after.distance_50 <= after.distance_90).all()
    paths = {
        "one": Path(torch.tensor([0.1, 0.2]), torch.tensor([0.4, 0.95])),
        "other": Path(torch.tensor([0.3, 0.15]), torch.tensor([0.99, 0.6])),
    }
    walked = reach.Walked(paths)
    assert [walked.smallest(wanted) for wanted in (0.3, 0.5, 0.9, 0.999)] == pytest.approx([0.1, 0.15, 0.2, math.inf])
    assert walked.reached("one") == pytest.approx(0.95)
    assert math.isnan(walked.reached("a path that was not walked"))


def test_walks_together_are_walks_alone(context):
    one, fit, held = context
    oracle = Oracle(one.model, one.case.context)
    update = curry(one.model, one.case.context, "sink", fit).weight_update
    there = reach._straight(update)
    both = reach._walks(oracle, held, {"short": there[:3], "long": there})
    assert torch.equal(both["long"].share[:3], both["short"].share)
    assert both["long"].distance[-1].item() == pytest.approx(norm(update) / size(one.model))
    target = oracle.logits(held)
    baseline = divergence(target, bare_logits(oracle, held))
    moved = updated(one.model, update)
    with torch.no_grad():
        left = divergence(target, oracle.bare.read(moved, held)[0])
    assert both["long"].share[-1].item() == pytest.approx(share(left, baseline), abs=1e-6)


def test_the_distance_from_bayes_is_that_of_the_whole_text(context):
    one, _, held = context
    oracle = Oracle(one.model, one.case.context)
    text = torch.cat([torch.zeros(len(held), 1, dtype=torch.long), one.case.context.expand(len(held), -1), held], 1)
    exact = one.case.exact(text)
    with torch.no_grad():
        said = one.model(text).double().log_softmax(-1)
    rows = [(exact[i, t, 1:].exp() * (exact[i, t, 1:] - said[i, t, 1:])).sum() for i in range(4) for t in range(11, 17)]
    found = from_bayes(one.case.exact, oracle, held[:4], oracle.logits(held[:4]))
    assert found == pytest.approx(torch.stack(rows).mean().item(), rel=1e-5)


def test_nothing_removed_of_almost_nothing_is_no_share():
    assert math.isnan(share(0.0, 9e-4))
    assert share(0.5, 2.0) == 0.75


def test_the_word_alone_is_one_token_and_its_sibling_has_it_amid_others():
    task = TINY.net.task_of(3)
    case = alone(task, 10, 3)
    assert case.context.tolist() == [task.switch]
    assert torch.equal(case.sibling, mixed(task, "in deployment", 10, 3).context)
    assert (case.sibling == task.switch).sum() == 1
    assert (case.wrong != task.switch).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ("chain 9",)}, r"sources=\('chain 9',\) must be some of chain 0, fair die"),
        ({"sources": ()}, r"sources=\(\) must be some of"),
        ({"contexts": 0}, "contexts=0 must be 1 or more"),
        ({"context_length": 21}, r"context_length=21 must lie between 1 and 20: .* n_ctx=33"),
        ({"pool_context_length": 37}, "pool_context_length=37 must lie between 1 and 36"),
        ({"steps": 0}, "steps=0 1 or more"),
        ({"penalty": -1.0}, "penalty=-1.0 must be 0 or more"),
        ({"queries.fit": 0}, "fit=0"),
    ],
)
def test_settings_that_make_no_study_are_refused_in_one_line(changes, message):
    with pytest.raises(WorkbenchError, match=message) as caught:
        configure(subject.Config, changes)
    assert "\n" not in str(caught.value)


# Claims -------------------------------------------------------------------------------------------

# source -> rho, sink, gradient, distance at 90 % and at 50 %
EXPECTED = {
    "biased die": (0.3, 0.99, 0.8, 0.02, 0.01),
    "copy 4": (0.6, 0.4, 0.1, 0.15, 0.02),
    "copy 8": (0.7, 0.3, 0.1, 0.25, 0.03),
    "in deployment": (0.1, 0.95, 0.1, 0.2, 0.06),
    ALONE: (0.0, 0.94, 0.1, 0.3, 0.07),
}


def table(values=EXPECTED, **changes: float) -> Result:
    """Two seeds as the claims expect them."""
    rows = []
    for seed in (0, 1):
        for source, (rho, sink, step, most, half) in values.items():
            told = {"source": source, "seed": seed, "index": 0}
            both = {"rho_first": rho, "bayes_kl": 0.1, "bayes_none_kl": 0.6, **changes}
            after = {"rho_last": rho, "sink": sink, "gradient": step, "distance_90": most, "distance_50": half}
            rows.append({**told, "moment": subject.TRAINED, **both, **after})
            rows.append({**told, "moment": subject.UNTRAINED, **both, **after, "rho_last": rho / 20})
    return Result(pd.DataFrame(rows), {}, run=RUN)


def failing(result: Result) -> set[str]:
    return {claim.sentence[:14] for claim in subject.CLAIMS if not judge("curry_local_or_far", claim, result).holds}


def test_the_claims_hold_on_what_they_expect_and_each_can_fail():
    def but(source: str, rho=None, sink=None, step=None, most=None, half=None) -> set[str]:
        new = (rho, sink, step, most, half)
        values = tuple(old if now is None else now for old, now in zip(EXPECTED[source], new, strict=True))
        return failing(table({**EXPECTED, source: values}))

    assert failing(table()) == set()
    assert failing(table(bayes_kl=0.5)) == {"The model lear"}
    assert failing(table(rho_first=0.1)) == {"A context of o"}
    assert "The word says " in but("in deployment", rho=0.4)
    assert "The word fits " in but("in deployment", sink=0.8)
    assert "So does the wo" in but(ALONE, sink=0.8)
    assert "Yet it lies fa" in but("in deployment", most=0.01)
    assert but("in deployment", step=0.6) == {"And no gradien"}
    assert but("biased die", step=0.3) == {"To a die a ste"}
    tells_nothing = (0.3, 0.1, 0.4, 0.2, 0.5)
    nothing = {source: (rho, *EXPECTED[source][1:]) for source, rho in zip(EXPECTED, tells_nothing, strict=True)}
    assert {"rho predicts w", "Distance predi", "The same at ha"} <= failing(table(nothing))
    born = table()
    born.table["rho_last"] = born.table.groupby("source").rho_last.transform("max")
    assert "Query dependen" in failing(born)


def test_a_context_that_no_path_reaches_is_the_farthest():
    rows = pd.DataFrame({"sink": [0.9, 0.5, 0.1, np.nan], "distance_90": [0.1, 0.2, math.inf, 0.3]})
    assert subject.rank_correlation(rows, "distance_90") == pytest.approx(-1.0)
