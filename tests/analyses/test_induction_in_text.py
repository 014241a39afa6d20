"""The study of real text: measurements on models with known answers, small runs, and claims on made-up tables."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.results import Result
from analyses.induction import induction_in_text as subject
from toy_models.constructed import induction_circuit
from toy_models.errors import ConfigError

SENTENCE = "def {name}(left, right):\n    return left + right  # what the sum of both is\n\n"
SMALL = {
    "train.steps": 4,
    "train.checkpoint_every": 2,
    "windows": 4,
    "repeats": 2,
    "period": 5,
    "copies": 3,
    "task.n_ctx": 32,
    "model.n_ctx": 32,
    "model.d_model": 16,
    "model.n_heads": 2,
    "seeds": (0,),
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Twelve short sources to read, and a results' folder of the test's own."""
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path / "results"))
    (tmp_path / "text").mkdir()
    for i in range(12):
        (tmp_path / "text" / f"{i}.py").write_text(SENTENCE.format(name=f"add_{i}"))
    return tmp_path / "text"


def small(folder: Path, **changes) -> subject.Config:
    return study.configure(subject.Config, {**SMALL, "task.path": str(folder), **changes})


# What is measured ----------------------------------------------------------------------------------


class Copier:
    """Says what stood `distance` before the answer, with certainty; as long as nothing stood there, anything."""

    def __init__(self, distance: int):
        self.distance = distance

    def __call__(self, tokens):
        logits = torch.zeros(*tokens.shape, subject.Text.d_vocab)
        answers = tokens[:, 1 : max(1, tokens.shape[1] - self.distance + 1), None]
        logits[:, self.distance :] = logits[:, self.distance :].scatter(-1, answers, 100.0)
        return logits


@pytest.mark.parametrize(("score", "distance"), [("random_gain", 5), ("text_gain", 15)])
def test_a_model_that_only_copies_gains_ln_of_the_vocabulary_on_later_copies(folder, score, distance):
    config = small(folder)
    found = subject._losses(Copier(distance), subject._texts(config), config.period)
    assert found[score] == pytest.approx(-math.log(subject.Text.d_vocab))


def test_a_model_that_knows_nothing_scores_chance_and_gains_nothing(folder):
    config = small(folder)
    found = subject._losses(Copier(1000), subject._texts(config), config.period)
    chance = pytest.approx(math.log(subject.Text.d_vocab))
    assert (found["loss"], found["train_loss"]) == (chance, chance)
    assert [found[name] for name in ("in_context", "text_gain", "random_gain")] == pytest.approx([0, 0, 0], abs=1e-5)


def test_the_constructed_circuit_gets_full_scores_and_composes():
    model = induction_circuit(d_vocab=26, n_ctx=101)
    blocks = torch.stack([torch.randperm(25, generator=torch.Generator().manual_seed(i)) + 1 for i in range(4)])
    row, maps = subject._heads(model, torch.cat([torch.zeros(4, 1, dtype=torch.long), blocks.repeat(1, 4)], dim=1))
    assert row["prefix_matching"] > 0.99
    assert row["previous_token"] > 0.99
    assert (row["shift"], row["displaced"]) == (1, row["prefix_matching"])
    assert row["k_composition"] > 2
    assert maps["prefix matching"].shape == maps["previous token"].shape == (2, 1)


def test_the_texts_are_what_their_names_say(folder):
    config = small(folder)
    texts = subject._texts(config)
    block = texts["random"][:, 1:6]
    assert torch.equal(texts["random"][:, 1:], block.repeat(1, 3))
    assert all(len(set(row)) == 5 for row in block.tolist())
    half = (config.task.n_ctx - 1) // 2
    assert torch.equal(texts["twice"][:, 1 : half + 1], texts["twice"][:, half + 1 :])
    assert (texts["twice"][:, 0] == subject.BOS).all()
    held_out = bytes(config.task.held_out().text.tolist())
    assert all(bytes(row[1 : half + 1]) in held_out for row in texts["twice"].tolist())


def test_the_unigram_loss_is_the_cross_entropy_of_the_byte_frequencies(tmp_path):
    (tmp_path / "abab").write_bytes(b"ab" * 200 + b"aabb" * 25)
    task = subject.Text(n_ctx=8, path=str(tmp_path / "abab"), held_out_share=0.2)
    counts = np.array([201, 201] + [1] * 254)
    assert subject._unigram_loss(task) == pytest.approx(-math.log(201 / counts.sum()))


# Runs ----------------------------------------------------------------------------------------------


def test_a_run_measures_the_untrained_model_and_every_checkpoint_of_it(folder):
    job = (small(folder), subject.TWO, 0)
    rows, maps, backends = subject._measure_one(job)
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert set(rows[0]) == set(subject.COLUMNS)
    assert abs(rows[0]["loss"] - math.log(257)) < 0.3
    assert maps["prefix matching"].shape == (3, 2, 2)
    assert backends
    again = subject._measure_one(job)
    assert again[0] == rows  # from disk, bit for bit


def test_each_condition_is_what_its_name_says_and_opens_in_one_line(folder):
    found = {one: subject.trained(small(folder), one, 0).model.cfg for one in subject.CONDITIONS}
    assert {one: cfg.n_layers for one, cfg in found.items()} == {subject.TWO: 2, subject.ONE: 1, subject.SMEARED: 1}
    assert [one for one, cfg in found.items() if cfg.smeared_keys] == [subject.SMEARED]
    rows, _, _ = subject._measure_one((small(folder), subject.ONE, 0))
    assert math.isnan(rows[0]["k_composition"])  # one layer has no pair


def test_another_text_is_another_training_run(folder):
    first = subject.trained(small(folder), subject.ONE, 0)
    (folder / "0.py").write_text("changed = True\n" * 10)
    assert subject.trained(small(folder), subject.ONE, 0).folder != first.folder


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"period": 11}, "period=11, copies=3, .* must fit n_ctx=32"),
        ({"windows": 1}, "windows=1 must be 2 or more"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, changes, complaint):
    with pytest.raises(Exception, match=complaint):
        small(folder, **changes)


def test_a_text_with_too_few_kinds_of_bytes_is_refused(folder):
    (folder / "ab").write_text("ab" * 500)
    with pytest.raises(ConfigError, match="period=5 distinct bytes cannot be drawn from the 2"):
        subject._texts(small(folder / "ab"))


def test_the_command_runs_the_study_and_writes_down_which_text_it_read(folder, tmp_path):
    settings = [f"--set={key}={value}" for key, value in SMALL.items() if key != "seeds"]
    command = [str(Path(sys.executable).with_name("workbench")), "run", "induction_in_text", "--seeds", "1"]
    done = subprocess.run(
        [*command, *settings, f"--set=task.path={folder}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "results" / "induction_in_text").glob("*/run.json")
    text = json.loads(run.read_text())["text"]
    assert text["digest"] == small(folder).task.text_digest
    assert 0 < text["unigram_loss"] < math.log(256)


# Claims --------------------------------------------------------------------------------------------


def made_up(column: str = "", condition: str = "", value: float = 0.0, step: int = 100) -> Result:
    """A table in which every claim holds, changed in one place of one seed."""
    good = {"train_loss": 1.8, "loss": 1.9, "random_gain": -0.3, "displaced": 0.9, "shift": 1, "previous_token": 0.9}
    of = {
        subject.TWO: {"in_context": -0.4, "text_gain": -0.5, "prefix_matching": 0.9, "k_composition": 2.0},
        subject.ONE: {"in_context": -0.1, "text_gain": -0.1, "prefix_matching": 0.03, "k_composition": math.nan},
        subject.SMEARED: {"in_context": -0.3, "text_gain": -0.3, "prefix_matching": 0.1, "k_composition": math.nan},
    }
    rows = [
        {"condition": one, "seed": seed, "step": at, **good, **of[one]}
        for one in of
        for seed in range(3)
        for at in (0, 100)
    ]
    table = pd.DataFrame(rows)
    table.loc[table.step == 0, "prefix_matching"] = 0.03
    table.loc[(table.condition == condition) & (table.seed == 1) & (table.step == step), column or "seed"] = value
    run = {"study": "induction_in_text", "config_hash": "0" * 12, "profile": "full", "text": {"unigram_loss": 3.1}}
    return Result(table, run=run)


def failing(result: Result) -> list[str]:
    return [
        claim.sentence.split(":")[0] for claim in subject.CLAIMS if not judge("induction_in_text", claim, result).holds
    ]


def test_all_claims_hold_on_a_table_where_they_should():
    assert failing(made_up()) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("prefix_matching", subject.TWO, 0.05, 0), "Before training"),
        (("loss", subject.ONE, 2.4), "All models know more"),
        (("prefix_matching", subject.TWO, 0.29), "Two layers form"),
        (("previous_token", subject.TWO, 0.19), "Their first layer"),
        (("prefix_matching", subject.ONE, 0.07), "One layer forms no"),
        (("prefix_matching", subject.SMEARED, 0.05), "One layer with smeared keys does"),
        (("in_context", subject.TWO, 0.9), "Context helps"),
        (("text_gain", subject.TWO, -0.05), "An earlier copy"),
        (("text_gain", subject.SMEARED, -0.05), "It helps one layer"),
        (("k_composition", subject.TWO, 1.4), "The two layers compose"),
    ],
)
def test_one_seed_that_misses_its_bound_fails_that_claim_and_no_other(change, sentence):
    (failed,) = failing(made_up(*change))
    assert failed.startswith(sentence)
