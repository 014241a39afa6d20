"""The study of sinks: weights set by hand measure as they must, small runs, and the claims on made-up tables."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.glasses import sink_necessity as subject
from analyses.glasses.trigger import measures
from analyses.glasses.trigger.arms import ALONE, ALWAYS, ARMS, DEEP, DEEP_RELU, TRAINED, UNTRAINED
from analyses.glasses.trigger.measures import measure, reader
from analyses.glasses.trigger.training import build, fit, written
from toy_models.errors import TrainingError
from toy_models.seeding import generator
from toy_models.tasks.trigger import Trigger

SMALL = {"train.steps": 3, "train.batch_size": 8, "test_texts": 64, "seeds": (0,)}


def small(**changes) -> subject.Config:
    return study.configure(subject.Config, {**SMALL, **changes})


def solved(name: str, sharpness: float = 60.0):
    """An arm's model with weights by hand: the trigger attends evenly to all but the first, others nowhere.

    Queries are (1 if trigger else 0, 1), keys (how much a trigger wants the token, how much any other does).
    """
    config = small()
    model, task = build(ARMS[name], config.model, config.task, seed=0)
    attn, d = model.blocks[0].attn, task.d_model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        attn.W_V[0], attn.W_O[0] = torch.eye(d), torch.eye(d)
        attn.W_V[0, 0] = 0.0  # the first token's value says nothing
        scale = d**0.5
        attn.W_Q[0, 1, 0] = attn.W_Q[0, -1, 1] = scale
        # ordinary and trigger keys, to a trigger and to an ordinary token
        relu = "ReLU" in name
        attn.W_K[0, 1, 0] = attn.W_K[0, -1, 0] = 1.0 if relu else 0.0
        attn.W_K[0, 0, 0] = 0.0 if relu else -sharpness
        attn.W_K[0, 0, 1] = 0.0 if relu else sharpness
    return model, task


@pytest.mark.parametrize("name", ["softmax", "ReLU"])
def test_a_head_set_by_hand_solves_the_task_with_a_sink_under_softmax_and_without_under_relu(name):
    model, task = solved(name)
    batch = task.sample(64, generator(0, "test"))
    with torch.no_grad():
        torch.testing.assert_close(written(model, batch), batch.targets, rtol=0, atol=1e-6)
    row, pattern = measure(model, batch)
    assert row["worst"] < 1e-6
    assert row["first_other"] == pytest.approx(1.0 if name == "softmax" else 0.0, abs=1e-6)
    assert row["first_trigger"] == pytest.approx(0.0, abs=1e-6)
    assert row["rate_gu"] == row["rate_barbero"] == (1.0 if name == "softmax" else 0.0)
    assert row["value_ratio"] == row["carried"] == 0
    assert row["hidden_error_trigger"] < 1e-12
    # Hidden from softmax, ordinary tokens average; ReLU still writes nothing.
    assert (row["hidden_error_other"] > 1e-3) == (name == "softmax")
    trigger = pattern[8]
    torch.testing.assert_close(trigger[1:9], torch.full((8,), 1 / 8), rtol=0, atol=1e-5)
    assert row["slack"] >= -1e-12
    assert np.isnan(row["virtual_other"])


def test_a_virtual_key_and_a_gate_are_measured_where_they_are():
    config = small()
    model, task = build(ARMS["sink logit"], config.model, config.task, seed=0)
    batch = task.sample(32, generator(0, "test"))
    with torch.no_grad():
        model.blocks[0].attn.W_Q.zero_()
        model.blocks[0].attn.per_head["sink_logit"].fill_(np.log(5.0))
    row, _ = measure(model, batch)
    counts = torch.arange(1, 17).expand(32, -1)
    other = ~batch.is_trigger
    other[:, 0] = False
    assert row["virtual_other"] == pytest.approx((5 / (counts + 5.0))[other].mean().item(), rel=1e-5)
    assert row["total_other"] == pytest.approx(1 - row["virtual_other"], rel=1e-5)
    model, task = build(ARMS["gated"], config.model, config.task, seed=0)
    with torch.no_grad():
        model.blocks[0].attn.W_gate.zero_()
        model.blocks[0].attn.W_gate[0, 1] = 50.0  # open at the trigger, half open elsewhere
    row, _ = measure(model, batch)
    assert (row["gate_other"], row["gate_trigger"]) == pytest.approx((0.5, 1.0))


def test_the_bound_is_reached_where_the_first_token_is_the_largest_direction():
    """Rows of 3 e0, e0, 2 e1 and e2: the energy along e0 is 10 of 15, and no direction has more."""
    x = torch.zeros(1, 4, 5)
    x[0, 0, 0], x[0, 1, 0], x[0, 2, 1], x[0, 3, 2] = 3.0, 1.0, 2.0, 1.0
    row = measures._stream(x)
    assert (row["top"], row["bound"]) == pytest.approx((10 / 15, 10 / 15), rel=1e-12)
    assert row["slack"] == pytest.approx(0.0, abs=1e-12)


def test_the_reader_is_the_model_with_the_texts_as_vocabulary():
    config = small()
    for name in ("gated", "sink logit", DEEP):
        model, task = build(ARMS[name], config.model, config.task, seed=3)
        batch = task.sample(5, generator(0, "test"))
        twin, ids = reader(model, batch)
        n = model.cfg.n_layers
        assert torch.equal(twin(ids, stop_at_layer=n), model(residual=batch.tokens, stop_at_layer=n))


def test_a_run_measures_before_and_after_and_trains_no_bias_of_the_source():
    config = small()
    rows, pattern, ran = subject._train_one((config, DEEP, 0))
    assert [row["moment"] for row in rows] == [UNTRAINED, TRAINED]
    assert set(rows[0]) == set(subject.COLUMNS)
    assert pattern.shape == (16, 16)
    assert ran == ["sdpa"]
    model, task = build(ARMS["gated"], config.model, config.task, seed=0)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    fit(model, task, config.train, 0)
    moved = {
        name.rsplit(".", 1)[-1] for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])
    }
    assert moved == {"W_Q", "W_K", "W_V", "W_O", "W_gate", "b_gate"}


def test_the_same_config_gives_the_same_rows_bit_for_bit():
    first, second = (subject._train_one((small(), "sink logit", 0)) for _ in range(2))
    assert pd.DataFrame(first[0]).equals(pd.DataFrame(second[0]))
    assert np.array_equal(first[1], second[1])


def test_arms_ask_for_what_their_names_say():
    assert set(study.configure(subject.Config, subject.QUICK).arms) < set(ARMS)
    for name, arm in ARMS.items():
        assert arm.first == (ALONE not in name)
        assert arm.always == (name == ALWAYS)
        assert (arm.layers, arm.heads) == ((2, 2) if name in (DEEP, DEEP_RELU) else (1, 1))
        assert arm.gated == name.startswith("gated")


def test_what_cannot_be_run_is_refused_in_one_line():
    with pytest.raises(WorkbenchError, match="no arm 'hardmax': choose from 'softmax', 'off by one'"):
        subject.run(small(arms=("hardmax",)))
    with pytest.raises(WorkbenchError, match=r"tokens have 16 numbers .* model\.d_model=8 must be that"):
        build(ARMS["softmax"], replace(small().model, d_model=8), Trigger(), 0)
    model, task = build(ARMS["softmax"], small().model, Trigger(), 0)
    with torch.no_grad():
        model.blocks[0].attn.W_O.fill_(torch.inf)
    with pytest.raises(TrainingError, match=r"at step 0 .*: lower lr="):
        fit(model, task, small().train, 0)


def made_up(at: dict | None = None) -> Result:
    """A table in which every claim but the three that fail holds, changed where the test says."""
    rows = []
    for arm in ARMS:
        for seed in range(5):
            row = dict.fromkeys(list(subject.COLUMNS)[3:], 0.0) | {"arm": arm, "seed": seed, "moment": TRAINED}
            row |= {"error_other": 1e-9, "error_trigger": 1e-8, "worst": 0.001, "virtual_other": 0.95, "slack": 0.1}
            if arm in ("softmax", DEEP):
                row |= {"first_other": 0.99, "first_most": 0.99, "hidden_error_other": 1e-2}
            if arm == "softmax" + ALONE:
                row |= {"error_trigger": 1e-2}
            # No claim may hold by what the untrained model does.
            broken = {"first_other": 0.5, "first_most": 0.5, "worst": 1.0, "virtual_other": 0.1, "mass": 0.5}
            broken |= {"error_trigger": 1e-3, "hidden_error_other": 1e-3, "error_other": 1e-3, "massive": 1.0}
            rows += [row | broken | {"value_ratio": 1.0, "moment": UNTRAINED}, row]
    table = pd.DataFrame(rows)
    for (arm, column), value in (at or {}).items():
        table.loc[(table.arm == arm) & (table.moment == TRAINED) & (table.seed == 2), column] = value
    run = {"study": "sink_necessity", "config_hash": "0" * 12, "profile": "full"}
    return Result(table, run=run)


def failing(result: Result) -> list[int]:
    verdicts = [judge("sink_necessity", claim, result) for claim in subject.CLAIMS]
    return [at for at, verdict in enumerate(verdicts) if not verdict.holds]


def test_all_claims_hold_on_a_table_where_they_should():
    assert failing(made_up()) == []


@pytest.mark.parametrize(
    ("number", "arm", "column", "value"),
    [
        (0, "softmax", "first_other", 0.89),
        (1, "softmax", "worst", 0.0051),
        (2, "ReLU", "first_other", 0.011),
        (3, "ReLU", "worst", 0.0051),
        (4, DEEP, "first_most", 0.89),
        (5, DEEP_RELU, "first_most", 0.31),
        (6, "off by one", "virtual_other", 0.89),
        (7, "sink logit", "virtual_other", 0.89),
        (8, "gated", "mass", 0.31),
        (9, "off by one" + ALONE, "virtual_other", 0.89),
        (10, "sink logit" + ALONE, "virtual_other", 0.89),
        (11, "softmax" + ALONE, "error_trigger", 9e-7),
        (12, ALWAYS, "first_other", 0.06),
        (13, "softmax", "hidden_error_other", 9e-8),
        (14, "ReLU", "hidden_error_other", 2e-6),
        (15, "softmax", "value_ratio", 0.02),
        (16, "softmax", "massive", 0.2),
        (17, "sigmoid", "slack", -1e-9),
    ],
)
def test_one_seed_that_misses_its_bound_fails_that_claim_and_no_other(number, arm, column, value):
    assert failing(made_up({(arm, column): value})) == [number]


def test_replications_that_training_contradicts_say_why():
    for number in (6, 7, 8):
        claim = subject.CLAIMS[number]
        assert claim.kind == "replication"
        assert claim.explanation
        assert claim.source_verdict.startswith("not reproduced")
