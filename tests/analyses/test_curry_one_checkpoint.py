"""`curry_one_context --set model=DIRECTORY --set prompt=...`: a prompt of one's own in a checkpoint of Hugging Face."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from analyses.core.cli import main
from analyses.core.config import configure, plain
from analyses.core.results import config_hash
from analyses.currying import curry_one_context as subject
from analyses.currying.one_context import methods
from analyses.currying.one_context.subjects import Directory
from probes.currying.curried import NAMES, curry
from probes.currying.oracle import Oracle
from toy_models.errors import ConfigError, ModelError

SMALL = {"queries.fit": 12, "queries.held_out": 8, "queries.length": 4, "steps": 1, "seeds": (0,)}
FEW = ("kv", "sink", "none", "lsq")
PROMPT = "w5 w7 w9 w5 w7 w11"


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch):
    monkeypatch.setitem(methods.SETTINGS, "kv_r", ({"pairs": 1},))
    monkeypatch.setitem(methods.SETTINGS, "lora", ({"rank": 1},))


@pytest.fixture
def bare(llama_directory, tmp_path) -> Path:
    """Without a tokenizer."""
    return shutil.copytree(llama_directory, tmp_path / "bare", ignore=shutil.ignore_patterns("*token*"))


def config(directory: Path, **changes) -> subject.Config:
    return configure(subject.Config, {"model": str(directory), "prompt": PROMPT, **SMALL, **changes})


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_prompt_is_curried_by_every_method_or_the_reason_is_told(name, request):
    asked = config(request.getfixturevalue(f"{name}_directory"))
    found = subject.run(asked)
    table, refused = found.table, found.measured_with["refused"]
    assert set(table.context) == {"prompt"}
    told = {label.split(" ")[0] for label in table.method} | {label.split(" ")[0] for label in refused}
    assert set(NAMES) <= told
    assert {"kv", "sink", "lsq_o", "sibling", "wrong task"} <= set(table.method)
    assert table.bayes_kl.isna().all()
    assert found.arrays["rho (context, seed, layer, head)"].shape[:2] == (1, 1)
    # The same numbers by hand, from the same checkpoint.
    rows = table.set_index("method")
    model = Directory(asked).model(0)
    oracle = Oracle(model, torch.tensor([5, 7, 9, 5, 7, 11]))
    assert rows.loc["kv", "kl"] < 1e-9
    assert rows.loc["sink", "baseline_kl"] == rows.loc["none", "kl"]
    made = curry(model, oracle.context, "sink", generator=torch.Generator().manual_seed(0))
    assert rows.loc["sink", "bytes"] == made.stored_bytes


def test_a_directory_gets_what_takes_minutes_unless_more_is_asked_for(llama_directory):
    given = {"model": str(llama_directory), "prompt": PROMPT}
    modest = configure(subject.Config, given)
    assert (modest.queries.fit, modest.queries.held_out, modest.seeds) == (80, 24, (0,))
    assert configure(subject.Config, {**given, "queries.length": "4"}).queries == replace(modest.queries, length=4)
    assert configure(subject.Config, {}).queries == subject.Queries()
    assert methods.chosen(modest.methods, True) == methods.OF_DIRECTORY
    assert methods.chosen((), False) == methods.chosen(("all",), True) == tuple(NAMES)
    told = methods.left_out((), True)
    assert set(told) == set(NAMES) - set(methods.OF_DIRECTORY)
    assert "--set methods=all" in told["lora"]
    assert methods.left_out(("kv",), True) == methods.left_out((), False) == methods.LEFT_OUT


def test_a_directory_runs_the_slow_methods_when_asked(llama_directory):
    found = subject.run(config(llama_directory, methods=("kv", "lora")))
    assert found.table.method.tolist() == ["kv", "lora 1"]
    assert set(found.measured_with["refused"]) == set(methods.LEFT_OUT)


def test_the_same_prompt_gives_the_same_table_as_text_or_as_ids(llama_directory):
    found, again = (
        subject.run(config(llama_directory, prompt=prompt, methods=FEW)) for prompt in (PROMPT, "5,7,9,5,7,11")
    )
    pd.testing.assert_frame_equal(found.table, again.table, check_exact=True)


def test_the_sibling_is_the_prompt_in_another_order_unless_one_is_given(llama_directory):
    (case,) = Directory(config(llama_directory)).cases(0, Directory(config(llama_directory)).model(0))
    assert case.context.tolist() == [5, 7, 9, 5, 7, 11]
    assert sorted(case.sibling.tolist()) == sorted(case.context.tolist())
    asked = Directory(config(llama_directory, sibling="w20 w21"))
    (told,) = asked.cases(0, asked.model(0))
    assert told.sibling.tolist() == [20, 21]
    assert len(told.wrong) == 6


def test_other_weights_are_another_configuration(bare):
    before = config(bare, prompt="5,7")
    weights = bare / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    after = config(bare, prompt="5,7")
    assert None not in (before.files, after.files)
    assert config_hash("x", plain(before)) != config_hash("x", plain(after))


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ("w5 w7", ConfigError, "no tokenizer for prompt='w5 w7': give token ids, such as prompt=5,17,3"),
        ("5,900", ModelError, "embeds 0 to 22"),
    ],
)
def test_what_the_model_cannot_read_is_refused_in_one_line(bare, prompt, error, message):
    with pytest.raises(error, match=message) as caught:
        subject.run(config(bare, prompt=prompt))
    assert "\n" not in str(caught.value)


def test_the_command_curries_a_prompt(bare, tmp_path):
    settings = {
        "model": bare,
        "prompt": "5,7,9",
        "methods": "kv,sink,none",
        **{k: v for k, v in SMALL.items() if k != "seeds"},
    }
    options = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    place = ["--seeds", "1", "--results", str(tmp_path / "results")]
    done = CliRunner().invoke(main, ["run", "curry_one_context", *options, *place], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    (run,) = (json.loads(path.read_text()) for path in (tmp_path / "results").rglob("run.json"))
    assert run["contexts"] == ["prompt"]
    assert run["config"]["prompt"] == "5,7,9"
