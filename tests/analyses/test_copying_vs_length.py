"""Copying: constructed answers measure as they must, a small run, critical lengths, claims on made-up tables."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.counting import copying_vs_length as subject
from analyses.counting.copying import arms, claims, measures
from analyses.counting.copying.arms import ARMS
from analyses.counting.nets.arms import transformer
from toy_models import Transformer
from toy_models.seeding import generator
from toy_models.tasks.copy_end import CopyEnd

SMALL = {"train.steps": 2, "train.batch_size": 4, "recall_train.steps": 30, "recall_train.batch_size": 4}
SMALL |= {"lengths": (4, 40), "recall_lengths": (3, 6), "texts": 2, "seeds": (0,)}
LENGTHS = (8, 16, 32, 64, 128, 256, 512)


def small(**changes) -> subject.Config:
    return study.configure(subject.Config, {**SMALL, **changes})


# What is measured ----------------------------------------------------------------------------------


def net(**options) -> Transformer:
    return Transformer(transformer(CopyEnd(symbols=4), 64, **options), seed=0)


def test_a_row_is_the_answer_of_a_plain_forward_pass_in_both_kinds_of_text():
    model, task = net(position="rope"), CopyEnd(symbols=4)
    with torch.no_grad():
        model.unembed.b_U.sub_(100)  # all logits below 0: a margin must not count the right token as 0
    (row,) = measures.copied(model, task, (12,), 6, 0)
    for odd, accuracy, margin in ((True, "accuracy", "margin"), (False, "accuracy_same", "margin_same")):
        batch = task.at(12, odd=odd).sample(6, generator(0, "test", 12))
        with torch.no_grad():
            logits = model(batch.tokens)[:, -1]
        target = batch.targets[:, -1]
        others = [max(x for i, x in enumerate(line) if i != y) for line, y in zip(logits.tolist(), target, strict=True)]
        margins = logits[range(6), target] - torch.tensor(others)
        assert row[accuracy] == (logits.argmax(-1) == target).double().mean().item()
        assert row[margin] == pytest.approx(margins.mean().item(), abs=1e-4)
    assert 0 < row["apart"] < 2


def test_both_kinds_of_text_differ_in_the_asked_for_end_alone():
    for which, place in (("last", -2), ("first", 1)):
        odd, same = (CopyEnd(which).at(9, odd=kind).sample(5, generator(1)).tokens for kind in (True, False))
        assert ((odd != same).sum(-1) == 1).all()
        assert (odd[:, place] != same[:, place]).all()


def test_a_text_and_its_doubling_are_one_without_mask_and_positions_and_nowhere_else():
    task = CopyEnd(symbols=4)
    for position in ("none", "rope"):
        for row in measures.doubled(net(position=position), task, 10, 0):
            assert (row["apart"] < 1e-12) == (position == "none" and row["test"] == "no mask")
            assert row["apart"] < 1e-12 or row["apart"] > 1e-3
            assert row["length"] == 12


def test_another_dtype_is_a_copy_and_leaves_the_model_as_it_was():
    model = net(position="none")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    coarse = measures.in_dtype(model, "bfloat16")
    assert coarse.cfg.dtype == torch.bfloat16
    assert measures.in_dtype(model, "float32") is model
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_updates_count_until_the_mean_of_the_last_losses_is_low():
    losses = [2.0] * 40 + [0.0] * 60
    # Of the last 25, at most 3 may be 2.0: 6 / 25 < 0.3.
    assert measures.updates_until(losses) == 40 + 22
    assert measures.updates_until([2.0] * 100) == 100


# Runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [arms.name("last", "none"), arms.WINDOWED, arms.TRAINED_SEPARATED])
def test_an_arm_is_tested_on_every_text_and_in_bfloat16_and_again_alike(name):
    rows = subject._train_one((small(), "copy", name, 0))
    table = pd.DataFrame(rows)
    assert list(table) == list(subject.COLUMNS)
    copied = table[table.case == "copy"]
    found = copied.groupby(["moment", "test", "dtype"]).length.apply(list).to_dict()
    text = ARMS[name].text
    expected = {("trained", test, "float32") for test in arms.TESTS}
    assert set(found) == expected | {("untrained", text, "float32"), ("trained", text, "bfloat16")}
    assert all(lengths == [4, 40] for lengths in found.values())
    assert (table.case == "doubled").sum() == (2 if name == "last, none" else 0)
    pd.testing.assert_frame_equal(table, pd.DataFrame(subject._train_one((small(), "copy", name, 0))), check_exact=True)


def test_recall_is_measured_before_and_after_training():
    table = pd.DataFrame(subject._train_one((small(), "recall", "before", 0)))
    assert table.groupby("moment").length.apply(list).to_dict() == {"trained": [3, 6], "untrained": [3, 6]}
    assert (table.updates[table.moment == "trained"] == 30).all()


def test_quick_arms_are_among_the_arms_and_texts_are_what_their_names_say():
    assert set(study.configure(subject.Config, subject.QUICK).arms) < set(ARMS)
    task = CopyEnd(symbols=4)
    assert arms.asked(task, "first", "separated") == CopyEnd("first", symbols=4, separator=3)
    assert arms.asked(task, "last", "alternating") == CopyEnd(symbols=4, alternating=True)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"arms": ("middle, rope",)}, "no arm 'middle, rope': choose from last, none"),
        ({"directions": ("between",)}, "no direction 'between': choose from after, before"),
        ({"lengths": (8, 8)}, r"lengths=\(8, 8\) must rise, from 2 on"),
        ({"texts": 0}, "texts=0 must be at least 1"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(changes, complaint):
    with pytest.raises(WorkbenchError, match=complaint) as caught:
        small(**changes)
    assert "\n" not in str(caught.value)


# Claims --------------------------------------------------------------------------------------------

REACH = {"last, rope": 64, "first, rope": 32, arms.TRAINED_SEPARATED: 64, arms.TRAINED_ALTERNATING: 32}
REACH |= {arms.FIRST_ALTERNATING: 128, arms.NONE_ALTERNATING: 1}
AS_EXPLAINED = [2, 3, 4, 6, 7, 9, 10]


def made_up(reach: dict | None = None, recall: dict | None = None, doubled: float = 0.5, apart=lambda n, born: 1.0):
    """A table like that of the pilots; `apart` multiplies 1/n before training, and 1 after it."""
    rows = []
    for arm, of in ARMS.items():
        for seed in range(3):
            tests = [(test, "float32") for test in arms.TESTS] + [(of.text, "bfloat16")]
            for (test, dtype), n in product(tests, LENGTHS):
                limit = 1 if arm == "last, none" and test == "alternating" else REACH.get(arm, 512)
                limit = (reach or {}).get((arm, test, dtype), limit)
                row = {"case": "copy", "arm": arm, "seed": seed, "test": test, "dtype": dtype, "length": n}
                row |= {"accuracy": float(n <= limit), "accuracy_same": 1.0}
                rows.append(row | {"moment": "trained", "apart": apart(n, False)})
                if test == of.text and dtype == "float32":
                    rows.append(row | {"moment": "untrained", "apart": apart(n, True) / n, "accuracy": 0.0})
            for test in ("no mask", "causal mask"):
                same = of.position == "none" and test == "no mask"
                row = {"case": "doubled", "arm": arm, "seed": seed, "test": test}
                rows.append(row | {"apart": 1e-16 if same else doubled})
    right = {"after": (1.0, 200), "before": (0.95, 800)} | (recall or {})
    for arm, (accuracy, updates) in right.items():
        row = {"case": "recall", "arm": arm, "moment": "trained", "length": 6}
        rows += [row | {"seed": seed, "accuracy": accuracy, "updates": updates} for seed in range(3)]
    config = {"recall": {"longest": 6}, "task": {"longest": 32}}
    run = {"study": "copying_vs_length", "config_hash": "0" * 12, "profile": "full", "config": config}
    return Result(pd.DataFrame(rows), run=run)


def failing(result: Result) -> list[int]:
    verdicts = [judge("copying_vs_length", claim, result) for claim in subject.CLAIMS]
    return [at for at, verdict in enumerate(verdicts) if not verdict.holds]


def test_the_table_of_the_pilots_fails_the_replications_that_say_why():
    assert failing(made_up()) == AS_EXPLAINED
    assert all(subject.CLAIMS[at].explanation and subject.CLAIMS[at].source_verdict for at in AS_EXPLAINED)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"reach": {("first, rope", "plain", "float32"): 128}}, {2}),
        ({"reach": {("last, none", "plain", "float32"): 256}}, {3}),
        ({"reach": {("last, none", "plain", "bfloat16"): 256}}, {4}),
        ({"apart": lambda n, born: n if born else 1.0}, {5}),
        ({"apart": lambda n, born: 1.0 if born or n <= 32 else 0.3}, {6}),
        ({"reach": {("last, rope", "separated", "float32"): 128}}, {7}),
        ({"reach": {(arms.TRAINED_SEPARATED, "separated", "float32"): 8}}, {8}),
        ({"reach": {("last, rope", "alternating", "float32"): 128}}, {9}),
        ({"reach": {(arms.TRAINED_ALTERNATING, "alternating", "float32"): 128}}, {10, 12, 13}),
        ({"reach": {(arms.WINDOWED, "plain", "float32"): 64}}, {11}),
        ({"reach": {(arms.FIRST_ALTERNATING, "alternating", "float32"): 16}}, {13}),
        ({"reach": {("last, none", "alternating", "float32"): 8}}, {14}),
        ({"reach": {(arms.NONE_ALTERNATING, "alternating", "float32"): 64}}, {15}),
        ({"recall": {"after": (0.89, 200)}}, {16}),
        ({"recall": {"before": (0.85, 800)}}, {17, 18}),
        ({"recall": {"before": (0.95, 210)}}, {19}),
        ({"doubled": 1e-4}, {1}),
    ],
)
def test_another_outcome_turns_its_claim_and_no_other(changes, verdict):
    assert set(failing(made_up(**changes))) == set(AS_EXPLAINED) ^ verdict


def test_a_tie_that_breaks_by_more_than_rounding_fails_the_identity():
    result = made_up()
    alike = (result.table.test == "no mask") & (result.table.arm == "last, none")
    result.table.loc[alike & (result.table.seed == 1), "apart"] = 1e-11
    assert failing(result) == [0, *AS_EXPLAINED]


def test_a_critical_length_ends_at_the_first_failure_of_either_kind():
    rows = pd.DataFrame({"length": LENGTHS, "accuracy": [1, 1, 0.8, 1, 1, 1, 1], "accuracy_same": 1.0})
    assert claims.critical_length(rows.sample(frac=1, random_state=0)) == 16
    assert claims.critical_length(rows.assign(accuracy=1.0)) == 512
    assert claims.critical_length(rows.assign(accuracy_same=np.nan)) == 1
