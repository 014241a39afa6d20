"""The study of one head against several: a small run of the real thing, and its claims on made-up tables."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.results import Result
from analyses.glasses import one_head_averages as subject
from analyses.glasses.averaging.equal import forced_equal, swapped
from analyses.glasses.averaging.measures import measure, places, under_noise, weights
from toy_models.constructed import answering_heads
from toy_models.errors import ConfigError
from toy_models.seeding import generator
from toy_models.tasks.who_did_what import WhoDidWhat

SMALL = {"train.steps": 2, "eval_every": 1, "sentences": 20, "noises": (1.0,), "seeds": (0,)}
TASK = WhoDidWhat()


def small(**changes) -> subject.Config:
    return study.configure(subject.Config, {**SMALL, **changes})


def batch(n: int = 200):
    return TASK.sample(n, generator(0, "test"))


# Measurements on heads that are known -------------------------------------------------------------


def test_a_constructed_head_is_measured_as_it_was_set():
    found = measure(answering_heads(TASK, ((0.25, 0.75, 0.0),), scale=200.0), TASK, batch())
    assert found["accuracy"] == 1
    assert found["swapped"] == 0
    assert found["larger_share"] == pytest.approx(0.75, abs=1e-6)
    assert found["named_weight"] == pytest.approx(1, abs=1e-6)
    assert found["loss"] < 1e-3


def test_a_head_that_takes_the_roles_for_one_another_is_right_on_none_and_swaps_all():
    model = answering_heads(TASK, ((0.25, 0.75, 0.0),))
    with torch.no_grad():  # the keys of the two markers change places
        W_K = model.blocks[0].attn.W_K
        W_K[0, [1, 2]] = W_K[0, [2, 1]].clone()
    found = measure(model, TASK, batch())
    assert (found["accuracy"], found["swapped"]) == (0, 1)


def test_the_places_are_those_behind_the_markers():
    tokens = torch.tensor([[0, 4, 14, 2, 6, 3, 7, 1, 9, 5]])
    assert places(tokens).tolist() == [[8, 4]]
    changed = swapped(type(batch())(tokens, tokens, tokens > 0))
    assert changed.tolist() == [[0, 4, 14, 2, 9, 3, 7, 1, 6, 5]]


def test_noise_has_the_stated_energy_and_leaves_no_trace():
    model, texts = answering_heads(TASK, ((2 / 3, 1 / 3, 0.0),), scale=20.0), batch()
    clean = measure(model, TASK, texts)
    rows = list(under_noise(model, TASK, texts, (1e-6, 100.0), width=32, seed=0))
    assert [row["noise"] for row in rows] == [1e-6, 100.0]
    assert rows[0]["accuracy"] == clean["accuracy"] == 1
    assert rows[1]["accuracy"] < 0.1  # a guess among 56: .018, standard error .01
    assert measure(model, TASK, texts) == clean


def test_two_heads_stand_more_noise_than_one():
    def accuracy(shares):
        (row,) = under_noise(answering_heads(TASK, shares), TASK, batch(1000), (1.0,), width=32, seed=0)
        return row["accuracy"]

    one, two = accuracy(((2 / 3, 1 / 3, 0.0),)), accuracy(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)))
    assert two - one > 0.05  # some four standard errors
    assert one - accuracy(((0.9, 0.1, 0.0),)) > 0.05


def test_weights_made_equal_hide_the_order_of_a_model_that_knew_it():
    model, texts = answering_heads(TASK, ((0.9, 0.1, 0.0), (0.2, 0.8, 0.0)), scale=20.0), batch()
    before = weights(model, texts)
    difference, right = forced_equal(model, TASK, texts)
    assert difference < 1e-12
    assert right <= 0.5
    assert torch.equal(weights(model, texts), before)


# The study ----------------------------------------------------------------------------------------


def test_conditions_differ_in_layers_and_heads_alone_at_equal_parameters(monkeypatch):
    from toy_models import transformer

    made = {}
    real = transformer.Transformer

    def keep(config, seed):
        made[seed] = real(config, seed=seed)
        return made[seed]

    monkeypatch.setattr("toy_models.Transformer", keep, raising=False)
    for i, condition in enumerate((subject.ONE, subject.TWO, subject.FOUR)):
        subject._train_one((small(**{"train.steps": 1}), condition, i))
    sizes = [sum(p.numel() for name, p in model.named_parameters() if "smear" not in name) for model in made.values()]
    assert len(set(sizes)) == 1
    assert [model.cfg.n_heads for model in made.values()] == [1, 2, 4]
    assert [model.cfg.attn_scale for model in made.values()] == [32**0.5, 4.0, 8**0.5]


def test_a_run_measures_from_birth_to_end_and_then_under_noise():
    rows, arrays, backends = subject._train_one((small(), subject.TWO, 0))
    assert [(row["step"], row["noise"]) for row in rows] == [(0, 0), (1, 0), (2, 0), (2, 1.0)]
    assert set(rows[0]) == set(subject.COLUMNS)
    assert arrays[subject.WEIGHTS].shape == (2, 2)
    assert backends == ["sdpa"]
    assert rows[0]["accuracy"] <= 0.2  # untrained, one of 101 tokens, 20 sentences
    again = subject._train_one((small(), subject.TWO, 0))
    assert again[0] == rows


def test_where_one_role_is_asked_nothing_can_be_swapped():
    rows, arrays, _ = subject._train_one((small(**{"train.steps": 1}), subject.ROLE, 0))
    assert all(np.isnan(row["swapped"]) for row in rows)
    assert set(arrays) == {subject.WEIGHTS}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"task.asked": ("near",)}, r"task.asked=\('near',\): this study asks for who and whom"),
        ({"noises": (0.0,)}, r"noises=\(0.0,\) one or more above 0"),
        ({"sentences": 0}, "sentences=0 must be 1 or more"),
    ],
)
def test_what_the_study_cannot_ask_is_refused(changes, complaint):
    with pytest.raises(Exception, match=complaint) as caught:
        small(**changes)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError):
        subject.Config(noises=())


# The claims ---------------------------------------------------------------------------------------


def made_up(at: dict | None = None) -> Result:
    """A table in which every claim holds but the one of an equal average, changed where the test says."""
    accuracy = {subject.ONE: 0.8, subject.TWO: 0.86, subject.DEEP: 0.9, subject.BEST_ONE: 0.88}
    rows = []
    for condition, seed, noise in product((*subject.TRAINED, *subject.CONSTRUCTED), range(3), (0.0, 1.0)):
        row = {"condition": condition, "seed": seed, "noise": noise, "step": 600, "larger_share": 0.66}
        row["accuracy"] = 1.0 if noise == 0 else accuracy.get(condition, 0.9)
        rows += [row | {"step": 0, "accuracy": 0.0, "larger_share": 0.5}, row] if noise == 0 else [row]
    table = pd.DataFrame(rows)
    for (condition, noise, column), value in (at or {}).items():
        where = (table.condition == condition) & (table.noise == noise) & (table.seed == 1) & (table.step == 600)
        table.loc[where, column] = value
    w = np.array(subject.LARGER)
    arrays = {
        subject.EQUAL_SHARES: np.zeros(1),
        subject.SHARES: w,
        subject.LEAD: np.minimum((2 * w - 1) ** 2, (1 - w) ** 2),
        subject.LEAD_OF_TWO: np.ones(1),
    }
    for name in (subject.ONE, subject.TWO, subject.FOUR):
        arrays |= {f"{name}: {subject.DIFFERENCE}": np.zeros(3), f"{name}: {subject.ON_BOTH}": np.full(3, 0.5)}
    return Result(table, arrays, run={"study": "one_head_averages", "config_hash": "0" * 12, "profile": "full"})


def failing(result: Result) -> list[int]:
    verdicts = [judge("one_head_averages", claim, result) for claim in subject.CLAIMS]
    return [i for i, verdict in enumerate(verdicts) if not verdict.holds]


def test_on_a_table_where_one_head_succeeds_the_replication_alone_fails_and_says_why():
    assert failing(made_up()) == [2]
    assert subject.CLAIMS[2].kind == "replication"
    assert subject.CLAIMS[2].explanation
    assert subject.CLAIMS[2].source_verdict.startswith("not reproduced")


@pytest.mark.parametrize(
    ("number", "where", "value"),
    [
        (0, (subject.FOUR, 0.0, "accuracy"), 0.97),
        (1, (subject.TWO, 0.0, "accuracy"), 0.97),
        (3, (subject.ROLE, 0.0, "accuracy"), 0.97),
        (4, (subject.DEEP, 0.0, "accuracy"), 0.97),
        (10, (subject.ONE, 0.0, "larger_share"), 0.6),
        (11, (subject.TWO, 1.0, "accuracy"), 0.81),
        (12, (subject.BEST_ONE, 1.0, "accuracy"), 0.7),
        (13, (subject.DEEP, 1.0, "accuracy"), 0.81),
    ],
)
def test_one_seed_that_misses_its_bound_fails_that_claim_and_no_other(number, where, value):
    assert failing(made_up({where: value})) == sorted({2, number})


@pytest.mark.parametrize(
    ("number", "array", "value"),
    [
        (5, subject.EQUAL_SHARES, 1e-6),
        (6, f"{subject.TWO}: {subject.DIFFERENCE}", 1e-6),
        (7, f"{subject.FOUR}: {subject.ON_BOTH}", 0.51),
        (8, subject.LEAD, 0.12),
    ],
)
def test_one_array_that_is_not_the_closed_form_fails_its_claim(number, array, value):
    result = made_up()
    result.arrays[array][0] = value
    assert number in failing(result)
