"""`assay --set model=DIRECTORY`: prompts through the directory's own tokenizer; and what the claims expect."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from analyses.core.claims import judge
from analyses.core.cli import main
from analyses.core.config import configure
from analyses.core.results import Result
from analyses.counting import assay as subject
from analyses.counting.asking.subjects import Directory
from toy_models.errors import ConfigError, ModelError

RUN = {"study": "assay", "config_hash": "0" * 12, "profile": "custom"}
FEW = {"kinds": ("ones", "last"), "lengths": (2, 3), "examples": 1}


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A random GPT-2 whose tokenizer knows "11", a blank with its digit, and single characters."""
    pieces = ["<s>", "11", *(f" {digit}" for digit in range(10)), *map(chr, range(32, 127)), "\n"]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"11| [0-9]|.|\n"), behavior="isolated")
    folder = tmp_path_factory.mktemp("gpt2 of characters")
    torch.manual_seed(0)
    config = GPT2Config(
        **{"vocab_size": len(pieces), "n_positions": 128, "n_embd": 16, "n_layer": 2, "n_head": 2},
        **{"bos_token_id": 0, "eos_token_id": 0},
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>").save_pretrained(folder)
    return folder


def config(folder: Path, **changes) -> subject.Config:
    return configure(subject.Config, {"model": str(folder), **FEW, **changes})


def test_answers_are_weighed_as_transformers_itself_would(directory):
    asked = config(directory)
    found = subject.run(asked)
    model = GPT2LMHeadModel.from_pretrained(directory).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    rows = found.table[(found.table.arm == "trained") & (found.table.question == "ones, commas")]
    for row in rows.itertuples():
        one = subject._prompt(asked, "ones", 3, row.length, row.text, row.seed)
        scores = []
        for answer in one.answers:
            ids = torch.tensor([[0, *tokenizer(one.text + answer)["input_ids"]]])
            given = len(tokenizer(one.text)["input_ids"])
            with torch.no_grad():
                told = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            scores.append(told[given:].sum().item())
        assert row.log_probability == pytest.approx(scores[one.right], abs=1e-4)
        assert row.answer == np.argmax(scores)
    assert found.arrays["reading error (seed, question)"].max() < 1e-4


def test_a_directory_is_asked_less_unless_one_says_otherwise(directory):
    plain = configure(subject.Config, {"model": str(directory)})
    assert (plain.lengths, plain.examples, plain.seeds) == tuple(one[1] for one in (
        subject.LENGTHS, subject.EXAMPLES, subject.SEEDS))  # fmt: skip
    assert config(directory).lengths == (2, 3)
    assert configure(subject.Config, {}).lengths == subject.LENGTHS[0]
    assert plain.files is not None
    assert configure(subject.Config, {}).files is None


def test_the_run_of_ones_repeats_one_token_and_the_twin_is_another_model(directory):
    asked = Directory(config(directory))
    assert asked.encode(["+1"])[0][-1] == asked.encode(["1"])[0][-1] != asked.encode(["11"])[0][-1]
    assert asked.untrained(0).cfg == asked.model(0).cfg
    assert not torch.equal(asked.untrained(0).blocks[0].attn.W_Q, asked.model(0).blocks[0].attn.W_Q)


def test_what_cannot_be_asked_is_refused_in_one_line(directory, llama_directory, tmp_path):
    bare = shutil.copytree(directory, tmp_path / "bare", ignore=shutil.ignore_patterns("*token*"))
    for asked, error, message in (
        (config(bare), ModelError, "has no tokenizer, and the prompts are text"),
        (config(llama_directory), ModelError, "cannot tell the answer"),
        (config(directory, lengths=(2, 100)), ConfigError, r"prompt of \d+ tokens goes beyond the 128 positions"),
    ):
        with pytest.raises(error, match=message) as caught:
            subject.run(asked)
        assert "\n" not in str(caught.value)


def test_the_command_asks_a_directory(directory, tmp_path):
    given = {"model": directory, "kinds": "sum", "lengths": "2,3", "examples": 0}
    options = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    place = ["--results", str(tmp_path / "results")]
    done = CliRunner().invoke(main, ["run", "assay", *options, *place], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    (run,) = (json.loads(path.read_text()) for path in (tmp_path / "results").rglob("run.json"))
    assert run["questions"] == ["sum"]


# Claims -------------------------------------------------------------------------------------------

ASKED = ["ones", "bits", "sum", "word", "last", "first", "last, commas"]
STOPS = {"ones": 10, "bits": 8, "sum": 20, "word": 8, "last": 48, "first": 48, "last, commas": 32}


def measured(stops=STOPS, born: float = 0.0, copied: float = 0.5, error: float = 1e-6, apart: float = 0.2) -> Result:
    """Two seeds as the claims expect them."""
    family = {name: "copying" if name.split(",")[0] in ("last", "first") else "counting" for name in ASKED}
    rows = [
        {"arm": arm, "question": name, "family": family[name], "seed": seed, "right": right}
        for seed in (0, 1)
        for name in ASKED
        for arm, right in (("trained", 1.0), ("untrained", born if family[name] == "counting" else copied))
    ]
    reached = np.array([[[stops[name] for name in ASKED], [np.nan] * len(ASKED)]] * 2)
    arrays = {
        "stops (seed, arm, question)": reached,
        "reading error (seed, question)": np.full((2, len(ASKED)), error),
        "distance (seed, arm, length)": np.array([[[1.0, 0.5, apart]] * 2] * 2),
    }
    told = {"questions": ASKED, "config": {"task": {"longest": 10, "longest_sum": 20}}}
    return Result(pd.DataFrame(rows), arrays, run={**RUN, **told})


def failing(result: Result) -> set[str]:
    return {claim.sentence[:12] for claim in subject.CLAIMS if not judge("assay", claim, result).holds}


def test_the_claims_hold_on_what_they_expect_and_each_can_fail():
    assert failing(measured()) == set()
    assert failing(measured({**STOPS, "ones": 24})) == {"Ones are cou", "To know the "}
    assert failing(measured({**STOPS, "ones": np.nan})) == {"Ones are cou"}
    assert failing(measured({**STOPS, "sum": 10})) == {"To know the "}
    assert failing(measured({**STOPS, "first": 10})) == {"Copying outl"}
    assert failing(measured(born=0.4)) == {"Untrained, c"}
    assert failing(measured(copied=0.8)) == {"Untrained, t"}
    assert failing(measured(error=1e-2)) == {"A cached pro"}
    assert failing(measured(apart=1.5)) == {"The last tok"}
