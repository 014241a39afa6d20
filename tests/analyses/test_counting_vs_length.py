"""Counting as texts grow: ratios that hide counts, what is asked of whom, small runs, and claims on made-up tables."""

import pandas as pd
import pytest

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.counting import counting_vs_length as subject
from analyses.counting.growing import nets
from analyses.counting.growing.columns import BFLOAT16, EXACT, LSTM, NONE, RATIO, RATIOS, ROPE, TRAINED, UNTRAINED
from analyses.counting.growing.ratios import ratio_rows
from toy_models.tasks.count_symbols import BERNOULLI, KINDS, ONES, SUM, WORD

SMALL = {"train.steps": 2, "train.batch_size": 4, "test_texts": 8, "longest": 4, "lengths": (1, 2, 4, 8), "d_model": 8}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_text_and_its_double_are_one_both_ways_and_two_with_a_mask_positions_or_bos(seed):
    found = pd.DataFrame(ratio_rows(seed))
    assert found.groupby("net").size().to_dict() == dict.fromkeys(RATIOS, 3)
    assert found[found.net == RATIO].difference.max() < EXACT
    assert found[found.net != RATIO].difference.min() > 1e-4


def test_no_kind_is_asked_for_a_count_that_training_has_no_answer_for():
    config = study.configure(subject.Config, SMALL)
    for kind in KINDS:
        assert nets.lengths_of(config, kind) == ((1, 2, 3, 4) if kind in (ONES, SUM) else (1, 2, 4, 8))
        assert nets.task_of(kind, 4).largest == 4


@pytest.mark.parametrize(("net", "kind"), [(LSTM, BERNOULLI), (ROPE, WORD), (NONE, SUM)])
def test_a_net_is_asked_before_training_after_it_and_rounded(net, kind):
    config = study.configure(subject.Config, SMALL)
    rows = subject._train_one(config, net, kind, 0)
    assert rows == subject._train_one(config, net, kind, 0)
    table = pd.DataFrame(rows)
    lengths = nets.lengths_of(config, kind)
    texts = 1 if kind == SUM else 8
    assert table.groupby(["moment", "length"]).texts.sum().to_dict() == {
        (moment, length): texts for moment in (UNTRAINED, TRAINED, BFLOAT16) for length in lengths
    }
    assert (table["count"] <= 4).all()
    assert (table.right <= table.texts).all()
    assert ((table.error == 0) == (table.right == table.texts)).all()
    assert (table.bias.abs() <= table.error + 1e-12).all()
    assert set(table.columns) | {"difference"} == set(subject.COLUMNS)


def test_rotary_positions_are_tried_among_other_symbols_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(subject, "run_jobs", lambda function, jobs, label: asked.append(jobs) or [[] for _ in jobs])
    subject.run(study.configure(subject.Config, {"seeds": (3,)}))
    (jobs,) = asked
    cells = {(job[2], job[3]) for job in jobs if job[0] is subject._train_one}
    assert {kind for net, kind in cells if net == ROPE} == {BERNOULLI, WORD}
    assert {kind for net, kind in cells if net == NONE} == set(KINDS)
    assert jobs[-1] == (subject._ratios, 3)


def made_up(changed: dict | None = None) -> Result:
    """A table on which every claim holds, changed for one seed."""
    rows = []
    right = {(NONE, 24): 80, (NONE, 240): 20, (LSTM, 24): 95, (LSTM, 240): 92}
    for seed in (10, 11, 12):
        here = {**right, **(changed or {})} if seed == 11 else right
        for (net, length), share in right.items():
            for moment in (TRAINED, BFLOAT16, UNTRAINED):
                told = {TRAINED: here[net, length], BFLOAT16: here.get(BFLOAT16, share), UNTRAINED: 4}[moment]
                for count, error in ((6, 0.1), (18, here.get("error", 2.0))):
                    row = {"net": net, "kind": BERNOULLI, "seed": seed, "moment": moment, "length": length}
                    rows.append(row | {"count": count, "texts": 100, "right": told, "error": error})
        for net in RATIOS:
            far = here.get(net, 1e-15 if net == RATIO else 0.01)
            rows.append({"net": net, "kind": "", "seed": seed, "moment": "", "length": 5, "difference": far})
    run = {"study": "counting_vs_length", "config_hash": "0" * 12, "profile": "full", "config": {"longest": 24}}
    return Result(pd.DataFrame(rows), run=run)


@pytest.mark.parametrize(
    ("changed", "fails"),
    [
        ({}, []),
        ({RATIO: 2e-12}, [0]),
        ({"with BOS": 1e-5}, [1]),
        ({"causal": 1e-5}, [2]),
        ({"error": 0.05}, [3]),
        ({(NONE, 240): 60}, [4]),
        ({(LSTM, 240): 89}, [5]),
        ({(LSTM, 240): 0, (NONE, 240): 0}, [5]),
        ({BFLOAT16: 50}, [7]),
    ],
    ids=str,
)
def test_claims_hold_where_they_should_and_each_can_fail(changed, fails):
    result = made_up(changed)
    verdicts = [judge("counting_vs_length", claim, result).holds for claim in subject.CLAIMS]
    assert [at for at, holds in enumerate(verdicts) if not holds] == fails


def test_the_claim_on_lstms_can_fail_and_says_why_it_may():
    rows = made_up().table
    rows.loc[(rows.net == LSTM) & (rows.length == 240), "right"] = 10
    result = Result(rows, run=made_up().run)
    verdict = judge("counting_vs_length", subject.CLAIMS[6], result)
    assert not verdict.holds
    assert subject.CLAIMS[5].explanation
    assert subject.CLAIMS[5].source_verdict.startswith("not reproduced")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"nets": ("gru",)}, "nets has 'gru': choose from 'none', 'rope', 'lstm'"),
        ({"kinds": ("twos",)}, "kinds has 'twos': choose from 'ones'"),
        ({"lengths": (8, 4)}, r"lengths=\(8, 4\) must rise and hold longest=24"),
        ({"lengths": (8, 48)}, r"lengths=\(8, 48\) must rise and hold longest=24"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(changes, complaint):
    with pytest.raises(WorkbenchError, match=complaint) as caught:
        study.configure(subject.Config, changes)
    assert "\n" not in str(caught.value)
