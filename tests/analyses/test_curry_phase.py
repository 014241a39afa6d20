"""Whether a context fits, by what training selected: rows, nulls, and numbers that have a known answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analyses.core.config import configure
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.currying import curry_phase as subject
from analyses.currying.nets.contexts import Case
from analyses.currying.phase import measures
from toy_models.tasks.chain_pool import WAYS, ChainPool

SMALL = {
    **{"n_chains": (4, 0), "steps": (0, 400, 1600), "contexts": 1, "texts": 8, "seeds": (0,)},
    **{"queries.fit": 64, "queries.held_out": 24},
}
TASK = ChainPool(n_symbols=3, n_ctx=40, n_chains=4)


@pytest.fixture(scope="module")
def measured() -> Result:
    return subject.run(configure(subject.Config, SMALL))


def test_every_moment_of_every_model_is_measured_and_only_the_last_beside_the_nulls(measured):
    table = measured.table
    assert list(table) == list(subject.COLUMNS)
    assert table.groupby(["n_chains", "step"]).size().tolist() == [1] * 6
    nulls = table[[*subject.NULLS, "lsq_o", "sibling"]]
    assert nulls[table.step == 1600].notna().all(axis=None)
    assert nulls[table.step < 1600].isna().all(axis=None)
    assert table.drop(columns=list(nulls)).query("step > 0").notna().all(axis=None)


def test_an_untrained_model_hears_the_same_whoever_asks(measured):
    born = measured.table[measured.table.step == 0]
    assert (born.rho_last < 0.1).all()
    assert (measured.table.rho_look_up.between(0, 1)).all()


def test_weights_are_shares_of_the_ways_that_there_are(measured):
    weights = measured.arrays["weights (chains, step, seed, way)"]
    assert weights.shape == (2, 3, 1, 4)
    np.testing.assert_allclose(weights[0].sum(-1), 1, atol=1e-9)
    np.testing.assert_allclose(weights[1][..., 2:].sum(-1), 1, atol=1e-9)
    assert np.isnan(weights[1][..., :2]).all()
    told = measured.table.groupby(["n_chains", "step"]).inference.first()
    assert told[4].tolist() == weights[0, :, 0, WAYS.index("bigram inference")].tolist()
    assert (measured.arrays["calibration (chains, seed)"] > 0.99).all()


def test_the_losses_are_above_the_exact_ones_of_the_same_texts(measured):
    losses = measured.arrays["losses (chains, step, seed, which)"][:, -1, 0]
    own, fresh, exact, exact_fresh = losses.T
    assert own[0] > exact[0]
    assert (fresh > exact_fresh).all()
    assert fresh[0] > own[0] + 0.5  # four chains help nobody on a fifth


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_is_one_way_gets_its_weight_and_no_residual(way):
    class One(torch.nn.Module):
        def forward(self, tokens):
            return TASK.way(way, tokens)

    found = measures.voice(One(), TASK, replace(TASK, n_chains=0), 32, 0)
    assert found.weights[WAYS.index(way)] == pytest.approx(1, abs=2e-2)
    assert found.residual < 1e-2


def test_a_head_that_looks_up_is_told_apart_by_who_asks():
    """By hand: behind 1 comes 2 always, behind 2 comes 1 always; half of the queries ask for each."""
    context = torch.tensor([1, 2] * 8)
    case = Case("", context, context, context)
    alone, both = torch.full((4, 5), 1), torch.tensor([[1, 2]] * 3)
    assert measures.looked_up(case, alone) == pytest.approx(0)
    assert measures.looked_up(case, both) == pytest.approx(0.5)
    assert measures.looked_up(case, torch.tensor([[1, 2, 3, 3]] * 3)) == pytest.approx(0.5)  # 3 was never seen


def test_claims_read_what_they_name(measured):
    result = Result(
        measured.table, measured.arrays, run={"config": {**SMALL, "steps": [0, 400, 1600], "n_chains": [4, 0]}}
    )
    assert subject.final(result, "sink").shape == (1, 2)
    assert subject.final(result, "sink").columns.tolist() == [4, 0]
    by_words = {claim.sentence: claim.measure(result) for claim in subject.CLAIMS}
    last = measured.table[measured.table.step == 1600].set_index("n_chains")
    (ahead,) = by_words["There it removes more than every null (bias, steer, bigram shift), in every seed"]
    assert ahead == pytest.approx(last.sink[4] - max(last[name][4] for name in subject.NULLS))
    assert by_words["Most of it between 16 and 64 chains"] == []
    (trend,) = by_words["The share falls as the pool grows: rank correlation with K"]
    assert trend == pytest.approx(-1.0 if last.sink[0] < last.sink[4] else 1.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_chains": (64, 4)}, r"n_chains=\(64, 4\) must rise"),
        ({"n_chains": (0, 4)}, "must rise"),
        ({"steps": (0, 300, 1600)}, r"steps=\(0, 300, 1600\)"),
        ({"steps": (0, 400)}, "end at"),
        ({"context_length": 40}, "beyond n_ctx=49"),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(settings, words):
    with pytest.raises(WorkbenchError, match=words):
        configure(subject.Config, settings)
