"""Where answers pile up: the observer on likelihoods with known answers, small runs, and claims on made-up tables."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.counting import count_saturation as subject
from analyses.counting.piling.columns import FLAT, PEAKED, PREDICTIONS, TRAINED, UNTRAINED
from analyses.counting.piling.nets import task_of
from analyses.counting.piling.observer import confusions, observer, total_variation

SMALL = {"train.steps": 2, "train.batch_size": 4, "test_texts": 2000, "length": 20, "most": 20, "seeds": (0, 1)}


@given(counts=st.integers(2, 12), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_the_observer_gives_probabilities_and_leaves_a_sure_count_alone(counts, seed):
    draw = np.random.default_rng(seed)
    likelihood, prior = draw.dirichlet(np.ones(counts), counts), draw.dirichlet(np.ones(counts))
    answers = observer(likelihood, prior)
    assert answers.sum(-1) == pytest.approx(1)
    assert (answers >= 0).all()
    assert observer(np.eye(counts), prior) == pytest.approx(np.eye(counts))
    # an inner count that says nothing leaves the prior, whatever is true
    assert observer(np.full((counts, counts), 1 / counts), prior) == pytest.approx(np.tile(prior, (counts, 1)))


def test_the_observer_of_two_counts_is_the_one_worked_out_by_hand():
    likelihood, prior = np.array([[0.8, 0.2], [0.4, 0.6]]), np.array([0.75, 0.25])
    first, second = 0.6 / 0.7, 0.15 / 0.3  # P(0 | a) for a = 0 and a = 1
    expected = [0.8 * first + 0.2 * second, 0.4 * first + 0.6 * second]
    assert observer(likelihood, prior)[:, 0] == pytest.approx(expected)


def test_confusions_are_the_mean_probabilities_of_the_texts_of_a_count():
    true = torch.tensor([1, 0, 1])
    shares = torch.tensor([[0.2, 0.8], [0.9, 0.1], [0.4, 0.6]], dtype=torch.float64)
    assert confusions(true, shares.log() + 3.0) == pytest.approx(np.array([[0.9, 0.1], [0.3, 0.7]]))
    assert np.isnan(confusions(torch.tensor([1]), torch.zeros(1, 2))[0]).all()


def test_total_variation_is_half_the_sum():
    assert total_variation(np.eye(2), np.eye(2)[::-1]) == 1
    assert total_variation(np.array([[0.5, 0.5]]), np.array([[0.75, 0.25]])) == pytest.approx(0.25)


def test_both_nets_read_the_same_texts_and_differ_in_their_prior_alone():
    config = study.configure(subject.Config, SMALL)
    flat, peaked = (task_of(config, prior) for prior in (FLAT, PEAKED))
    assert (flat.d_vocab, flat.n_ctx) == (peaked.d_vocab, peaked.n_ctx)
    assert len(set(flat.prior)) == 1
    assert peaked.prior[20] > peaked.prior[19] > 0
    assert peaked.prior[0] > peaked.prior[1]


def test_a_seed_has_a_row_for_every_prior_moment_and_count_and_the_same_bits_again():
    config = study.configure(subject.Config, SMALL)
    (rows, tables), (again, others) = (subject._seed((config, 0)) for _ in range(2))
    assert rows == again
    assert all(np.array_equal(tables[name], others[name]) for name in tables)
    table = pd.DataFrame(rows)
    assert table.groupby(["prior", "moment"]).size().to_dict() == {
        (prior, moment): 21 for prior in (FLAT, PEAKED) for moment in (TRAINED, UNTRAINED)
    }
    assert table[table.moment == TRAINED].groupby("prior").texts.sum().to_dict() == {FLAT: 2000, PEAKED: 2000}
    one = table[(table.prior == PEAKED) & (table.moment == TRAINED) & (table["count"] == 10)].iloc[0]
    shares, told = tables[PEAKED][10], np.arange(21)
    assert one.right == pytest.approx(shares[10])
    assert one.wrong_round == pytest.approx(shares[20])
    assert one.bias == pytest.approx(shares @ told - 10)
    assert one.spread == pytest.approx(np.sqrt(shares @ told**2 - (shares @ told) ** 2))
    assert set(tables) == {FLAT, PEAKED, "shifted"}
    assert total_variation(tables["shifted"], tables[FLAT]) > 0.05


def made_up(**changed) -> Result:
    """A table on which every claim holds, changed for one seed."""
    rows = []
    for seed in (10, 11, 12):
        for prior in (FLAT, PEAKED):
            for count in range(41):
                row = {"seed": seed, "prior": prior, "moment": TRAINED, "count": count, "texts": 9, "right": 0.5}
                peaked = prior == PEAKED
                row |= {"wrong_round": 0.3 if peaked else 0.05, "bias": -2.0 if peaked else -0.5, "prediction": ""}
                if seed == 11 and peaked == changed.get("peaked", True):
                    row |= {name: value for name, value in changed.items() if name in row}
                rows.append(row)
        for name, far in zip(PREDICTIONS, changed.get("far", (0.5, 0.3, 0.2, 0.1)), strict=True):
            rows.append({"seed": seed, "prior": PEAKED, "moment": "", "prediction": name, "total_variation": far})
    run = {"study": "count_saturation", "config_hash": "0" * 12, "profile": "full", "config": {"most": 40}}
    return Result(pd.DataFrame(rows), run=run)


@pytest.mark.parametrize(
    ("changed", "fails"),
    [
        ({}, []),
        ({"wrong_round": 0.09}, [0]),
        ({"wrong_round": 0.09, "peaked": False}, [1]),
        ({"bias": -0.4}, [2]),
        ({"far": (0.5, 0.45, 0.2, 0.1)}, [3]),
        ({"far": (0.5, 0.3, 0.45, 0.1)}, [4]),
    ],
    ids=str,
)
def test_claims_hold_where_they_should_and_each_can_fail(changed, fails):
    result = made_up(**changed)
    verdicts = [judge("count_saturation", claim, result).holds for claim in subject.CLAIMS]
    assert [at for at, holds in enumerate(verdicts) if not holds] == fails


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"most": 50}, "most=50 must lie between 20, two round numbers, and length=48"),
        ({"most": 19}, "most=19 must lie between 20"),
        ({"seeds": (0,)}, r"seeds=\(0,\) must be two or more"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(changes, complaint):
    with pytest.raises(WorkbenchError, match=complaint) as caught:
        study.configure(subject.Config, changes)
    assert "\n" not in str(caught.value)
