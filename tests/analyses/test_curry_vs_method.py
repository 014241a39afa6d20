"""The study of every method: siblings are other contexts of the source, and claims can fail."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from analyses.core.claims import judge
from analyses.core.config import configure
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.currying import curry_vs_method as subject
from analyses.currying.every_method import measuring
from analyses.currying.every_method.methods import PAIRS, SETTINGS, UNIFORM, WRONG
from probes.currying.curried import NULLS, curry
from probes.currying.report import compare
from toy_models.transformer import Transformer

RUN = {"study": "curry_vs_method", "config_hash": "0" * 12, "profile": "custom"}
TINY = configure(
    subject.Config,
    {
        **{"net.model.d_model": 16, "net.model.d_mlp": 32, "net.train.steps": 5, "net.train.batch_size": 8},
        **{"sources": ("in deployment",), "contexts": 2, "context_length": 10, "query_length": 6},
        **{"fit": 10, "held_out": 12, "steps": 1, "seeds": (3,)},
    },
)


@pytest.fixture(scope="module")
def measured(run_here) -> Result:
    found = run_here(subject.run, TINY)
    return replace(found, run={**RUN, **found.measured_with})


@pytest.fixture(scope="module")
def model() -> Transformer:
    return Transformer(TINY.net.model, seed=0)


# What is measured ---------------------------------------------------------------------------------


def test_every_method_has_one_row_for_every_context(measured):
    table = measured.table
    assert list(table.columns) == list(subject.COLUMNS)
    labels = {setting.label for setting in SETTINGS} | {f"kv_r {r}" for r in PAIRS} | {WRONG}
    assert set(table.method) == labels >= {*NULLS, "sink", UNIFORM}
    assert len(table) == 2 * len(labels)
    assert not table.duplicated(["source", "index", "method"]).any()
    assert (table.posterior == 1).all()
    assert table.queries.between(1, TINY.held_out).all()


def test_the_cache_removes_everything_and_none_nothing(measured):
    table = measured.table.set_index("method")
    assert table.loc["kv", "kl"].max() < 1e-9
    assert table.loc["kv", "fit_error"].max() < 1e-9
    assert (table.loc["none", "kl"] == table.loc["none", "baseline_kl"]).all()
    assert (table.loc["none", "share"].dropna() == 0).all()


def test_methods_that_contain_others_fit_no_worse(measured):
    assert max(subject._rises(subject.NESTED)(measured)) <= 1e-5
    wide = subject._wide(measured, "fit_error")
    assert (wide["sink"] < wide["none"]).all()
    assert wide[UNIFORM].isna().all()
    assert wide[WRONG].isna().all()


def test_three_numbers_of_a_method_and_its_sibling_fit_together(measured):
    table = measured.table.dropna(subset=["sibling_share"])
    of_sibling = table.baseline_kl * (1 - table.sibling_share)
    assert of_sibling.to_numpy() == pytest.approx((table.kl / (1 - table.context_share)).to_numpy(), rel=1e-6)
    without = {setting.label for setting in SETTINGS if not setting.shared} | {WRONG}
    alone = measured.table.context_share.isna()
    assert set(measured.table[alone].method) == without
    assert set(measured.table[~alone].method) == set(measured.table.method) - without


def test_a_sibling_is_the_next_context_held_against_queries_that_no_fit_has_seen(model, monkeypatch):
    task = TINY.net.task_of(3)
    monkeypatch.setattr(measuring, "SETTINGS", tuple(one for one in SETTINGS if one.label == "sink"))
    monkeypatch.setattr(measuring, "PAIRS", (1,))
    before = torch.random.get_rng_state()
    rows = measuring.measure(model, task, "chain 0", TINY, 3)
    assert torch.equal(torch.random.get_rng_state(), before)
    first, second = (measuring._asked(model, task, "chain 0", TINY, 3, i) for i in range(2))
    assert not torch.equal(first.case.context, second.case.context)
    held = measuring.without(first.held, second.fit)
    mine, other = (curry(model, one.case.context, "sink", one.fit) for one in (first, second))
    report = compare(mine, first.oracle, held, sibling=other)
    (row,) = [row for row in rows if row["method"] == "sink" and row["index"] == 0]
    assert row["context_share"] == pytest.approx(report.context_share)
    assert row["kl"] == pytest.approx(report.kl.item())
    assert 0 < row["posterior"] < 1


def test_uniform_queries_are_symbols_alone_and_own_ones_know_no_word(model):
    asked = measuring._asked(model, TINY.net.task_of(3), "in deployment", TINY, 3, 0)
    assert asked.uniform.shape == (TINY.fit, TINY.query_length)
    for queries in (asked.uniform, asked.fit, asked.held):
        assert queries.min() >= 1
        assert queries.max() <= 12
    assert asked.case.context.eq(13).sum() == 1


# Settings that are refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ("chain 9",)}, r"sources=\('chain 9',\) must be some of chain 0, chain 1"),
        ({"sources": ()}, r"sources=\(\) must be some of"),
        ({"contexts": 1}, "contexts=1 must be 2 or more: a context's sibling"),
        ({"context_length": 21}, r"context_length=21 and query_length=12 make 34 positions, beyond net.model.n_ctx=33"),
        ({"fit": 1}, "fit=1 and held_out=64 must be 2 or more"),
        ({"steps": -1}, "steps=-1 0 or more"),
    ],
)
def test_settings_that_make_no_study_are_refused_in_one_line(changes, message):
    with pytest.raises(WorkbenchError, match=message) as caught:
        configure(subject.Config, changes)
    assert "\n" not in str(caught.value)


# Claims -------------------------------------------------------------------------------------------

SHARES = {  # source -> method -> share, share of the sibling's W'
    "chain 0": {"sink": (0.95, 0.7), "bigram_shift": (0.5, 0.3)},
    "biased die": {"sink": (0.99, 0.96), "bigram_shift": (0.5, 0.5)},
    "copy 4": {"sink": (0.3, -0.5), "bigram_shift": (0.5, 0.0)},
    "in deployment": {"sink": (0.92, 0.91), "bigram_shift": (0.87, 0.85)},
}
REST = {"kv": 1.0, "none": 0.0, "bias": 0.1, "steer": 0.3, "lora 1": 0.95, "lsq": 0.95, "lsq_o": 0.9}
REST |= dict.fromkeys(("kv_r 1", "kv_r 2", "kv_r 5"), 0.97)


def table(shares=SHARES, uniform: float = 0.02, kv: float = 1.0, fit_error: dict[str, float] | None = None) -> Result:
    """Two seeds of two contexts as the claims expect them."""
    fitted = {"sink": 0.3, "kv_r 1": 0.2, "kv_r 2": 0.1, "kv_r 5": 0.1, "lora 1": 0.25, "lsq": 0.2, "lsq_o": 0.2}
    fitted |= fit_error or {}
    rows = []
    for source, methods in shares.items():
        every = {name: (share, float("nan")) for name, share in REST.items()} | methods
        every |= {UNIFORM: (methods["sink"][0] - uniform, float("nan")), "kv": (kv, float("nan"))}
        for name, (share, sibling) in every.items():
            rows += [
                {"source": source, "index": i, "seed": seed, "method": name, "share": share, "sibling_share": sibling,
                 "context_share": 1 - (1 - share) / (1 - sibling), "fit_error": fitted.get(name, 1.0)}
                for seed in (0, 1)
                for i in (0, 1)
            ]  # fmt: skip
    return Result(pd.DataFrame(rows), {}, run=RUN)


def failing(result: Result) -> set[str]:
    return {claim.sentence[:20] for claim in subject.CLAIMS if not judge("curry_vs_method", claim, result).holds}


def test_the_claims_hold_on_what_they_expect_and_each_can_fail():
    assert failing(table()) == set()

    def but(source: str, **changes: tuple[float, float]) -> set[str]:
        return failing(table({**SHARES, source: {**SHARES[source], **changes}}))

    assert but("chain 0", sink=(0.6, 0.1)) == {"Sink beats every nul"}
    assert but("chain 0", bigram_shift=(0.8, 0.3)) == {"Sink beats every nul"}
    assert but("chain 0", sink=(0.95, 0.93)) == {"On chains it does no"}
    assert but("biased die", sink=(0.99, 0.8)) == {"On a die the sibling"}
    assert but("copy 4", sink=(0.5, 0.3)) == {"On a copied word of "}
    assert but("in deployment", bigram_shift=(0.7, 0.6)) == {"Behind the word a ta"}
    assert but("in deployment", sink=(0.95, 0.5)) == {"There is nothing els"}
    assert failing(table(uniform=0.2)) == {"Uniform queries serv"}
    assert failing(table(kv=0.99)) == {"Cached keys and valu"}
    assert failing(table(fit_error={"kv_r 5": 0.11})) == {"Whoever contains a m"}
    assert failing(table(fit_error={"kv_r 1": 0.31})) == {"One learned pair is "}
