import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

import toy_models
from toy_models.errors import ModelError
from toy_models.seeding import generator

TOKENS = torch.randint(23, (2, 12), generator=generator(0, "text"))


@pytest.fixture(params=["gpt2", "llama"])
def directory(request):
    return request.getfixturevalue(f"{request.param}_directory")


@pytest.fixture
def copy(gpt2_directory, tmp_path):
    """A directory of our own to damage."""
    return shutil.copytree(gpt2_directory, tmp_path / "model")


def refusal(name) -> str:
    with pytest.raises(ModelError) as caught:
        toy_models.load(name)
    told = str(caught.value)
    assert "\n" not in told
    assert "Traceback" not in told
    return told


@torch.no_grad()
def test_a_loaded_directory_computes_what_its_own_library_computes(directory):
    theirs = AutoModelForCausalLM.from_pretrained(directory).eval()
    torch.testing.assert_close(toy_models.load(directory)(TOKENS), theirs(TOKENS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["text", "Path"])
def test_a_loaded_directory_has_the_hooks_that_probes_read(directory, kind):
    model = toy_models.load(kind(directory))
    _, cache = model.run_with_cache(TOKENS)
    assert model.cfg.n_layers == 2
    for layer in range(2):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"]
        assert pattern.shape == (2, model.cfg.n_heads, 12, 12)
        torch.testing.assert_close(pattern, cache[f"blocks.{layer}.attn.hook_attn_scores"].softmax(-1))
        assert (pattern.triu(1) == 0).all()


def test_it_reads_with_the_tokenizer_of_the_directory(directory):
    assert toy_models.load(directory).to_tokens("w5 w2 nonsense", prepend_bos=False).tolist() == [[5, 2, 1]]


def test_a_relative_directory_is_a_directory(copy, monkeypatch):
    monkeypatch.chdir(copy.parent)
    assert toy_models.load("model").cfg.n_layers == 2
    assert toy_models.load("./model").cfg.n_layers == 2


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["config.json", "tokenizer_config.json", "model.safetensors"])
def test_a_directory_without_a_needed_file_is_refused_by_both_names(copy, missing):
    (copy / missing).unlink()
    told = refusal(copy)
    assert str(copy) in told
    assert missing in told


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("config.json", b"{"),
        ("config.json", b"{}"),
        ("config.json", b'{"model_type": "no_such_kind"}'),
        ("tokenizer.json", b"{"),
        ("model.safetensors", b"x" * 100),
    ],
    ids=["config cut", "config empty", "unknown architecture", "tokenizer cut", "weights garbled"],
)
def test_a_directory_with_a_damaged_file_is_refused_by_its_name(copy, file, data):
    (copy / file).write_bytes(data)
    assert str(copy) in refusal(copy)


def test_a_directory_with_only_half_a_tokenizer_is_refused_by_its_name(copy):
    (copy / "tokenizer.json").unlink()
    assert str(copy) in refusal(copy)


def test_a_directory_that_is_not_there_is_refused_by_its_name(tmp_path):
    assert str(tmp_path / "nowhere") in refusal(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in refusal(str(tmp_path / "nowhere"))


def test_a_file_in_place_of_a_directory_is_refused_by_its_name(copy):
    assert str(copy / "config.json") in refusal(copy / "config.json")


def test_a_name_without_a_network_is_refused_in_one_line():
    assert "'nobody/no-such-model'" in refusal("nobody/no-such-model")
