"""The frontier's study: costs are those of the methods, budgets are kept, and claims can fail."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.core.claims import judge
from analyses.core.config import configure
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.currying import curry_frontier as subject
from analyses.currying.frontier import measuring
from analyses.currying.frontier.claims import ORDER
from analyses.currying.frontier.methods import RATES, Way, cost_of, looks, plan, ways

RUN = {"study": "curry_frontier", "config_hash": "0" * 12, "profile": "custom"}
SMALL = {"sources": ("copy 4",), "fit": 16, "held_out": 16, "pairs": (1, 2), "ranks": (1,), "seeds": (0,)}
TINY = configure(subject.Config, {**SMALL, "contexts": 1, "budgets": (8_000,)})


def here(function, jobs, label):
    """In this process: what is measured is tested, not the pool."""
    return [function(job) for job in jobs]


@pytest.fixture(scope="module")
def measured() -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "run_jobs", here)
        found = subject.run(TINY)
    return Result(found.table, found.arrays, run=RUN)


@pytest.fixture(scope="module")
def context() -> measuring.Context:
    net = TINY.net
    return measuring.Context.drawn(net.trained(0).model, net.task_of(0), TINY, "copy 4", 0, 0)


# What is measured ---------------------------------------------------------------------------------


def test_every_method_has_a_row_and_none_spends_more_than_it_may(measured):
    table = measured.table
    assert list(table.columns) == list(subject.COLUMNS)
    assert {way.label for way in ways((1, 2), (1,))} | {"sibling", "wrong task"} == set(table.method)
    assert (table.spent <= table.budget).all()
    descended = table[table.rate.notna()]
    assert (descended.steps >= 1).all()
    assert (descended.spent > 0.5 * descended.budget).all()
    assert set(table[table.rate.isna()].budget) == {8_000}
    assert table.drop(columns=["share", "rate"]).notna().all(axis=None)


def test_the_whole_cache_is_exact_and_nothing_removes_nothing(measured):
    table = measured.table.set_index("method")
    assert table.loc["kv", "kl"] < 1e-9
    assert table.loc["kv", "keys"] == 1 + 20 + 12
    assert table.loc["none", "kl"] == table.loc["none", "baseline_kl"]
    assert table.loc["sink", "keys"] == table.loc["attention_matching 1", "keys"] == 13
    assert table.loc["attention_matching 2", "keys"] == 14


def test_more_pairs_are_never_worse_on_the_queries_of_the_fit(measured):
    order = measured.arrays[ORDER]
    assert order.shape == (1, 1, 2)
    assert (np.diff(order) <= 0).all()


def test_the_better_step_size_on_the_fit_queries_is_kept(context):
    way = Way("kv_r", "learned pairs", 1, {"pairs": 1})
    made, told = measuring._tuned(context, way, 20_000)
    bought = plan(way, 20_000, 16, 12, 21)
    tried = {
        rate: context.made(way, bought.fit, steps=bought.steps, lr=rate, batch=bought.fit) for rate in RATES["kv_r"]
    }
    reached = {rate: context.objective(one) for rate, one in tried.items()}
    assert reached[told["rate"]] == min(reached.values()) == context.objective(made)
    assert told["spent"] == sum(one.token_forwards for one in tried.values())
    assert measuring._tuned(context, way, 100) is None


def test_held_out_queries_were_seen_by_no_fit(context):
    held = set(map(tuple, context.held.tolist()))
    for seen in (context.fit, *context.others.values()):
        assert not held & set(map(tuple, seen.tolist()))
    assert (context.held != 0).all()
    assert (context.held < 13).all()


# Costs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way",
    [
        Way("kv_r", "", 1, {"pairs": 1}),
        Way("kv_r", "", 3, {"pairs": 3}),
        Way("lora", "", 2, {"rank": 2}),
        Way("lsq", ""),
    ],
    ids=lambda way: way.label,
)
def test_costs_are_foreseen_to_the_token(context, way):
    for steps in (1, 3):
        made = context.made(way, 8, steps=steps, batch=8)
        assert made.token_forwards == cost_of(way, 8, 12, 21, steps)


@settings(max_examples=40, deadline=None)
@given(st.integers(1_000, 300_000), st.sampled_from([("kv_r", 1), ("kv_r", 10), ("lora", 4), ("lsq", 0)]))
def test_a_plan_keeps_within_its_budget_and_wastes_no_step(budget, which):
    method, r = which
    way = Way(method, "", r)
    found = plan(way, budget, 128, 12, 21)
    if found is None:
        assert 2 * cost_of(way, 32, 12, 21, 1) > budget
        return
    assert found.fit in (128, 64, 32)
    assert 2 * cost_of(way, found.fit, 12, 21, found.steps) <= budget
    assert 2 * cost_of(way, found.fit, 12, 21, found.steps + 1) > budget
    if found.fit > 32:
        assert found.steps >= 4


def test_a_search_looks_at_all_queries_ten_times_or_at_every_step():
    assert [looks(steps) for steps in (0, 1, 5, 10, 20, 100)] == [1, 2, 6, 11, 11, 11]
    for steps in range(60):
        every = max(1, steps // 10)
        assert looks(steps) == 1 + sum(step % every == 0 or step == steps for step in range(1, steps + 1))


# Settings that are refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ("chain 9",)}, r"sources=\('chain 9',\) must be some of chain 0"),
        ({"fit": 0}, "fit=0"),
        ({"pairs": (2, 1)}, r"pairs=\(2, 1\) must be whole numbers from 1 on that rise"),
        ({"budgets": ()}, r"budgets=\(\) must be"),
        ({"pairs": (1, 22)}, r"pairs=\(1, 22\) may go to 1 \+ context_length"),
        ({"context_length": 30}, "make 43 positions of net.model.n_ctx=33"),
    ],
)
def test_settings_that_make_no_study_are_refused_in_one_line(changes, message):
    with pytest.raises(WorkbenchError, match=message) as caught:
        configure(subject.Config, changes)
    assert "\n" not in str(caught.value)


# Claims -------------------------------------------------------------------------------------------

KLS = {"kv": 0.0, "sink": 0.012, "kv_r 1": 0.01, "attention_matching 1": 0.02, "kv_r 10": 0.001}
COPIED = {"kv": 0.0, "sink": 0.6, "kv_r 1": 0.5, "attention_matching 1": 1.1, "kv_r 10": 0.01}
FAMILIES = {"kv": "exact", "sink": "closed form", "attention_matching 1": "closed form"}
SHAPES = {"kv": 0, "sink": 1, "kv_r 1": 1, "attention_matching 1": 1, "kv_r 10": 10}


def table(chain=KLS, die=KLS, copied=COPIED, spent: float = 0.99, rise: float = 0.0, dear: int = 250_000) -> Result:
    """Two seeds as the claims expect them."""
    rows = [
        {
            **{"source": source, "context": 0, "seed": seed, "method": method, "kl": kl, "share": 1 - kl},
            **{"family": FAMILIES.get(method, "learned pairs"), "r": SHAPES[method], "budget": budget},
            "spent": spent * budget if method.startswith("kv_r") else 4_900,
        }
        for seed in (0, 1)
        for source, kls in (("chain 0", chain), ("biased die", die), ("copy 4", copied))
        for method, kl in kls.items()
        for budget in ((25_000, dear) if method.startswith("kv_r") else (25_000,))
    ]
    order = np.array([[[1.0, 0.5, 0.5 + rise]] * 3] * 2)
    return Result(pd.DataFrame(rows), {ORDER: order}, run=RUN)


def failing(result: Result) -> set[str]:
    return {claim.sentence[:12] for claim in subject.CLAIMS if not judge("curry_frontier", claim, result).holds}


def test_the_claims_hold_on_what_they_expect_and_each_can_fail():
    assert failing(table()) == set()
    assert failing(table(chain={**KLS, "sink": 0.014})) == {"On a chain t"}
    assert failing(table(die={**KLS, "sink": 0.014})) == {"So it is on "}
    assert failing(table(chain={**KLS, "kv": 1e-3})) == {"Everything k"}
    kept = {**KLS, "attention_matching 1": 0.011}
    assert failing(table(chain=kept, die=kept)) == {"One closed-f"}
    assert failing(table(copied={**COPIED, "kv_r 1": 0.05})) == {"A copied wor"}
    assert failing(table(copied={**COPIED, "kv_r 10": 0.3})) == {"With ten pai"}
    assert failing(table(spent=1.01)) == {"No method sp"}
    assert failing(table(rise=0.01)) == {"More learned"}
    assert failing(table(dear=100_000)) == {"It costs 1/3"}
