"""The study of every head of any model: against transformers' own attentions, on texts made for its tokenizer."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, MambaForCausalLM

import toy_models
from analyses.core import results, running, study
from analyses.core.claims import judge
from analyses.core.cli import main
from analyses.core.errors import WorkbenchError
from analyses.induction import head_scores as subject
from probes.circuits import copying
from probes.errors import ProbeInputError
from tests import oracles
from toy_models import byte_models
from toy_models.checkpoints import train_or_load
from toy_models.errors import ModelError
from toy_models.tasks.text import Text
from toy_models.train import TrainConfig

TOKENS = "tokens (seed, text, position)"


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def directory(request):
    return request.getfixturevalue(f"{request.param}_directory")


@pytest.fixture(scope="module")
def measured(directory):
    return subject.run(subject.Config(model=str(directory), texts=3, seeds=(0, 7)))


@pytest.fixture
def copy(gpt2_directory, tmp_path):
    """A directory of our own to change."""
    return shutil.copytree(gpt2_directory, tmp_path / "model")


def tokenizer_of(directory, change):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    change(tokenizer)
    tokenizer.save_pretrained(directory)


def without_special_tokens(tokenizer):
    tokenizer.bos_token = tokenizer.eos_token = tokenizer.pad_token = None


def expected_scores(pattern: list, tokens: list) -> dict[str, list[float]]:
    """Every score of every head of a layer, in plain loops."""
    rows = [[(i, row) for text in pattern for i, row in enumerate(text[head]) if i] for head in range(len(pattern[0]))]

    def mean(score):
        return [math.fsum(score(i, row) for i, row in head) / len(head) for head in rows]

    return {
        "prefix_matching": oracles.prefix_matching(pattern, tokens),
        "previous_token": oracles.previous_token(pattern),
        "duplicate_token": oracles.duplicate_token(pattern, tokens),
        "first_token": mean(lambda i, row: row[0]),
        "diagonal": mean(lambda i, row: row[i]),
        "entropy": mean(lambda i, row: oracles.entropy(row)),
        "relative_entropy": mean(lambda i, row: oracles.entropy(row) / math.log(i + 1)),
    }


# A directory of another library -------------------------------------------------------------------


def test_scores_equal_those_of_the_attentions_that_transformers_itself_gives(directory, measured):
    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()
    for seed, tokens in zip((0, 7), measured.arrays[TOKENS], strict=True):
        with torch.no_grad():
            attentions = model(torch.tensor(tokens), output_attentions=True).attentions
        for layer, attention in enumerate(attentions):
            table = measured.table[(measured.table.layer == layer) & (measured.table.seed == seed)]
            assert table["head"].tolist() == list(range(attention.shape[1]))
            for name, values in expected_scores(attention.double().tolist(), tokens.tolist()).items():
                assert table[name].tolist() == pytest.approx(values, abs=1e-5)
    assert measured.table.prefix_matching.std() > 1e-3  # heads differ, so a mixed-up head would show


def test_the_copying_score_and_its_norm_are_those_of_the_probe_at_every_seed(directory, measured):
    expected = copying(toy_models.load(directory), fold=True)
    for _, table in measured.table.groupby("seed"):
        assert table.copying.tolist() == expected.score.flatten().tolist()
        assert table.output_norm.tolist() == expected.output_norm.flatten().tolist()


def test_a_text_is_the_start_token_and_copies_of_a_block_of_distinct_ordinary_tokens(measured):
    assert measured.measured_with["text"] == {"bos": 0, "period": 7, "copies": 4, "positions": 29}
    tokens = measured.arrays[TOKENS].reshape(-1, 29)
    assert (tokens[:, 0] == 0).all()
    blocks = tokens[:, 1:].reshape(-1, 4, 7)
    assert (blocks == blocks[:, :1]).all()
    assert all(len(set(block[0])) == 7 for block in blocks)
    assert set(tokens[:, 1:].flat) <= set(range(2, 23))  # 0 and 1 are <s> and <unk>
    assert not np.array_equal(*measured.arrays[TOKENS])


@pytest.mark.parametrize("bos", [None, 9])
def test_the_start_token_stands_in_front_whatever_its_id(bos):
    tokens = subject._texts(subject.Config(texts=2, copies=2), [5, 3, 8], bos, 3, seed=0)
    start = [] if bos is None else [bos]
    assert all(text == start + 2 * text[-3:] and sorted(text[-3:]) == [3, 5, 8] for text in tokens.tolist())


def test_a_tokenizer_without_a_start_token_gives_texts_without_one(copy):
    tokenizer_of(copy, without_special_tokens)
    found = subject.run(subject.Config(model=str(copy), texts=2, seeds=(0,)))
    assert found.measured_with["text"] == {"bos": None, "period": 8, "copies": 4, "positions": 32}
    assert found.arrays[TOKENS].min() >= 2


@pytest.mark.parametrize(("starts", "bos"), [(True, 0), (False, None)])
def test_special_tokens_are_left_out_and_the_start_token_goes_where_its_family_has_one(starts, bos):
    tokenizer = SimpleNamespace(
        added_tokens_decoder={3: SimpleNamespace(special=True), 4: SimpleNamespace(special=False)},
        all_special_ids=[0],
        bos_token="<s>",
        get_vocab=lambda: {"<s>": 0, "a": 1, "b": 2, "<reserved>": 3, "added": 4, "also b": 2},
    )
    model = SimpleNamespace(tokenizer=tokenizer, cfg=SimpleNamespace(d_vocab=8, default_prepend_bos=starts))
    assert subject._vocabulary(model, subject.Config(model="made up")) == ([1, 2, 4], bos)


# Configurations -----------------------------------------------------------------------------------


def test_other_weights_in_the_same_directory_are_another_configuration(copy):
    before = subject.Config(model=str(copy))
    assert subject.Config(model=str(copy)) == before
    assert subject.Config().files is None
    assert subject.Config(model="gpt2").files is None
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    after = study.configure(subject.Config, {"model": str(copy)})
    assert after.files != before.files
    assert replace(after, files=None) == after
    with pytest.raises(WorkbenchError, match=f"files={before.files} is not the sum of"):
        study.configure(subject.Config, {"model": str(copy), "files": before.files})


@pytest.mark.parametrize("wrong", ["period=1", "copies=1", "texts=0"])
def test_a_text_that_repeats_nothing_is_refused_with_its_value(wrong):
    key, value = wrong.split("=")
    with pytest.raises(WorkbenchError, match=wrong):
        study.configure(subject.Config, {key: value})


def test_the_same_configuration_gives_the_same_table_bit_for_bit():
    config = study.configure(subject.Config, {**subject.QUICK, "period": 5})
    first, second = subject.run(config), subject.run(config)
    assert first.table.equals(second.table)
    assert all(np.array_equal(values, second.arrays[name]) for name, values in first.arrays.items())


def test_the_byte_model_is_the_checkpoint_of_its_run_and_reads_bytes_that_its_text_often_has(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path / "results"))
    (tmp_path / "text.py").write_text("def double(number):\n    return number + number\n" * 20)
    model = replace(byte_models.MODEL, n_heads=2, n_key_value_heads=2, d_model=16, d_head=8, attn_scale=3.0)
    parts = {"model": model, "task": Text(n_ctx=32, path=str(tmp_path / "text.py"))}
    run = byte_models.byte_model(byte_models.TWO_LAYERS, 3, train=TrainConfig(steps=2), **parts)
    monkeypatch.setattr(subject, "_byte_model", lambda config: run)
    assert subject.Config().model == subject.BYTE_MODEL
    config = subject.Config(texts=1, seeds=(0,))
    found = subject.run(config)
    assert found.measured_with["text"]["checkpoint"] == run.hash
    assert set(found.arrays[TOKENS][0, :, 1:].flat) <= set(b"def double(number):\n    return number + number\n")
    with torch.no_grad():
        cache = train_or_load(run, tmp_path / "results" / "checkpoints").model.run_with_cache(
            torch.tensor(found.arrays[TOKENS][0])
        )[1]
    first = cache["pattern", 0][:, :, 1:, 0].mean((0, 2)).tolist()  # the first query sees nothing else
    assert found.table[found.table.layer == 0].first_token.tolist() == pytest.approx(first)


# Calibration --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return running.carry_out(running.plan("head_scores", "quick", {}, folder), again=False).result


def test_every_claim_holds_on_the_quick_profile(saved):
    verdicts = [judge("head_scores", claim, saved) for claim in subject.CLAIMS]
    assert len(verdicts) >= 12
    assert all(verdict.holds for verdict in verdicts)


@pytest.mark.parametrize("key", subject.KNOWN)
def test_every_claim_fails_when_its_own_measurement_moves(saved, key):
    name = subject._array(*key)
    moved = replace(saved, arrays={**saved.arrays, name: saved.arrays[name] + 1e-5})
    failed = [key for key, claim in zip(subject.KNOWN, subject.CLAIMS, strict=True) if not _holds(claim, moved)]
    assert failed == [key]


def _holds(claim, result) -> bool:
    return judge("head_scores", claim, result).holds


def test_the_constructed_circuit_is_measured_as_what_it_is(saved):
    first, second = (rows for _, rows in saved.table.groupby("layer"))
    assert (first.previous_token > 1 - 1e-6).all()
    assert (second.prefix_matching > 1 - 1e-6).all()
    assert (second.copying > 1 - 1e-6).all()
    # What it writes, no token's logit reads: the score of nothing is no number.
    assert first.copying.isna().all()
    assert (first.output_norm == 0).all()


# The command --------------------------------------------------------------------------------------


def test_the_command_measures_a_directory_and_writes_its_table_as_csv(llama_directory, tmp_path):
    place = ["--results", str(tmp_path)]
    settings = ["--set", f"model={llama_directory}", "--set", "texts=1", "--seeds", "2"]
    done = CliRunner().invoke(main, ["run", "head_scores", *settings, *place], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    (folder,) = (tmp_path / "head_scores").iterdir()
    identifier = f"head_scores/{folder.name[:8]}"
    told = CliRunner().invoke(main, ["show", identifier, "--format", "csv", *place], catch_exceptions=False)
    assert told.stdout == (folder / results.TABLE).read_text()
    assert told.stdout.count("\n") == 1 + 2 * 4 * 2  # layers, heads, seeds
    assert json.loads((folder / results.RUN).read_text())["text"]["period"] == 7
    verdicts = CliRunner().invoke(main, ["claims", "--from", identifier, *place], catch_exceptions=False)
    assert verdicts.exit_code == 0


# Refusals -----------------------------------------------------------------------------------------


def refusal(error=ModelError, **settings) -> str:
    with pytest.raises(error) as caught:
        subject.run(subject.Config(texts=1, seeds=(0,), **settings))
    assert isinstance(caught.value.exit_code, int)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_directory_without_a_tokenizer_is_refused_by_the_missing_file(copy):
    (copy / "tokenizer_config.json").unlink()
    assert "tokenizer_config.json" in refusal(model=str(copy))


def test_a_name_that_cannot_be_fetched_is_refused_by_it():
    assert "nobody/no-such-model" in refusal(model="nobody/no-such-model")


def test_a_tokenizer_of_another_vocabulary_is_refused_with_the_token(copy):
    tokenizer_of(copy, lambda tokenizer: tokenizer.add_tokens(["w23", "w24"]))
    assert "knows token 24, the model embeds 23" in refusal(model=str(copy))


@pytest.mark.parametrize("period", [8, 22])
def test_a_block_that_vocabulary_or_context_cannot_hold_is_refused_with_the_longest_that_fits(gpt2_directory, period):
    told = refusal(model=str(gpt2_directory), period=period)
    assert f"4 copies of {period} distinct tokens do not fit" in told
    assert "set a period of 2 to 7" in told


def test_a_context_too_small_for_any_block_is_refused_with_its_size(gpt2_directory):
    assert "21 tokens to draw from and 32 positions: too few" in refusal(model=str(gpt2_directory), copies=16)


def test_a_model_without_attention_is_refused_by_the_hook_looked_for(gpt2_directory, tmp_path):
    folder = shutil.copytree(gpt2_directory, tmp_path / "mamba")
    settings = {"vocab_size": 23, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}
    MambaForCausalLM(MambaConfig(**settings, bos_token_id=0, eos_token_id=0, pad_token_id=0)).save_pretrained(folder)
    told = refusal(ProbeInputError, model=str(folder))
    assert "no hook blocks.0.attn.hook_pattern: the nearest are blocks.0." in told
