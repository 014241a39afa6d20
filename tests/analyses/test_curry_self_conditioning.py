"""W' of a growing text: steps are what they are called, Bayes expects nothing of itself, and claims can fail."""

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
from analyses.currying import curry_self_conditioning as subject
from analyses.currying.writing import moving
from toy_models import Transformer, TransformerConfig
from toy_models.tasks.in_deployment import InDeployment

TINY = configure(
    subject.Config,
    {
        **{"net.model.d_model": 16, "net.model.d_mlp": 16, "net.train.steps": 3, "net.train.batch_size": 4},
        **{"sources": ("chain 0", "biased die"), "written": 8, "paths": 1, "queries": (48, 16), "query_length": 4},
        "seeds": (3,),
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
        return Result(found.table, found.arrays, run={"config": asdict(TINY)})


# Steps --------------------------------------------------------------------------------------------


def test_a_step_is_the_divergence_and_the_squared_distance_of_its_ends():
    even, sure = torch.tensor([[[0.5, 0.5]]]).log(), torch.tensor([[[1.0, 0.0]]]).log()
    first, second = moving.moves([even, sure, sure])
    assert first["kl"] == pytest.approx(math.log(2))
    assert first["squared"] == first["from_start"] == pytest.approx(0.5)
    assert second["kl"] == second["squared"] == 0
    assert second["from_start"] == pytest.approx(0.5)
    assert math.isnan(second["weight_step"])
    assert [one["t"] for one in (first, second)] == [0, 1]


def test_bayes_is_its_posterior_behind_every_text():
    task = InDeployment()
    text = task.text("biased die", 1, 6, draw())[0]
    one, two = moving.by_bayes(task, [text[:1], text])
    whole = task.posterior(torch.cat([torch.zeros(1, dtype=torch.long), text])[None])[0]
    assert torch.equal(one.exp()[0, 0], whole[1])
    assert torch.equal(two.exp()[0, 0], whole[-1])


@settings(max_examples=10, deadline=None)
@given(source=st.sampled_from(["chain 0", "biased die", "copy 2"]), length=st.integers(1, 8), seed=st.integers(0, 50))
def test_bayes_expects_its_own_symbol_to_teach_it_nothing(source, length, seed):
    task = InDeployment(source_seed=seed)
    text = task.text(source, 1, length, draw(seed))[0]
    assert moving.expected_gap(task, [text]) < 1e-12


def test_who_believes_what_was_said_last_is_caught():
    class Gullible(InDeployment):
        def posterior(self, tokens):
            return torch.nn.functional.one_hot(tokens % 3, 3).double()

    task = Gullible()
    text = task.text("biased die", 1, 4, draw())[0]
    assert moving.expected_gap(task, [text]) > 0.1


def test_a_step_of_the_weights_is_relative_to_the_matrices_that_change():
    shape = {"n_layers": 1, "n_heads": 2, "d_model": 16, "d_mlp": 16, "d_vocab": 7, "n_ctx": 12}
    model = Transformer(TransformerConfig(**shape, position="rope", bos_id=0), seed=1).eval()
    texts = [torch.tensor([1, 2]), torch.tensor([1, 2, 3]), torch.tensor([1, 2, 3])]
    queries = torch.randint(1, 7, (16, 4), generator=draw())
    said, (moved, same) = moving.in_weights(model, texts, queries, queries)
    assert moved > 0
    assert same == 0
    assert torch.equal(said[1], said[2])
    made = [moving.curry(model, text, "sink", queries) for text in texts[:2]]
    names, (before, after) = list(made[0].weight_update), (one.weight_update for one in made)
    size = torch.cat([model.get_parameter(name).detach().flatten() for name in names]).norm()
    gone = torch.cat([(after[name] - before[name]).flatten() for name in names]).norm()
    assert moved == pytest.approx((gone / size).item(), rel=1e-5)


# The study ----------------------------------------------------------------------------------------


def test_every_text_and_every_predictor_is_measured_at_every_step(measured):
    table = measured.table
    assert list(table.columns) == list(subject.COLUMNS)
    assert set(table.text) == {subject.OWN, subject.TRUE, subject.OTHER}
    steps = table.groupby(["source", "text", "predictor"]).t.nunique()
    assert (steps == TINY.written).all()
    assert len(steps) == 2 * (3 * 3 + 1)  # the untrained model reads its own texts alone
    assert table.drop(columns="weight_step").notna().all(axis=None)
    assert table[table.predictor == subject.EDITED].weight_step.gt(0).all()
    assert measured.arrays["Bayes's expected gap (seed)"][0] < 1e-12
    assert all(np.isfinite(claim.measure(measured)).all() for claim in subject.CLAIMS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ("chain 0", "chain 9")}, "'chain 9' must be one of chain 0"),
        ({"sources": ("in deployment",)}, "'in deployment' must be one of"),
        ({"sources": ("chain 1",)}, "must have chain 0 and biased die"),
        ({"written": 4}, "written=4 8 or more"),
        ({"start": 5}, "make 34 positions, beyond net.model.n_ctx=33"),
    ],
)
def test_settings_that_make_no_study_are_refused_in_one_line(changes, message):
    with pytest.raises(WorkbenchError, match=message) as caught:
        configure(subject.Config, changes)
    assert "\n" not in str(caught.value)


def test_a_slope_is_that_of_the_tokens_read():
    t = np.arange(16)
    table = pd.DataFrame({"t": t, "weight_step": 3 / (t + 6.0)})
    assert subject.slope(table, start=4) == pytest.approx(-1)


# Claims -------------------------------------------------------------------------------------------


def made(ends=0.3, other=3.0, true=1.0, bayes=2.0, slope=-1.0, way=1.0, with_text=1.0, gap=1e-16) -> Result:
    rows = []
    kinds = [(subject.OWN, 1.0, 1.0), (subject.TRUE, true, true), (subject.OTHER, other, bayes)]
    for seed in (0, 1):
        for source in ("chain 0", "biased die"):
            for text, edited, exact in kinds:
                for who, scale in ((subject.EDITED, edited), (subject.BAYES, exact), (subject.WITH, with_text)):
                    for t in range(12):
                        kl = scale * (ends if t >= 8 else 1.0)
                        step = (t + 6.0) ** slope
                        rows.append((source, text, 0, seed, who, t, kl, 1.0, 12 / way, step))
    arrays = {"Bayes's expected gap (seed)": np.full(2, gap)}
    return Result(pd.DataFrame(rows, columns=list(subject.COLUMNS)), arrays, run={"config": {"start": 4}})


def failing(result: Result) -> set[int]:
    return {i for i, one in enumerate(subject.CLAIMS) if not one.expected.contains(np.mean(one.measure(result)))}


def test_the_claims_hold_on_what_they_expect_and_each_can_fail():
    assert failing(made()) == set()
    assert failing(made(gap=1e-3)) == {0}
    assert failing(made(ends=0.8)) == {1, 2}
    assert failing(made(other=1.5)) == {3}
    assert failing(made(bayes=0.5)) == {4}
    assert failing(made(true=3.0)) == {5}
    assert failing(made(slope=-0.2)) == {6}
    assert failing(made(way=2.0)) == {7}
    assert failing(made(with_text=0.5)) == {8}
