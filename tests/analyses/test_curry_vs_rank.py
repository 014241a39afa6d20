"""The study of ranks: facts are what the words have, truncation is the nearest of its rank, and claims can fail."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.core.claims import judge
from analyses.core.config import configure
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.currying import curry_vs_rank as subject
from analyses.currying.ranks import measuring, subjects
from probes.currying.curried import NULLS, curry
from probes.currying.fitted import wide
from toy_models.seeding import generator
from toy_models.transformer import Transformer

RUN = {"study": "curry_vs_rank", "config_hash": "0" * 12, "profile": "custom"}
TINY = configure(
    subject.Config,
    {
        **{"net.model.d_model": 16, "net.model.d_mlp": 32, "net.train.steps": 5, "net.train.batch_size": 8},
        **{"pools.model.d_model": 16, "pools.model.d_mlp": 32, "pools.train.steps": 12, "pools.train.batch_size": 8},
        **{"pools.train.checkpoint_every": 12, "sources": ("copy 4", "fresh"), "pairs": 3, "ranks": (1, 2)},
        **{"fit": 24, "held_out": 12, "steps": 1, "seeds": (3,)},
    },
)


@pytest.fixture(scope="module")
def measured(run_here) -> Result:
    found = run_here(subject.run, TINY)
    return replace(found, run={**RUN, **found.measured_with})


# What is measured ---------------------------------------------------------------------------------


def test_every_method_has_a_row_at_every_rank(measured):
    table = measured.table
    assert list(table.columns) == list(subject.COLUMNS)
    for _, one in table.groupby("source"):
        ranks = one.groupby("method").r.apply(list).to_dict()
        assert ranks["kv_r"] == [1, 2, 3]
        assert ranks["lora"] == [1, 2]
        assert ranks["lsq_o"] == [1, 2, 16]
        assert set(ranks) == {"kv", "kv_r", "lora", "lsq_o", "sink", "sibling", "wrong task", *NULLS}
    assert list(table.source.unique()) == ["copy 4", "fresh"]
    assert (table[table.source == "copy 4"].facts == 4).all()


def test_the_cache_is_exact_none_removes_nothing_and_more_never_fits_worse(measured):
    table = measured.table.set_index("method")
    assert table.loc["kv", "kl"].max() < 1e-9
    assert (table.loc["none", "kl"] == table.loc["none", "baseline_kl"]).all()
    assert max(subject._rises(measured)) <= 1e-6
    ends = measured.table[measured.table.method == "kv_r"].groupby("source").fit_error.agg(["first", "last"])
    assert (ends["last"] <= ends["first"]).all()


def test_r90_is_the_least_number_of_pairs_that_removes_enough(measured):
    for _, one in measured.table.groupby("source"):
        pairs = one[one.method == "kv_r"].set_index("r").share
        enough = [r for r, share in pairs.items() if share >= measuring.ENOUGH]
        assert one.enough.unique().tolist() == [enough[0] if enough else TINY.pairs + 1]


# Contexts -----------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(13, 40), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_word_of_different_letters_has_as_many_facts_as_letters(period, length, seed):
    text = subjects.word(period, 12, length, torch.Generator().manual_seed(seed))
    assert subjects.facts(text) == period
    assert torch.equal(text[period:], text[:-period])
    assert text.min() >= 1
    assert text.max() <= 12


def test_what_nothing_follows_is_no_fact():
    assert subjects.facts(torch.tensor([1, 2, 1, 2, 3])) == 2


def test_a_source_is_of_the_pools_by_its_name():
    names = ("fresh", "K=4", "K=0", "K=", "chain 0", "K=four")
    assert [subjects.in_pools(name) for name in names] == [True, True, False, False, False, False]


# Truncation ---------------------------------------------------------------------------------------


def test_a_truncated_update_is_the_nearest_of_its_rank():
    model = Transformer(TINY.net.model, seed=0)
    draw = generator(0, "truncated")
    context, fit = torch.randint(1, 13, (8,), generator=draw), torch.randint(1, 13, (12, 6), generator=draw)
    for method, options in (("lsq_o", {}), ("lsq", {"steps": 1})):
        whole = curry(model, context, method, fit, **options)
        for rank in (1, 3):
            near = measuring.truncated(whole, model, rank)
            for name, change in whole.weight_update.items():
                s = torch.linalg.svdvals(wide(name, change))
                left = (wide(name, change) - wide(name, near.weight_update[name])).norm()
                assert torch.linalg.matrix_rank(wide(name, near.weight_update[name]), rtol=1e-4) <= rank
                assert left.item() == pytest.approx(s[rank:].norm().item(), rel=1e-3, abs=1e-5)
                moved = near.model.get_parameter(name) - model.get_parameter(name)
                assert torch.allclose(moved, near.weight_update[name], atol=1e-5)
        full = measuring.truncated(whole, model, 16)
        assert torch.allclose(full.logits(fit), whole.logits(fit), atol=1e-4)


# Settings that are refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ("chain 9",)}, r"sources=\('chain 9',\) must be some of chain 0"),
        ({"sources": ("K=0",)}, "K=<chains> and fresh"),
        ({"pairs": 26}, "pairs=26 must lie between 1 and 25"),
        ({"ranks": (2, 1)}, r"ranks=\(2, 1\) must rise from 1 or more to at most d_model=48"),
        ({"ranks": (1, 49)}, "at most d_model=48"),
        ({"fit": 0}, "fit=0"),
    ],
)
def test_settings_that_make_no_study_are_refused_in_one_line(changes, message):
    with pytest.raises(WorkbenchError, match=message) as caught:
        configure(subject.Config, changes)
    assert "\n" not in str(caught.value)


# Claims -------------------------------------------------------------------------------------------

ENOUGH = {"copy 2": (2, 3), "copy 4": (4, 4), "copy 8": (8, 8), "chain 0": (9, 1), "biased die": (6, 1)}
ENOUGH |= {"K=4": (6, 1), "fresh": (7, 9)}  # source -> facts, r_90
FLAT = {"chain 0": (0.92, 0.96), "biased die": (0.99, 1.0), "K=4": (0.95, 0.99)}  # share with 1 and 5 pairs


def table(enough=ENOUGH, flat=FLAT, kv: float = 1.0, rise: float = 0.0) -> Result:
    """Two seeds as the claims expect them."""
    rows = []
    for seed in (0, 1):
        for source, (facts, least) in enough.items():
            shared = {"source": source, "index": 0, "seed": seed, "facts": facts, "enough": least}
            one, five = flat.get(source, (0.2, 0.8))
            for method, r, share, error in (
                *(("kv", 0, kv, 0.0), ("kv_r", 1, one, 0.3), ("kv_r", 5, five, 0.2 + rise)),
                *(("lora", 1, one, 0.3), ("lora", 8, one, 0.3)),
            ):
                rows.append({**shared, "method": method, "r": r, "share": share, "fit_error": error})
    return Result(pd.DataFrame(rows), {}, run=RUN)


def failing(result: Result) -> set[str]:
    return {claim.sentence[:14] for claim in subject.CLAIMS if not judge("curry_vs_rank", claim, result).holds}


def test_the_claims_hold_on_what_they_expect_and_each_can_fail():
    assert failing(table()) == set()
    assert failing(table(kv=0.99)) == {"All keys and v"}
    assert failing(table(rise=0.2)) == {"More pairs, or"}
    few = {"copy 2": (2, 3), "copy 4": (4, 3), "copy 8": (8, 4)}
    assert failing(table({**ENOUGH, **few})) == {"Copying needs "}
    assert failing(table({**ENOUGH, "chain 0": (9, 6)})) == {"And more than "}
    assert failing(table({**ENOUGH, "fresh": (7, 2)})) == {"A fresh chain "}
    assert failing(table(flat={**FLAT, "chain 0": (0.7, 0.95)})) == {"A chain is fla"}
    assert failing(table(flat={**FLAT, "biased die": (0.7, 0.95)})) == {"A die is flat:"}
    assert failing(table(flat={**FLAT, "K=4": (0.7, 0.95)})) == {"One pair holds"}
