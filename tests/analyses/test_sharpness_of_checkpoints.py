"""`sharpness_vs_context --set model=DIRECTORY`: a checkpoint, its untrained twin, and texts in its own tokens."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

from analyses.attention import sharpness_vs_context as subject
from analyses.attention.subjects.checkpoint import Checkpoint
from analyses.core import study
from analyses.core.cli import main
from analyses.core.config import plain
from analyses.core.results import config_hash
from tests.toy_models.hf.twins import theirs
from toy_models.errors import ConfigError, ModelError
from toy_models.hf.sums import directory_sum

# The committed results and those that others have made are found by these.
HASHES = {"full": "c1e5c9d82c00", "quick": "43c4b9d941b2"}
SMALL = {"lengths": (8, 16, 24), "texts": 2, "last_rows": 4, "exact_length": 16, "seeds": (0, 3)}


@pytest.fixture
def text(tmp_path) -> Path:
    """Twelve short files of words, all different, that the tiny tokenizers know."""
    (tmp_path / "text").mkdir()
    for i in range(12):
        words = " ".join(f"w{2 + (i + k * (k + i)) % 21}" for k in range(60))
        (tmp_path / "text" / f"{i}.txt").write_text(words)
    return tmp_path / "text"


@pytest.fixture(params=["gpt2", "llama"])
def directory(request) -> Path:
    return request.getfixturevalue(f"{request.param}_directory")


@pytest.fixture(params=["gpt2", "llama", "neox", "qwen3"])
def checkpoint(request, tmp_path) -> Path:
    """The two above, and twins without a tokenizer: heads turned in part, queries and keys normalised."""
    if request.param in ("gpt2", "llama"):
        return request.getfixturevalue(f"{request.param}_directory")
    theirs(request.param).save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


@pytest.fixture
def bare(llama_directory, tmp_path) -> Path:
    """Without a tokenizer."""
    return shutil.copytree(llama_directory, tmp_path / "bare", ignore=shutil.ignore_patterns("*token*"))


def small(directory: Path, text: Path, **changes) -> subject.Config:
    task = {"task.path": str(text), "task.files": "*.txt", "task.n_ctx": 16, "task.held_out_share": 0.3}
    return study.configure(subject.Config, {"model": str(directory), **SMALL, **task, **changes})


# What is measured ----------------------------------------------------------------------------------


def test_entropy_peak_and_spread_are_those_of_the_attentions_that_transformers_itself_gives(checkpoint, text):
    config = small(checkpoint, text)
    table = subject.run(config).table
    model = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager").eval()
    for seed in config.seeds:
        with torch.no_grad():
            found = model(Checkpoint(config).texts(seed), output_attentions=True).attentions
        for layer, pattern in enumerate(found):
            p = pattern[:, :, 20:24].double()  # the last four queries of the longest text
            rows = table[(table.condition == "trained") & (table.seed == seed) & (table.layer == layer)]
            rows = rows[rows.length == 24].sort_values("head")
            assert rows.peak.tolist() == pytest.approx(p.amax(-1).mean((0, 2)).tolist(), rel=1e-4)
            visible = torch.ones(24, 24, dtype=torch.bool).tril()[20:]
            spread = (p.amax(-1) / p.masked_fill(~visible, torch.inf).amin(-1)).log().mean((0, 2))
            assert rows.spread.tolist() == pytest.approx(spread.tolist(), rel=1e-4)
            entropy = torch.special.entr(p).sum(-1).mean((0, 2))
            assert rows.entropy.tolist() == pytest.approx(entropy.tolist(), rel=1e-4, abs=1e-6)


def test_every_condition_has_its_rows_and_the_twin_is_the_same_model_untrained(directory, text):
    config = small(directory, text)
    found, again = subject.run(config), subject.run(config)
    pd.testing.assert_frame_equal(found.table, again.table, check_exact=True)
    assert found.table.notna().all(axis=None)
    cfg = Checkpoint(config).model.cfg
    heads = cfg.n_layers * cfg.n_heads
    assert found.table.groupby("condition").size().to_dict() == {
        **{"trained": 2 * 3 * heads, "untrained": 2 * 3 * heads, "uniform": 2 * 3}
    }
    uniform = found.table[found.table.condition == "uniform"]
    assert uniform.relative_entropy.to_numpy() == pytest.approx(1, abs=1e-5)
    subjects = Checkpoint(config)
    assert subjects.untrained(0).cfg == subjects.trained(0).cfg
    drawn = [subjects.untrained(seed).blocks[0].attn.W_Q for seed in (0, 0, 3)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    worst = found.table[["peak_excess", "entropy_deficit"]].max()
    assert (worst < 1e-4).all()
    assert all(error.max() < 1e-12 for error in found.arrays.values())


def test_rope_takes_texts_beyond_the_length_that_the_checkpoint_names(llama_directory, text):
    config = small(llama_directory, text, lengths=(16, 48))
    subjects = Checkpoint(config)
    assert (subjects.n_ctx, subjects.model.cfg.n_ctx) == (32, 48)
    assert subjects.told()["checkpoint"] == {"n_ctx": 32}
    assert subject.run(config).table.length.max() == 48


# The texts -----------------------------------------------------------------------------------------


def test_texts_are_windows_of_the_held_out_text_behind_the_start_token(directory, text):
    config = small(directory, text)
    subjects = Checkpoint(config)
    tokens = subjects.texts(0)
    assert tokens.shape == (2, 24)
    assert (tokens[:, 0] == subjects.model.cfg.bos_id).all()
    whole = bytes(config.task.held_out().text.tolist()).decode()
    ids = subjects.model.tokenizer(whole, add_special_tokens=False)["input_ids"]
    inside = [ids[at : at + 23] for at in range(len(ids) - 22)]
    assert all(row in inside for row in tokens[:, 1:].tolist())
    assert torch.equal(tokens, subjects.texts(0))
    assert not torch.equal(tokens, subjects.texts(3))
    told = subject.run(config).measured_with["text"]
    assert told == {"tokens": "held-out text", "digest": config.task.text_digest, "held_out_tokens": len(ids)}


def test_without_a_tokenizer_texts_are_random_ids_without_the_start_token(bare, text):
    config = small(bare, text, texts=400)
    subjects = Checkpoint(config)
    tokens = subjects.texts(0)
    assert (tokens[:, 0] == 0).all()
    counts = tokens[:, 1:].flatten().bincount(minlength=23)
    n, share = 400 * 23, 1 / 22
    assert counts[0] == 0
    assert (counts[1:] - n * share).abs().max() < 5 * (n * share * (1 - share)) ** 0.5  # standard errors
    assert subjects.told()["text"] == {"tokens": "uniform random ids"}


# The configuration ---------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", HASHES)
def test_a_config_without_a_checkpoint_has_the_hash_that_it_always_had(profile):
    config = study.find("sharpness_vs_context").config(profile)
    assert config_hash("sharpness_vs_context", plain(config)) == HASHES[profile]


def test_parts_of_the_trained_model_can_be_set_and_those_of_a_checkpoint_cannot(directory):
    assert study.configure(subject.Config, {"model.position.base": "5e5"}).model.position.base == 5e5
    with pytest.raises(Exception, match="which has no parts") as caught:
        study.configure(subject.Config, {"model": str(directory), "model.position.base": "5e5"})
    assert "\n" not in str(caught.value)


def test_other_weights_in_the_same_directory_are_another_configuration(bare, text):
    before = small(bare, text)
    weights = bare / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    after = small(bare, text)
    assert None not in (before.files, after.files)
    assert config_hash("x", plain(before)) != config_hash("x", plain(after))
    with pytest.raises(ConfigError, match=f"files={before.files} is not the sum of"):
        replace(after, files=before.files)


# Refusals ------------------------------------------------------------------------------------------


def refusal(config: subject.Config) -> str:
    with pytest.raises((ConfigError, ModelError)) as caught:
        subject.run(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_lengths_beyond_a_table_of_positions_are_refused_with_lengths_that_fit(gpt2_directory, text):
    told = refusal(small(gpt2_directory, text, lengths=(8, 33)))
    assert "lengths=(8, 33) go beyond the 32 positions" in told
    assert "--set lengths=8,16,32" in told
    subject.run(small(gpt2_directory, text, lengths=(8, 16, 32)))


def test_a_checkpoint_with_windows_is_refused_by_name(tmp_path, text):
    config = MistralConfig(
        **{"vocab_size": 23, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 6},
    )
    MistralForCausalLM(config).save_pretrained(tmp_path / "mistral")
    assert "has window=6: this study needs scores of scale * q . k over all" in refusal(
        small(tmp_path / "mistral", text)
    )


def test_a_held_out_text_of_too_few_tokens_is_refused_with_its_length(llama_directory, text):
    assert "tokens of" in refusal(small(llama_directory, text, lengths=(16, 4096)))


def test_a_tokenizer_of_another_model_is_refused_by_the_token_that_it_gives(bare, llama_directory, text):
    for path in llama_directory.glob("*token*"):
        words = path.read_text().replace('"w2": 2,', '"w2": 900,')
        (bare / path.name).write_text(words)
    assert "gives token 900, the model embeds 23" in refusal(small(bare, text))


def test_the_command_measures_a_directory_and_says_in_one_line_what_it_cannot(bare, tmp_path):
    def command(model):
        settings = {"model": model, "lengths": "8,16", "texts": 1, "last_rows": 4, "exact_length": 8}
        options = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        place = ["--seeds", "1", "--results", str(tmp_path / "results")]
        return CliRunner().invoke(main, ["run", "sharpness_vs_context", *options, *place], catch_exceptions=False)

    done = command(bare)
    assert done.exit_code == 0, done.stderr
    (run,) = (json.loads(path.read_text()) for path in (tmp_path / "results").rglob("run.json"))
    assert run["config"]["model"] == str(bare)
    assert run["config"]["files"] == directory_sum(bare)
    (bare / "config.json").write_text('{"architectures": ["BertModel"]}')
    for model, reason in ((tmp_path / "nowhere", "is no directory"), (bare, "'BertModel' is not supported")):
        done = command(model)
        assert done.exit_code == 2
        assert reason in done.stderr.strip().splitlines()[-1]
        assert "Traceback" not in done.stderr
