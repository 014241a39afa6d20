"""Texts beyond the training length: what is asked, the cell that counts, and the claims on made-up tables."""

import numpy as np
import pandas as pd
import pytest

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.counting import length_generalisation as subject
from analyses.counting.stretching.arms import CONSTRUCTED, COUNTED, TASKS, asked_at, net, trained_on
from analyses.counting.stretching.cells import counter
from toy_models.counter import counted, counting_cell
from toy_models.recurrent import RecurrentConfig
from toy_models.seeding import generator

LSTM = "lstm"
SMALL = {
    "train.steps": 2,
    "train_lstm.steps": 2,
    "train_counter.steps": 2,
    "texts": 8,
    "stretch": (1, 2),
    "longest": 10,
}


def small(**changes) -> subject.Config:
    return study.configure(subject.Config, {**SMALL, "seeds": (0,), **changes})


@pytest.mark.parametrize("label", TASKS)
def test_a_test_has_texts_of_the_length_that_it_names_in_the_vocabulary_of_training(label):
    short, long = trained_on(label, 20), asked_at(label, 20, 80)
    assert (short.longest, long.longest) == (20, 80)
    assert short.d_vocab == long.d_vocab
    sizes = (long.sample(200, generator(0)).tokens != 0).sum(-1)
    if label == COUNTED:
        assert set((sizes // 2).tolist()) == set(range(72, 81))
    else:
        assert set(sizes.tolist()) == {81}


@pytest.mark.parametrize("label", TASKS)
def test_the_chance_that_is_drawn_is_that_of_the_commonest_answer(label):
    batch = asked_at(label, 20, 40).sample(2000, generator(0))
    said = batch.targets[batch.scored].bincount()
    if label == COUNTED:
        assert len(said.nonzero()) == 2  # one token said throughout leaves the end or the b's out
        assert TASKS[label].chance == 0.0
    else:
        assert said.max().item() / said.sum().item() == pytest.approx(TASKS[label].chance, abs=0.05)


@pytest.mark.parametrize(("label", "arm"), [(COUNTED, LSTM), ("parity", LSTM), ("Dyck-1", "alibi")])
def test_a_run_has_one_row_a_length_and_a_cell_where_an_lstm_learned_to_count_and_comes_out_again_alike(label, arm):
    rows, cell, ran = subject._train_one((small(), label, arm, 3))
    assert [(row["task"], row["arm"], row["seed"]) for row in rows] == [(label, arm, 3)] * 2
    assert [(row["stretch"], row["length"]) for row in rows] == [(1, 10), (2, 20)]
    assert all(set(row) <= set(subject.COLUMNS) for row in rows)
    assert (cell is not None) == (label == COUNTED)
    assert cell is None or cell.shape == (41,)
    assert bool(ran) == (arm != LSTM)
    again, same, _ = subject._train_one((small(), label, arm, 3))
    assert rows == again
    assert cell is None or np.array_equal(cell, same)


def test_nets_are_as_wide_as_the_study_says():
    task = trained_on("parity", 20)
    assert isinstance(net(LSTM, task, 50), RecurrentConfig)
    assert net(LSTM, task, 50).d_hidden == 32
    found = net("rope", task, 50)
    assert (found.d_model, found.n_layers, type(found.position).__name__) == (32, 2, "Rope")


def test_the_cell_set_by_hand_is_found_to_count_and_a_leaky_one_to_fall_short_as_its_formula_says():
    found = counter(counting_cell(60), 50)
    assert (found.up, found.down) == pytest.approx((1, -1), abs=1e-12)
    assert found.r2 == pytest.approx(1, abs=1e-12)
    assert found.drift == 0
    leaky = counter(counting_cell(60, saturation=3.0), 50)
    assert leaky.cell[50] == pytest.approx(counted(50, 0, 3.0), rel=1e-9)
    assert leaky.r2 < 0.8
    assert leaky.drift > 20
    assert list(found.count[48:53]) == [48, 49, 50, 49, 48]


def test_the_constructed_row_is_right_at_a_thousand():
    (row,), arrays = subject._constructed(small())
    assert (row["accuracy"], row["cell_drift"], row["length"]) == (1.0, 0.0, 1000)
    assert np.array_equal(arrays["count (pos)"], arrays["constructed cell (pos)"])
    assert len(arrays["count (pos)"]) == 41


def test_what_cannot_be_run_is_refused_in_one_line():
    for changes, complaint in (
        ({"tasks": ("parsing",)}, "no task 'parsing': choose from 'a.n b.n', 'majority'"),
        ({"arms": ("nope",)}, "no net 'nope': choose from 'none', 'learned', 'rope', 'alibi', 'lstm'"),
        ({"longest": 11}, "longest=11 must be even"),
        ({"stretch": (2, 4)}, r"stretch=\(2, 4\) must start at 1"),
        ({"stretch": (1, 4, 2)}, "must start at 1, the training length, and rise"),
    ):
        with pytest.raises(WorkbenchError, match=complaint) as caught:
            small(**changes)
        assert "\n" not in str(caught.value)


# Claims ---------------------------------------------------------------------------------------------

GOES_ON = {("even pairs", "rope"), *((task, LSTM) for task in TASKS)} | {
    (task, arm) for task in (COUNTED, "majority") for arm in ("none", "alibi")
}


def made_up(at: dict | None = None) -> Result:
    """A table in which every claim holds, changed for one seed where the test says."""
    rows = []
    for task, asked in TASKS.items():
        for arm in subject.ARMS:
            for seed in range(5):
                for stretch in (1, 2, 4, 10):
                    learned = stretch == 1 and task not in ("parity", "sum mod 3")
                    right = 1.0 if learned or (task, arm) in GOES_ON else asked.chance
                    row = {"task": task, "arm": arm, "seed": seed, "stretch": stretch, "accuracy": right}
                    counts = task == COUNTED and arm == LSTM and stretch == 10
                    cell = {"cell_r2": 0.999, "cell_up": -2.0, "cell_down": 2.0} if counts else {}
                    rows.append(row | {"length": 20 * stretch, "chance": asked.chance} | cell)
    hand = {"task": COUNTED, "arm": CONSTRUCTED, "seed": 0, "stretch": 50.0, "length": 1000, "accuracy": 1.0}
    rows.append(hand | {"cell_r2": 1.0, "cell_up": 1.0, "cell_down": -1.0, "cell_drift": 0.0})
    table = pd.DataFrame(rows, columns=list(subject.COLUMNS))
    for (task, arm, stretch, column), (seeds, value) in (at or {}).items():
        chosen = (table.task == task) & (table.arm == arm) & (table.stretch == stretch) & table.seed.isin(seeds)
        assert chosen.any()
        table.loc[chosen, column] = value
    return Result(table, run={"study": "length_generalisation", "config_hash": "0" * 12, "profile": "full"})


def failing(result: Result) -> list[int]:
    verdicts = [judge("length_generalisation", claim, result) for claim in subject.CLAIMS]
    return [at for at, verdict in enumerate(verdicts) if not verdict.holds]


def test_all_claims_hold_on_a_table_where_they_should():
    assert failing(made_up()) == []


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        (0, {(COUNTED, CONSTRUCTED, 50, "cell_drift"): ([0], 1e-6)}),
        (1, {(COUNTED, CONSTRUCTED, 50, "accuracy"): ([0], 0.0)}),
        (2, {(COUNTED, LSTM, 2, "accuracy"): ([3], 0.98)}),
        (3, {(COUNTED, LSTM, 10, "accuracy"): ([1, 2, 3], 0.9)}),
        (4, {(COUNTED, LSTM, 10, "cell_r2"): ([3], 0.98)}),
        (5, {(COUNTED, LSTM, 10, "cell_down"): ([3], 1.8)}),
        (5, {(COUNTED, LSTM, 10, "cell_down"): ([3], -2.0)}),
        (6, {("parity", "alibi", 4, "accuracy"): ([3], 0.85)}),
        (7, {("parity", "rope", 1, "accuracy"): ([3], 0.8)}),
        (8, {("parity", LSTM, 10, "accuracy"): ([1, 2], 0.7)}),
        (9, {("majority", arm, stretch, "accuracy"): ([3], 0.6) for arm in subject.ARMS[:4] for stretch in (2, 4, 10)}),
        (10, {("even pairs", "rope", 10, "accuracy"): ([3], 0.6)}),
    ],
)
def test_a_claim_that_is_contradicted_fails_and_no_other(number, changes):
    assert failing(made_up(changes)) == [number]


def test_the_replication_that_two_seeds_contradicted_says_why():
    claim = subject.CLAIMS[10]
    assert claim.kind == "replication"
    assert claim.explanation
    assert claim.source_verdict.startswith("not reproduced")


def test_one_seed_of_five_does_not_move_a_median():
    assert failing(made_up({(COUNTED, LSTM, 10, "accuracy"): ([1, 2], 0.0)})) == []
