"""The study of the phase change: small runs of the real thing, and its claims on made-up tables."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.core import study
from analyses.core.results import Result
from analyses.induction import induction_vs_step as subject

SMALL = {
    "train.steps": 3,
    "eval_every": 2,
    "eval_sequences": 4,
    "seeds": (0,),
    "model.d_model": 16,
    "model.n_heads": 2,
}


def small(**changes) -> subject.Config:
    return study.configure(subject.Config, {**SMALL, **changes})


def one_run(condition: str, **changes):
    return subject._train_one((small(**changes), condition, 0))


def test_a_run_measures_the_untrained_model_first_then_every_few_updates_and_the_end():
    rows, _, backends = one_run(subject.TWO)
    assert [row["step"] for row in rows] == [0, 0, 2, 2, 3, 3]
    assert {row["periods"] for row in rows} == {subject.NEW, subject.TRAINED}
    assert set(rows[0]) == set(subject.COLUMNS)
    assert backends == ["sdpa"]


def test_the_untrained_model_is_near_chance_and_its_heads_near_uniform():
    # Chance: one of 65 tokens.  Scored positions are thousands of non-independent guesses: three times chance is ample.
    rows, _, _ = one_run(subject.TWO, **{"eval_sequences": 64})
    assert rows[0]["accuracy"] < 3 / 65
    assert abs(rows[0]["loss"] - np.log(65)) < 0.5
    assert rows[0]["prefix_matching"] < 0.2


def test_the_same_config_gives_the_same_rows_bit_for_bit():
    first, second = one_run(subject.SMEARED), one_run(subject.SMEARED)
    assert first[0] == second[0]
    assert all(np.array_equal(first[1][name], second[1][name]) for name in first[1])


def test_each_condition_trains_on_what_its_name_says():
    config = small()
    model, task, tests = subject._setting(config, subject.FIXED)
    assert task.periods == (config.control_period,)
    assert config.control_period not in tests[subject.NEW]
    assert (model.n_layers, model.smeared_keys) == (1, False)
    model, task, tests = subject._setting(config, subject.TWO)
    assert not set(tests[subject.NEW]) & set(task.periods)
    assert (model.n_layers, model.normalization_type) == (2, None)
    assert subject._setting(config, subject.SMEARED)[0].smeared_keys
    assert subject._setting(config, subject.NORMED)[0].normalization_type == "LN"


def test_a_position_code_is_chosen_and_tuned_from_the_command_line():
    assert type(small(**{"model.position": "learned"}).model.position).__name__ == "Learned"
    assert small(**{"model.position.base": "5e5"}).model.position.base == 5e5


def made_up(**changes) -> Result:
    """A table in which every claim holds, changed where the test says: (condition, periods, column) -> value."""
    good = {
        "loss": 0.1,
        "accuracy": 1.0,
        "prefix_matching": 0.9,
        "previous_token": 0.9,
        "displaced": 0.9,
        "shift": 1,
    }
    rows = []
    for condition in subject.CONDITIONS:
        for periods in (subject.TRAINED, subject.NEW):
            for seed in range(5):
                row = {"condition": condition, "seed": seed, "step": 600, "periods": periods, **good}
                fails = condition == subject.ONE or (condition == subject.FIXED and periods == subject.NEW)
                row["accuracy"] = 0.05 if fails else 1.0
                row["shift"] = 3 if condition == subject.NORMED else 1
                # No claim may hold by what the untrained model does: each of its values breaks some bound.
                untrained = {"step": 0, "accuracy": 0.5, "prefix_matching": 0, "previous_token": 0, "displaced": 0}
                rows += [row | untrained | {"shift": 1 if condition == subject.NORMED else 2}, row]
    table = pd.DataFrame(rows)
    for (condition, periods, column), value in changes.get("at", {}).items():
        table.loc[(table.condition == condition) & (table.periods == periods) & (table.seed == 2), column] = value
    run = {"study": "induction_vs_step", "config_hash": "0" * 12, "profile": "full"}
    return Result(table, run=run)


def judged(result: Result) -> list[bool]:
    from analyses.core.claims import judge

    return [judge("induction_vs_step", claim, result).holds for claim in subject.CLAIMS]


def test_all_claims_hold_on_a_table_where_they_should():
    assert all(judged(made_up()))


@pytest.mark.parametrize(
    ("number", "where", "value"),
    [
        (0, (subject.TWO, subject.NEW, "accuracy"), 0.97),
        (1, (subject.TWO, subject.NEW, "prefix_matching"), 0.79),
        (2, (subject.TWO, subject.NEW, "previous_token"), 0.59),
        (3, (subject.ONE, subject.NEW, "accuracy"), 0.16),
        (4, (subject.SMEARED, subject.NEW, "accuracy"), 0.94),
        (5, (subject.FIXED, subject.TRAINED, "accuracy"), 0.94),
        (6, (subject.FIXED, subject.NEW, "accuracy"), 0.16),
        (7, (subject.NORMED, subject.NEW, "accuracy"), 0.97),
        (8, (subject.NORMED, subject.NEW, "displaced"), 0.49),
        (10, (subject.TWO, subject.NEW, "shift"), 2),
    ],
)
def test_one_seed_that_misses_its_bound_fails_that_claim_and_no_other(number, where, value):
    assert [at for at, holds in enumerate(judged(made_up(at={where: value}))) if not holds] == [number]


def test_the_command_runs_the_study_and_prints_its_verdicts_as_json_alone(tmp_path):
    settings = [f"--set={key}={value}" for key, value in SMALL.items() if key != "seeds"]
    run = [str(Path(sys.executable).with_name("workbench"))]
    place = ["--results", str(tmp_path)]
    done = subprocess.run(
        [*run, "run", "induction_vs_step", "--seeds", "1", *settings, *place], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "induction_vs_step").iterdir()
    identifier = f"induction_vs_step/{folder.name[:8]}"
    told = subprocess.run(
        [*run, "claims", "--from", identifier, "--json", *place], capture_output=True, text=True, check=False
    )
    verdicts = json.loads(told.stdout)
    assert len(verdicts) == len(subject.CLAIMS)
    wanted = {"study", "sentence", "kind", "source", "expected", "measured", "holds", "explanation"}
    assert wanted <= set(verdicts[0])
    assert told.returncode == 1  # three updates teach nothing: replications fail, unexplained
