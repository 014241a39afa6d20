"""The study of two kinds of heads: readouts of models with known answers, a small run, claims on made-up tables."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.induction import heads_vs_readout as subject
from toy_models.constructed import induction_circuit

SMALL = {
    "train.steps": 2,
    "train.batch_size": 4,
    "model.d_model": 16,
    "model.n_heads": 4,
    "texts": 8,
    "prompts": 2,
    "excluded": 2,
    "most": 3,
    "draws": 2,
    "seeds": (0,),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A results' folder of the test's own."""
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path / "results"))


def small(**changes) -> subject.Config:
    return study.configure(subject.Config, {**SMALL, **changes})


# Readouts ------------------------------------------------------------------------------------------


class Knowing:
    """Certain of every answer that follows from a text, uniform elsewhere: the best that can be done."""

    def __init__(self, task, few_shot: bool = True, blocks: bool = True):
        self.functions, self.few_shot, self.blocks = task.functions.tolist(), few_shot, blocks

    def __call__(self, tokens):
        logits = torch.zeros(*tokens.shape, 65)
        for row, text in enumerate(tokens.tolist()):
            repeats = len(set(text)) < len(text)
            for i in range(3, len(text)):
                if repeats and self.blocks and text[i] in text[:i]:
                    logits[row, i, text[text.index(text[i]) + 1]] = 100.0
                if not repeats and self.few_shot and i % 2:
                    (function,) = (f for f in self.functions if f[text[1] - 1] == text[2])
                    logits[row, i, function[text[i] - 1]] = 100.0
        return logits


@pytest.mark.parametrize("few_shot", [True, False])
@pytest.mark.parametrize("blocks", [True, False])
def test_each_readout_sees_its_own_ability_and_not_the_other(few_shot, blocks):
    config = small()
    found = subject._read_out(Knowing(config.task, few_shot, blocks), subject._texts(config), [])
    assert found["log_prob"] == pytest.approx(0.0 if few_shot else -math.log(65), abs=1e-5)
    assert found["accuracy"] == (1.0 if few_shot else 0.0)
    assert found["in_context"] == pytest.approx(-math.log(65) if blocks else 0.0, abs=1e-5)


def test_the_induction_circuit_loses_most_of_its_gain_with_its_last_head():
    model, texts = induction_circuit(d_vocab=65, n_ctx=24), subject._texts(small())
    whole, without = (subject._read_out(model, texts, heads)["in_context"] for heads in ([], [(1, 0)]))
    assert whole < -math.log(65)
    # The circuit says BOS at the first position, wrongly and with certainty: that is there in any text, so in the mean.
    assert whole / 2 < without < 0


def test_the_texts_are_what_their_names_say():
    config = small()
    texts = subject._texts(config)
    blocks = texts["blocks"].tokens
    for row, period in zip(blocks.tolist(), [5] * 4 + [8] * 4, strict=True):
        assert row[1 + period] == row[1]
        assert len(set(row[1 : 1 + period])) == period
    assert texts["blocks reference"].shape == blocks.shape
    assert not torch.equal(texts["blocks reference"], blocks)
    assert not torch.equal(texts["few-shot reference"], texts["few-shot"].tokens)
    assert texts["prompts"].shape == texts["shuffled"].shape == (8, 2, 24)
    for f in range(8):
        function = config.task.functions[f]
        assert torch.equal(function[texts["prompts"][f, :, 1:-1:2] - 1], texts["prompts"][f, :, 2::2])
        assert (function[texts["shuffled"][f, :, 1:-1:2] - 1] != texts["shuffled"][f, :, 2::2]).all()
        assert torch.equal(function[texts["shuffled"][f, :, -1] - 1], texts["answers"][f])


def test_groups_go_from_the_best_head_down_and_spare_the_best_of_the_other_kind():
    config = small()
    scores = {
        subject.INDUCTION: np.array([[0.1, 0.2, 0.3, 0.4], [0.9, 0.8, 0.7, 0.0]]),
        subject.FV: np.array([[0.0, 0.0, 0.0, 0.1], [0.5, 0.0, 0.2, 0.6]]),
    }
    ranks = {kind: subject._ranked(scores[kind]) for kind in scores}
    assert ranks[subject.INDUCTION][:4] == [(1, 0), (1, 1), (1, 2), (0, 3)]
    groups = subject._groups(config, ranks, seed=0)
    assert groups[0] == (subject.INDUCTION, 0, [(1, 1), (1, 2), (0, 3), (0, 2), (0, 1), (0, 0)])
    assert groups[1] == (subject.FV, 0, [(1, 3), (1, 2), (0, 3), (0, 0), (0, 1), (0, 2)])
    assert [(kind, draw) for kind, draw, _ in groups[2:]] == [(subject.RANDOM, 0), (subject.RANDOM, 1)]
    assert all(len(set(heads)) == 8 for _, _, heads in groups[2:])
    assert groups[2][2] != groups[3][2]


# Runs ----------------------------------------------------------------------------------------------


def test_a_model_is_measured_with_every_group_and_as_a_whole_when_none_is_ablated():
    rows, scores, backends = subject._measure_one((small(), subject.AFTER, 0))
    table = pd.DataFrame(rows)
    assert set(table.columns) == set(subject.COLUMNS)
    assert table.groupby(["ablated", "draw"]).k.apply(list).tolist() == [[0, 1, 2, 3]] * 4
    assert table[table.k == 0][["accuracy", "log_prob", "in_context"]].drop_duplicates().shape[0] == 1
    assert table.log_prob.nunique() > 4
    assert table.overlap.isna().tolist() == (table.k == 0).tolist()
    assert {name: one.shape for name, one in scores.items()} == {subject.INDUCTION: (2, 4), subject.FV: (2, 4)}
    assert backends


def test_the_untrained_model_is_the_one_that_training_starts_from():
    config = small()
    before, after = (subject._measure_one((config, name, 0))[0] for name in (subject.BEFORE, subject.AFTER))
    start = subject.trained(config, 0).at(0).eval()
    whole = subject._read_out(start, subject._texts(config), [])
    assert {name: before[0][name] for name in whole} == whole
    assert before[0]["log_prob"] != after[0]["log_prob"]


def test_a_run_puts_seeds_into_rows_and_scores_into_arrays():
    found = subject.run(small(seeds=(0, 1)))
    assert list(found.table.columns) == list(subject.COLUMNS)
    assert found.table.groupby(["model", "seed"]).size().tolist() == [16] * 4
    assert set(found.arrays) == {
        subject.MAP.format(one, kind) for one in ("untrained", "trained") for kind in subject.KINDS[:2]
    }
    assert all(one.shape == (2, 2, 4) for one in found.arrays.values())
    assert found.measured_with["task"]["guess"] == 1 / 8


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"most": 7}, r"excluded \+ most at most 8"),
        ({"draws": 0}, "draws=0"),
        ({"texts": 3}, r"texts=3 at least 2 for each period in task.held_out=\(5, 8\)"),
        ({"task.held_out": ()}, r"task.held_out=\(\), of which it needs one"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, complaint):
    with pytest.raises(WorkbenchError, match=complaint):
        small(**changes)


# Claims --------------------------------------------------------------------------------------------


def made_up(column: str = "", value: float = 0.0, ablated: str = "", k: int = 4, model: str = subject.AFTER) -> Result:
    """A table in which every claim holds, changed in one place of one seed."""
    good = {
        subject.INDUCTION: {"accuracy": 0.97, "in_context": -1.5},
        subject.FV: {"accuracy": 0.2, "in_context": -3.95},
        subject.RANDOM: {"accuracy": 0.6, "in_context": -2.5},
    }
    rows = [
        {"model": name, "seed": seed, "ablated": kind, "draw": 0, "k": at, "overlap": 0.25, "rank_correlation": 0.4}
        | {"shuffled_prob": 0.05}
        | (good[kind] if at else {"accuracy": 0.99, "in_context": -4.0})
        for name in (subject.BEFORE, subject.AFTER)
        for seed in range(3)
        for kind in subject.KINDS
        for at in (0, 4)
    ]
    table = pd.DataFrame(rows)
    table.loc[table.model == subject.BEFORE, ["accuracy", "in_context"]] = 0.02, 0.0
    if column in table:
        place = (table.model == model) & (table.k == k) & (table.seed == 1) & (table.ablated == ablated)
        assert place.sum() == 1
        table.loc[place, column] = value
    carried = np.zeros((3, 2, 4))
    carried[1, 1, 2] = value if column == "untrained score" else 0.005
    arrays = {subject.MAP.format(subject.BEFORE, subject.FV): carried}
    return Result(table, arrays, run={"study": "heads_vs_readout", "config_hash": "0" * 12, "profile": "full"})


def failing(result: Result) -> list[str]:
    return [claim.sentence for claim in subject.CLAIMS if not judge("heads_vs_readout", claim, result).holds]


def test_all_claims_hold_on_a_table_where_they_should():
    assert failing(made_up()) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("accuracy", 0.08, subject.RANDOM, 0, subject.BEFORE), "Before training: few-shot accuracy"),
        (("untrained score", 0.02), "Before training no head"),
        (("accuracy", 0.94, subject.RANDOM, 0), "Training solves"),
        (("in_context", -3.4, subject.RANDOM, 0), "And blocks"),
        (("shuffled_prob", 0.2, subject.RANDOM, 0), "Shuffled examples"),
        (("accuracy", 0.98, subject.RANDOM), "Without 4 induction heads it is no lower"),
        (("accuracy", 0.3, subject.FV), "Without 4 FV heads it is no better"),
        (("in_context", -3.6, subject.INDUCTION), "Late less early loss"),
        (("in_context", -3.7, subject.FV), "Without 4 FV heads it hardly"),
        (("overlap", 0.75, subject.RANDOM), "The kinds are mostly"),
        (("rank_correlation", -0.9, subject.RANDOM, 0), "Yet over all heads"),
    ],
)
def test_one_seed_that_misses_its_bound_fails_that_claim_and_no_other(change, sentence):
    (failed,) = failing(made_up(*change))
    assert failed.startswith(sentence)


def test_a_seed_that_loses_as_much_without_induction_heads_fails_both_claims_on_accuracy():
    first, second = failing(made_up("accuracy", 0.35, subject.INDUCTION))
    assert first.startswith("Few-shot accuracy without 4 FV heads")
    assert second.startswith("Without 4 induction heads")
