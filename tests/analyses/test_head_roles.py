"""The study of what heads are for: heads set by hand, premises, a checkpoint, and claims on made-up tables."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.cli import main
from analyses.core.config import plain
from analyses.core.results import Result, config_hash
from analyses.glasses import head_roles as subject
from analyses.glasses.roles import diagonal, scores
from analyses.glasses.roles.subjects import Checkpoint, Constructed, blocks
from toy_models.errors import ConfigError, ModelError
from toy_models.hf.sums import directory_sum


@pytest.fixture
def text(tmp_path):
    """Twelve short files of words that the tiny tokenizers know."""
    (tmp_path / "text").mkdir()
    for i in range(12):
        words = " ".join(f"w{2 + (i + k * (k + i)) % 21}" for k in range(60))
        (tmp_path / "text" / f"{i}.txt").write_text(words)
    return tmp_path / "text"


@pytest.fixture(params=["gpt2", "llama"])
def directory(request):
    return request.getfixturevalue(f"{request.param}_directory")


@pytest.fixture
def bare(llama_directory, tmp_path):
    """Without a tokenizer."""
    return shutil.copytree(llama_directory, tmp_path / "bare", ignore=shutil.ignore_patterns("*token*"))


def small(directory, text, **changes) -> subject.Config:
    task = {"task.path": str(text), "task.files": "*.txt", "task.n_ctx": 16, "task.held_out_share": 0.3}
    return study.configure(
        subject.Config, {"model": str(directory), "length": 13, "texts": 4, "seeds": (0, 3), **task, **changes}
    )


# Heads that are known -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "layer", "expected"),
    [
        ("first-token head", 0, "first token"),
        ("diagonal head", 0, "own token"),
        ("previous-token head", 0, "previous token"),
        ("induction circuit", 0, "previous token"),
        ("induction circuit", 1, "induction"),
    ],
)
def test_a_head_set_by_hand_has_its_role_in_full(condition, layer, expected):
    known = Constructed(subject.CONSTRUCTED[condition], 31, 4)
    found = scores.of_patterns(known.model, known.texts(0, "score"), known.blocks(0))
    assert scores.role(found, (layer, 0)) == expected
    assert found[scores.ROLES[expected]][layer, 0] > 0.999


def test_every_condition_and_head_has_a_row_and_uniform_attention_its_closed_form():
    rows = subject._constructed_rows(subject.Config(length=31, texts=8), 0)
    assert [row["condition"] for row in rows].count("induction circuit") == 2
    assert {row["condition"] for row in rows} == set(subject.CONSTRUCTED)
    assert set(rows[0]) == set(subject.COLUMNS)
    (uniform,) = (row for row in rows if row["condition"] == "uniform head")
    assert uniform["first_mass"] == pytest.approx(math.fsum(1 / i for i in range(1, 32)) / 31, abs=1e-12)
    (own,) = (row for row in rows if row["condition"] == "diagonal head")
    assert abs(own["lost_map"]) < 1e-6
    assert abs(own["lost_zero"]) > 1


def test_no_positions_no_diagonal_and_rotation_finds_one():
    half = diagonal.optimised_heads(0, "none")
    assert 0.499 < half.min() <= half.max() <= 0.5 + 1e-12
    assert diagonal.optimised_heads(0, "rope").max() > 0.99
    drawn = diagonal.random_heads(0)
    assert drawn.max() <= 0.5 + 1e-12
    assert drawn.std() > 0.05
    assert diagonal.constructed_head() > 0.99


@pytest.mark.parametrize(("norm", "means"), subject.ONE_FREQUENCY.items())
def test_one_frequency_has_its_closed_form_and_the_known_means(norm, means):
    for n, known, digits in ((16, means[0], 2), (512, means[1], 3)):
        measured, closed = diagonal.one_frequency(norm, n)
        np.testing.assert_allclose(measured, closed, rtol=1e-9)
        assert abs(measured.mean() - known) <= 0.5 * 10**-digits


def test_blocks_repeat_and_hold_distinct_tokens_of_the_content():
    tokens = blocks(torch.tensor([3, 5, 8, 9, 11]), 7, 16, 6, seed=0)
    assert (tokens[:, 0] == 7).all()
    body = tokens[:, 1:].unflatten(1, (3, 5))
    assert (body == body[:, :1]).all()
    assert all(sorted(row) == [3, 5, 8, 9, 11] for row in body[:, 0].tolist())
    assert blocks(torch.tensor([3, 5, 8, 9, 11]), None, 16, 6, seed=0).shape == (6, 15)
    with pytest.raises(ConfigError, match="a block of 5 distinct tokens needs as many, not 4"):
        blocks(torch.arange(4), 0, 16, 1, seed=0)


# A checkpoint -------------------------------------------------------------------------------------


def test_a_checkpoint_and_its_twin_are_scored_head_by_head(directory, text):
    config = small(directory, text)
    found, again = subject.run(config), subject.run(config)
    assert found.table.equals(again.table)
    cfg = Checkpoint(config).model.cfg
    rows = found.table[found.table.condition == subject.TRAINED]
    assert len(rows) == 2 * cfg.n_layers * cfg.n_heads
    assert rows.drop(columns=["condition", "role"]).notna().all(axis=None)
    assert rows.diagonal.std() > 1e-3
    names = [name for name in found.arrays if "frequency (seed, layer" in name]
    assert len(names) == (2 if cfg.position.where == "rotation" else 0)
    assert found.measured_with["text"]["tokens"] == "held-out text"


def test_texts_to_fit_on_and_to_score_on_come_from_two_halves(llama_directory, text):
    subjects = Checkpoint(small(llama_directory, text))
    assert (subjects.texts(0, "fit")[:, 0] == 0).all()
    for purpose, half in zip(("score", "fit"), subjects.ids.tensor_split(2), strict=True):
        inside = [half[at : at + 12].tolist() for at in range(len(half) - 11)]
        assert all(row in inside for row in subjects.texts(0, purpose)[:, 1:].tolist())


def test_without_a_tokenizer_texts_are_random_ids_without_the_start_token(bare, text):
    subjects = Checkpoint(small(bare, text))
    tokens = subjects.texts(0, "score")
    assert tokens.shape == (4, 13)
    assert (tokens[:, 1:] != 0).all()
    assert subjects.told() == {"text": {"tokens": "uniform random ids"}}


def test_other_weights_in_the_same_directory_are_another_configuration(bare, text):
    before = small(bare, text)
    weights = bare / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    after = small(bare, text)
    assert config_hash("x", plain(before)) != config_hash("x", plain(after))
    with pytest.raises(ConfigError, match=f"files={before.files} is not the sum of"):
        replace(after, files=before.files)


def test_what_does_not_fit_is_refused_in_one_line(llama_directory, gpt2_directory, text):
    for config, told in (
        (small(gpt2_directory, text, length=33), "length=33 is beyond the 32 positions"),
        (small(llama_directory, text, texts=1), "train has 12 queries after the first"),
    ):
        with pytest.raises((ConfigError, ModelError, ValueError), match=told) as caught:
            subject.run(config)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"length=129 must lie in \[7, 128\]"):
        subject.Config(length=129)


def test_the_command_measures_a_directory_and_says_in_one_line_what_it_cannot(bare, tmp_path):
    def command(model):
        settings = {"model": model, "length": 13, "texts": 4}
        options = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        place = ["--seeds", "1", "--results", str(tmp_path / "results")]
        return CliRunner().invoke(main, ["run", "head_roles", *options, *place], catch_exceptions=False)

    done = command(bare)
    assert done.exit_code == 0, done.stderr
    (run,) = (json.loads(path.read_text()) for path in (tmp_path / "results").rglob("run.json"))
    assert run["config"]["files"] == directory_sum(bare)
    done = command(tmp_path / "nowhere")
    assert done.exit_code == 2
    assert "is no directory" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


# The claims ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(llama_directory, tmp_path_factory) -> Result:
    """A run of a tiny checkpoint on random ids, on which every claim but those of trained heads must hold."""
    place = tmp_path_factory.mktemp("bare") / "llama"
    shutil.copytree(llama_directory, place, ignore=shutil.ignore_patterns("*token*"))
    config = subject.Config(model=str(place), length=31, texts=4, seeds=(0,))
    found = subject.run(config)
    return Result(found.table, found.arrays, run={"study": "head_roles", "config_hash": "0" * 12, "profile": "full",
                                                  "config": {"length": 31}})  # fmt: skip


def holds(result: Result) -> list[bool]:
    return [judge("head_roles", claim, result).holds for claim in subject.CLAIMS]


def test_every_calibration_and_theorem_holds_whatever_the_model(measured):
    theorem = [claim for claim in subject.CLAIMS if claim.kind != "finding" and "Gemma" not in claim.source]
    assert all(judge("head_roles", claim, measured).holds for claim in theorem)
    assert len(theorem) == 14


@pytest.mark.parametrize(
    ("number", "condition", "column", "value"),
    [
        (0, "first-token head", "first_mass", 0.98),
        (1, "diagonal head", "diagonal", 0.98),
        (2, "previous-token head", "previous_token", 0.98),
        (3, "induction circuit", "prefix_matching", 0.98),
        (4, "diagonal head", "linear", 0.98),
        (5, "uniform head", "first_mass", 0.2),
        (6, "diagonal head", "lost_map", 0.01),
    ],
)
def test_a_calibration_that_is_off_fails_alone(measured, number, condition, column, value):
    table = measured.table.copy()
    table.loc[table.condition == condition, column] = value
    changed = holds(Result(table, measured.arrays, run=measured.run))
    assert [i for i, (a, b) in enumerate(zip(changed, holds(measured), strict=True)) if a != b] == [number]


def test_findings_read_the_trained_heads_of_the_right_layer_and_frequency(measured):
    table, arrays = measured.table.copy(), dict(measured.arrays)
    trained = table.condition == subject.TRAINED
    table.loc[trained, ["lost_zero", "lost_map", "previous_token"]] = 1.0, 0.9, 0.1
    table.loc[trained & (table.layer == 1), "lost_map"] = 0.6
    table.loc[trained & (table.layer == 1) & (table["head"] == 2), "previous_token"] = 0.8
    share = np.zeros((1, 2, 4, 2))
    share[..., 1], share[0, 1, 2] = 1.0, (0.5, 0.5)
    arrays[f"{subject.TRAINED}: {subject.FREQUENCIES}"] = share
    found = [judge("head_roles", claim, Result(table, arrays, run=measured.run)) for claim in subject.CLAIMS[-4:]]
    assert [one.measured for one in found] == pytest.approx([7.5 / 8, 0.5, 0.4, 0.1])
    assert all(one.holds for one in found)
