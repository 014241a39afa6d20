"""The study of context length: beginnings are beginnings, columns are what they say, and every claim can fail."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.core.claims import judge
from analyses.core.config import configure
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.currying import curry_vs_context_length as subject
from analyses.currying.extent import lengths
from toy_models.tasks.in_deployment import SWITCHED

RUN = {"study": "curry_vs_context_length", "config_hash": "0" * 12, "profile": "custom"}
SMALL = {"net.model.d_model": 16, "net.model.d_mlp": 24, "net.model.n_ctx": 18, "net.task.n_ctx": 18}
SMALL |= {"net.train.steps": 20, "net.train.batch_size": 16, "queries.held_out": 16, "queries.fit": 48}
SMALL |= {"queries.length": 6, "lengths": (1, 2, 8), "pool_sizes": (), "seeds": (3,)}
TINY = configure(subject.Config, {**SMALL, "sources": ("chain 0", SWITCHED)})


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "run_jobs", lambda function, jobs, label: [function(job) for job in jobs])
        patch.setenv("WORKBENCH_RESULTS", str(tmp_path_factory.mktemp("results")))
        found = subject.run(TINY)
        return replace(found, run={**RUN, **found.measured_with})


@pytest.fixture
def whole(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path))
    nets = lengths.Nets(TINY.net, TINY.pools, ("chain 0", SWITCHED), ())
    return list(lengths.longest(nets, 8, 8, 3))


# What is measured ---------------------------------------------------------------------------------


def test_every_length_of_every_source_has_every_method(measured):
    table = measured.table
    assert list(table.columns) == list(subject.COLUMNS)
    assert set(table.groupby(["source", "n"]).method.apply(frozenset)) == {
        frozenset((*lengths.METHODS, "oracle", "sibling", "wrong task"))
    }
    assert sorted(set(zip(table.source, table.n, strict=True))) == [
        (source, n) for source in ("chain 0", SWITCHED) for n in (1, 2, 8)
    ]


def test_the_oracle_is_no_distance_from_itself_and_none_removes_nothing(measured):
    table = measured.table.set_index("method")
    assert (table.loc["oracle", "kl"].abs() < 1e-12).all()
    assert (table.loc["none", "kl"] == table.loc["none", "baseline_kl"]).all()
    known = table.dropna(subset=["share"])
    assert known.share.to_numpy() == pytest.approx((1 - known.kl / known.baseline_kl).to_numpy())


def test_one_token_says_the_same_to_every_query_and_more_do_not(measured):
    rows = measured.table.set_index("n")
    assert rows.loc[1, ["rho_first", "rho_last", "untrained_rho_last"]].max(axis=None) < 1e-9
    assert rows.loc[8, "rho_last"].min() > 1e-7


def test_the_empty_context_is_the_model_and_another_is_not(measured, whole):
    assert measured.arrays["empty context: largest difference (seed)"].tolist() == [0.0]
    one = whole[0]
    fit, held = one.asked(TINY.queries, 3)
    made = lengths.curry(one.model, one.case.context, "sink", fit)
    assert lengths._apart(made, lengths.curry(one.model, one.case.context, "none"), held) > 1e-4


def test_shorter_contexts_are_beginnings_of_the_longest(whole):
    for one in whole:
        assert len(one.case.context) == len(one.case.sibling) == 8
        for n in (1, 5):
            short = lengths.shortened(one, n)
            assert torch.equal(short.case.context, one.case.context[:n])
            assert torch.equal(short.case.sibling, one.case.sibling[:n])
            assert torch.equal(short.case.wrong, one.case.wrong[:n])
            assert short.source == one.source


@pytest.mark.parametrize("seed", [0, 5])
def test_the_words_own_context_begins_with_it_and_has_it_once(seed):
    task = TINY.net.task_of(seed)
    for text in lengths.from_the_word(task, 8, seed):
        assert text.shape == (8,)
        assert text[0] == task.switch
        assert (text == task.switch).sum() == 1
    own, sibling = lengths.from_the_word(task, 8, seed)
    assert not torch.equal(own, sibling)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": (5, 2)}, r"lengths=\(5, 2\) must rise"),
        ({"lengths": ()}, r"lengths=\(\) must rise"),
        ({"lengths": (1, 21)}, "lengths=21 must lie between 1 and 20"),
        ({"lengths": (0, 5)}, "lengths=0 must lie between 1"),
        ({"pool_lengths": (2, 37)}, "pool_lengths=37 must lie between 1 and 36"),
        ({"sources": ("the word alone",)}, "must be some of chain 0"),
    ],
)
def test_settings_that_make_no_study_are_refused_in_one_line(changes, message):
    with pytest.raises(WorkbenchError, match=message) as caught:
        configure(subject.Config, changes)
    assert "\n" not in str(caught.value)


# Claims -------------------------------------------------------------------------------------------

# source -> KL left by sink at 1, 2 and 20 tokens, and rho
EXPECTED = {
    "chain 0": ((0.004, 0.04, 0.01), (0.0, 0.04, 0.01)),
    "biased die": ((0.004, 0.04, 0.01), (0.0, 0.04, 0.01)),
    "copy 4": ((0.004, 0.14, 0.5), (0.0, 0.14, 0.5)),
    SWITCHED: ((0.1, 0.1, 0.1), (0.0, 0.1, 0.1)),
    "K=4": ((0.01, 0.01, 0.01), (0.0, 0.01, 0.01)),
    "fresh": ((0.1, 0.3, 0.8), (0.0, 0.3, 0.8)),
}


def table(values=EXPECTED, oracle: float = 0.1, edited: float = 0.15, gap: float = 0.0) -> Result:
    """Two seeds as the claims expect them; without a context the model is 1 nat off."""
    rows = []
    for seed in (0, 1):
        for source, (left, rho) in values.items():
            for n, kl, dependence in zip((1, 2, 20), left, rho, strict=True):
                told = {"source": source, "seed": seed, "n": n, "rho_first": 0.0, "untrained_rho_last": 0.0}
                told["rho_last"] = dependence
                for method, bayes in (("sink", edited), ("none", 1.0), ("oracle", oracle)):
                    rows.append({**told, "method": method, "kl": kl, "share": 1 - kl, "bayes_kl": bayes})
    return Result(pd.DataFrame(rows), {"empty context: largest difference (seed)": np.full(2, gap)}, run=RUN)


def failing(result: Result) -> set[str]:
    judged = {claim.sentence: judge(RUN["study"], claim, result) for claim in subject.CLAIMS}
    return {sentence[:14] for sentence, verdict in judged.items() if not verdict.holds}


def test_the_claims_hold_on_what_they_expect_and_each_can_fail():
    def but(source: str, left=None, rho=None) -> set[str]:
        old = EXPECTED[source]
        return failing(table({**EXPECTED, source: (left or old[0], rho or old[1])}))

    assert failing(table()) == set()
    assert failing(table(gap=1e-6)) == {"An empty conte"}
    assert failing(table(oracle=0.6)) == {"The model lear"}
    assert failing(table(edited=0.6)) == {"W' of the long"}
    assert but("chain 0", left=(0.05, 0.01, 0.04)) == {"A longer chain", "More of a chai"}
    assert but("biased die", left=(0.05, 0.01, 0.04)) == {"So is a die"}
    assert but("copy 4", left=(0.1, 0.6, 0.5)) == {"A longer copie"}
    assert but(SWITCHED, left=(0.1, 0.1, 0.3)) == {"The word has s"}
    assert but("K=4", left=(0.1, 0.3, 0.7)) == {"At the longest"}
    assert but("copy 4", rho=(0.1, 0.4, 0.6)) == {"A context of o"}
    told = {source: (left, (0.0, 0.01, 0.0)) for source, (left, _) in EXPECTED.items()}
    assert failing(table(told)) == {"rho predicts s"}
