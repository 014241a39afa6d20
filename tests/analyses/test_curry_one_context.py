"""The study of one context: every method has its row, the controls are what they say, and claims can fail."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.core.claims import judge
from analyses.core.config import configure
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.currying import curry_one_context as subject
from analyses.currying.one_context import measuring
from analyses.currying.one_context.methods import EDIT, LEFT_OUT, SETTINGS, Setting, settings
from analyses.currying.one_context.subjects import Trained
from probes.currying.curried import NAMES, NULLS
from toy_models.errors import InputError

RUN = {"study": "curry_one_context", "config_hash": "0" * 12, "profile": "custom"}
SMALL = {"queries.fit": 16, "queries.held_out": 16, "steps": 1, "seeds": (3,)}
SHORT = {"context_length": 12, "queries.length": 6, "model.d_model": 16, "model.d_mlp": 32, "model.n_ctx": 20}
TRAIN = {"task.n_ctx": 20, "train.steps": 12, "train.batch_size": 8}
TINY = configure(subject.Config, {**TRAIN, **SMALL, **SHORT})


def here(function, jobs, label):
    """In this process: what is measured is tested, not the pool."""
    return [function(job) for job in jobs]


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "run_jobs", here)
        patch.setitem(SETTINGS, "kv_r", ({"pairs": 1}, {"pairs": 2}))
        patch.setenv("WORKBENCH_RESULTS", str(tmp_path_factory.mktemp("results")))
        found = subject.run(replace(TINY, contexts=("chain 0", "copy")))
        return replace(found, run={**RUN, **found.measured_with})


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path))
    return Trained(TINY).model(3)


# What is measured ---------------------------------------------------------------------------------


def test_every_method_has_a_row_for_every_context_or_a_reason(measured):
    table, refused = measured.table, measured.measured_with["refused"]
    assert list(table.columns) == list(subject.COLUMNS)
    assert list(table.context.unique()) == measured.measured_with["contexts"] == ["chain 0", "copy"]
    told = {label.split(" ")[0] for label in table.method} | set(refused)
    assert set(NAMES) <= told
    assert set(LEFT_OUT) <= set(refused)
    assert {"sibling", "wrong task", "kv_r 1", "kv_r 2", "lora 4", *NULLS} <= set(table.method)
    assert (table.groupby("context").method.nunique() == table.groupby("context").size()).all()
    assert table.drop(columns=["share", "context_share"]).notna().all(axis=None)


def test_the_cache_is_exact_and_nothing_removes_nothing(measured):
    table = measured.table.set_index("method")
    assert table.loc["kv", "kl"].max() < 1e-9
    assert table.loc["kv", "entity_error"].max() < 1e-5
    assert (table.loc["none", "kl"] == table.loc["none", "baseline_kl"]).all()
    assert measured.arrays["cache error (context, seed)"].shape == (2, 1)
    assert measured.arrays["cache error (context, seed)"].max() < 1e-6


def test_the_strangers_are_sink_of_another_context_and_nulls(measured):
    table = measured.table.set_index(["context", "method"])
    for context in measured.measured_with["contexts"]:
        mine, sibling = table.loc[context, "sink"], table.loc[context, "sibling"]
        assert sibling.family == table.loc[context, "wrong task"].family == "null"
        assert mine.context_share == pytest.approx(1 - mine.kl / sibling.kl)
    others = table.xs("lora 1", level="method").context_share
    assert others.isna().all()


def test_heads_of_both_models_have_rho_and_gate(measured):
    for name in ("rho", "gate", "untrained rho", "untrained gate"):
        found = measured.arrays[f"{name} (context, seed, layer, head)"]
        assert found.shape == (2, 1, 2, 2)
        assert ((found >= 0) & (found <= 1)).all()
    assert not np.array_equal(
        *(measured.arrays[f"{who}rho (context, seed, layer, head)"] for who in ("", "untrained "))
    )


def test_the_distance_from_bayes_is_that_of_the_whole_text(model):
    trained = Trained(TINY)
    case = trained.cases(3, model)[0]
    held = trained.task(3).text("chain 0", 8, 6, torch.Generator().manual_seed(0))
    oracle = measuring.Oracle(model, case.context)
    kv = measuring.curry(model, case.context, "kv")
    found = measuring.compare(kv, oracle, held, exact=case.exact).exact_kl[1].item()
    text = torch.cat([torch.zeros(8, 1, dtype=torch.long), case.context.expand(8, -1), held], 1)
    with torch.no_grad():
        said = model(text).double().log_softmax(-1)
    exact = trained.task(3).predict(text)
    rows = [(exact[i, t, 1:].exp() * (exact[i, t, 1:] - said[i, t, 1:])).sum() for i in range(8) for t in range(13, 19)]
    assert found == pytest.approx(torch.stack(rows).mean().item(), rel=1e-5)


def test_contexts_siblings_and_wrong_tasks_are_texts_of_their_sources(model):
    for case in Trained(TINY).cases(3, model):
        assert [len(x) for x in (case.context, case.sibling, case.wrong)] == [12] * 3
        assert len({tuple(x.tolist()) for x in (case.context, case.sibling, case.wrong)}) == 3
    copied = Trained(configure(subject.Config, {"task.noise": 0.0, **TRAIN, **SMALL, **SHORT})).cases(3, model)[2]
    assert torch.equal(copied.context[5:], copied.context[:-5])
    assert torch.equal(copied.sibling[5:], copied.sibling[:-5])
    assert not torch.equal(copied.wrong[5:], copied.wrong[:-5])


# Methods and queries ------------------------------------------------------------------------------


def test_a_method_that_nobody_has_named_comes_in_by_itself(monkeypatch):
    monkeypatch.setitem(NAMES, "another", "probes.currying.sink:sink")
    found = {one.label: one for one in settings(steps=7, longest=4)}
    assert found["another"] == Setting("another", {}, 0)
    assert found["another"].family == EDIT
    assert found["lsq"].options["steps"] == 7
    assert "kv_r 2" in found
    assert [one.label for one in settings(7, 4, ("lora", "kv"))] == ["kv", "lora 1", "lora 4"]
    assert "kv_r 5" not in found  # as many pairs as keys say all there is


def test_own_queries_are_samples_behind_the_context_without_bos_and_the_same_again(model):
    context = torch.arange(1, 7)
    once, again = (measuring.queries(model, context, TINY, 3, "words") for _ in range(2))
    other = measuring.queries(model, context, TINY, 3, "other words")
    assert torch.equal(once, again)
    assert not torch.equal(once[: len(other)], other[: len(once)])
    assert once.shape[1] == 6
    assert (once != 0).all()
    model.unembed.b_U.data[4] += 50  # now it says 4 and nothing else
    assert (measuring.queries(model, context, TINY, 3, "words") == 4).all()
    uniform = configure(subject.Config, {**SMALL, **SHORT, "queries.source": "uniform"})
    assert measuring.queries(model, context, uniform, 3, "words").unique().tolist() == list(range(1, 13))


def test_queries_that_a_fit_has_seen_are_dropped_and_none_left_is_refused():
    drawn = torch.tensor([[1, 2], [3, 4], [1, 2], [5, 6]])
    kept = measuring.without(drawn, torch.tensor([[1, 2]]), torch.tensor([[9, 9], [5, 6]]))
    assert kept.tolist() == [[3, 4]]
    with pytest.raises(WorkbenchError, match=r"all of queries.held_out=4 .* above 2, or queries.source=uniform"):
        measuring.without(drawn, drawn)


# Settings that are refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contexts": ("chain 9",)}, r"contexts=\('chain 9',\) must be some of chain 0, chain 1"),
        ({"contexts": ()}, r"contexts=\(\) must be some of"),
        ({"context_length": 21}, r"context_length=21 and queries.length=12 make 34 positions, beyond model.n_ctx=33"),
        ({"methods": ("sink", "magic")}, "there is no 'magic', only kv, sink"),
        ({"sibling": "1,2"}, "stands beside a prompt, and there is none"),
        ({"queries.fit": 0}, "fit=0"),
        ({"model": "nowhere"}, "model=nowhere needs a context of yours"),
    ],
)
def test_settings_that_make_no_study_are_refused_in_one_line(changes, message):
    with pytest.raises(WorkbenchError, match=message) as caught:
        configure(subject.Config, changes)
    assert "\n" not in str(caught.value)


def test_token_ids_curry_a_context_of_ones_own_into_the_trained_model(model):
    config = replace(TINY, prompt="1,2,3,4,1,2")
    (case,) = Trained(config).cases(3, model)
    assert case.context.tolist() == [1, 2, 3, 4, 1, 2]
    assert sorted(case.sibling.tolist()) == [1, 1, 2, 2, 3, 4]
    (told,) = Trained(replace(config, sibling="5,6")).cases(3, model)
    assert told.sibling.tolist() == [5, 6]
    with pytest.raises(InputError, match="unknown source"):
        Trained(TINY)._case(Trained(TINY).task(3), "coin 1", 3)


# Claims -------------------------------------------------------------------------------------------

SHARES = {
    "chain 0": {"sink": 0.94, "bigram_shift": 0.5, "sibling": 0.7},
    "biased die": {"sink": 0.99, "bigram_shift": 0.9, "sibling": 0.95},
    "copy": {"sink": 0.3, "bigram_shift": 0.5, "sibling": -0.2},
}


def table(shares=SHARES, error: float = 0.0) -> Result:
    """Two seeds as the claims expect them."""
    rows = [
        {"context": context, "seed": seed, "method": method, "share": share, "bayes_kl": 0.2, "entity_error": 0.5}
        for seed in (0, 1)
        for context, methods in shares.items()
        for method, share in {**methods, "kv_r 1": 0.97}.items()
    ]
    for seed in (0, 1):
        for context in shares:
            ends = {"kv": (1.0, 0.1, 0.0), "none": (0.0, 0.6, 1.0), "kv_r 2": (0.98, 0.2, 0.5 + error)}
            rows += [
                {"context": context, "seed": seed, "method": method, "share": s, "bayes_kl": b, "entity_error": e}
                for method, (s, b, e) in ends.items()
            ]
    rho = np.array([0.1, 0.1, 0.4])[:, None, None, None] * np.ones((3, 2, 2, 2))
    arrays = {"rho (context, seed, layer, head)": rho, "cache error (context, seed)": np.full((3, 2), 2e-7)}
    return Result(pd.DataFrame(rows), arrays, run={**RUN, "contexts": list(shares)})


def failing(result: Result) -> set[str]:
    return {claim.sentence[:12] for claim in subject.CLAIMS if not judge("curry_one_context", claim, result).holds}


def test_the_claims_hold_on_what_they_expect_and_each_can_fail():
    assert failing(table()) == set()

    def but(context: str, **changes: float) -> set[str]:
        return failing(table({**SHARES, context: {**SHARES[context], **changes}}))

    assert but("chain 0", sink=0.7) == {"A chain cont", "On a chain b"}
    assert but("chain 0", bigram_shift=0.95) == {"On chain and", "On a chain b"}
    assert but("biased die", sink=0.85) == {"So does a di", "On chain and"}
    assert but("biased die", sibling=0.5) == {"A die's cont"}
    assert but("copy", sink=0.8, bigram_shift=0.9) == {"A copied wor"}
    assert but("copy", sibling=0.5) == {"A copied wor"}
    assert failing(table(error=0.1)) == {"Nested metho"}
    blind = table()
    blind.arrays["rho (context, seed, layer, head)"][:] = 0.3
    blind.arrays["cache error (context, seed)"][:] = 1e-3
    assert failing(blind) == {"Copying depe", "Cached keys "}
    learned = table()
    learned.table["bayes_kl"] = 0.6
    assert failing(learned) == {"The model le"}
