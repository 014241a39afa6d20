import json
import random
import shutil
import subprocess
import sys
from fnmatch import fnmatch

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.toy_models.hf.twins import theirs
from toy_models import Transformer, TransformerConfig, from_hf, from_state_dict, to_hf
from toy_models.errors import InputError, ModelError
from toy_models.hf import NAMES, find
from toy_models.hf.family import Biases


def refusal(load, *arguments, **options) -> str:
    with pytest.raises(ModelError) as caught:
        load(*arguments, **options)
    told = str(caught.value)
    assert "\n" not in told
    return told


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_a_model_has_the_type_that_its_config_names_unless_another_is_asked_for(dtype, tmp_path):
    wanted = getattr(torch, dtype)
    theirs("llama", wanted).save_pretrained(tmp_path)
    found = from_hf(tmp_path)
    assert {weight.dtype for weight in found.parameters()} == {found.cfg.dtype} == {wanted}
    other = from_hf(tmp_path, dtype=torch.float64)
    assert other.cfg.dtype == torch.float64
    assert all(torch.equal(a, b.to(wanted)) for a, b in zip(found.parameters(), other.parameters(), strict=True))


def test_the_older_word_for_the_type_is_read_too_and_an_unknown_type_refused(twin, tmp_path):
    folder = shutil.copytree(twin("gpt2")[1], tmp_path / "model")
    path = folder / "config.json"
    options = json.loads(path.read_text())
    path.write_text(json.dumps({**options, "dtype": None, "torch_dtype": "bfloat16"}))
    assert from_hf(folder).cfg.dtype == torch.bfloat16
    path.write_text(json.dumps({**options, "dtype": "int4"}))
    assert "dtype='int4'" in refusal(from_hf, folder)
    assert from_hf(folder, dtype="float32").cfg.dtype == torch.float32


@torch.no_grad()
def test_a_table_of_positions_can_be_cut_and_not_stretched(twin, tokens):
    folder = twin("gpt2")[1]
    short = from_hf(folder, n_ctx=24)
    assert short.W_pos.shape == (24, 16)
    assert torch.equal(short(tokens), from_hf(folder)(tokens))
    assert "n_ctx=41 goes beyond the table of 40 positions" in refusal(from_hf, folder, n_ctx=41)


@torch.no_grad()
def test_rotary_positions_reach_as_far_as_asked(twin, tokens):
    far = from_hf(twin("llama")[1], n_ctx=1000)
    assert far(tokens.repeat(1, 20)).shape == (2, 480, 23)


def test_the_backend_is_the_one_asked_for(twin, tokens):
    model = from_hf(twin("llama")[1], attention="reference")
    model(tokens)
    assert model.backends == ("reference", "reference")
    assert "unknown attention backend 'flash'" in refusal(from_hf, twin("llama")[1], attention="flash")
    assert "no_such_device" in refusal(from_hf, twin("llama")[1], device="no_such_device")


def test_loading_draws_nothing_and_is_born_in_eval_mode(twin):
    folder = twin("gpt2")[1]  # written now, if no test before has: that draws
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    model = from_hf(folder)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert not model.training
    assert model.tokenizer is None


def test_every_parameter_of_ours_is_a_bias_or_has_a_place_in_the_checkpoint(twin):
    """What has no place is set to zero: that must never be a weight or a gain."""
    for architecture in NAMES:
        family = find(architecture)
        case = {"gpt_neox": "neox", "gemma3_text": "gemma3"}.get(family.model_type, family.model_type)
        model = from_hf(twin(case)[1])
        placed = {entry.ours for entry in family.every_entry(model.cfg, Biases())}
        left = {name.rsplit(".", 1)[-1] for name, _ in model.named_parameters() if name not in placed}
        assert all(name.startswith("b_") for name in left), (architecture, left)


@pytest.mark.parametrize("case", ["gpt2", "neox_sequential", "llama", "gemma3"])
def test_no_memory_is_left_without_a_value(case, twin):
    torch.use_deterministic_algorithms(True)  # fills what torch.empty gives with nan
    try:
        assert all(weight.isfinite().all() for weight in from_hf(twin(case)[1]).parameters())
    finally:
        torch.use_deterministic_algorithms(False)


# Names --------------------------------------------------------------------------------------------


def test_a_name_without_a_network_is_refused_in_one_line():
    assert "'nobody/no-such-model' is no directory here" in refusal(from_hf, "nobody/no-such-model")


def test_a_name_is_what_the_hub_gives_for_it_and_no_more_is_asked_for_than_is_read(twin, tokens, monkeypatch):
    asked = {}

    def given(name, *, allow_patterns):
        asked[name] = allow_patterns
        return str(twin("gpt2")[1])

    monkeypatch.setattr("huggingface_hub.snapshot_download", given)
    assert torch.equal(from_hf("somebody/gpt2")(tokens), from_hf(twin("gpt2")[1])(tokens))
    assert set(asked) == {"somebody/gpt2"}
    files = ["config.json", "model-00001-of-00002.safetensors", "pytorch_model.bin", "consolidated.safetensors"]
    wanted = [file for file in files if any(fnmatch(file, pattern) for pattern in asked["somebody/gpt2"])]
    assert wanted == files[:2]


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all"])
def test_a_directory_that_is_not_there_is_refused_by_its_name(name):
    assert "is no directory" in refusal(from_hf, name)


@pytest.mark.parametrize("name", ["a b", "a/b/c"])
def test_what_can_be_neither_directory_nor_name_is_refused(name):
    assert repr(name) in refusal(from_hf, name)


def test_a_directory_without_a_config_is_refused(tmp_path):
    assert "holds no config.json" in refusal(from_hf, tmp_path)


# Tokenizers ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_model_reads_texts_with_the_tokenizer_of_its_directory(gpt2_directory, tmp_path):
    model = from_hf(gpt2_directory)
    assert model.to_tokens("w5 w2 nonsense").tolist() == [[0, 5, 2, 1]]
    assert model.to_tokens(["w5 w2", "w3 w4"], prepend_bos=False).tolist() == [[5, 2], [3, 4]]
    assert model.to_single_token("w7") == 7
    assert torch.equal(model("w5 w2"), model(torch.tensor([[0, 5, 2]])))
    again = from_hf(to_hf(model, tmp_path / "again"))
    assert again.to_tokens("w5 w2").tolist() == [[0, 5, 2]]


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (lambda m: m.to_tokens(["w5", "w5 w2"]), "texts of 2 to 3 tokens make no batch"),
        (lambda m: m.to_single_token("w5 w2"), "'w5 w2' is 2 tokens, not one"),
        (lambda m: m.to_single_token(2.5), "give a token id or a text, not 2.5"),
        (lambda m: m.to_tokens(3), "give token ids, not 3"),
    ],
)
def test_what_makes_no_tokens_is_refused(read, told, gpt2_directory):
    with pytest.raises(InputError, match=told):
        read(from_hf(gpt2_directory))


def test_a_tokenizer_that_cannot_be_read_is_refused_by_its_directory(gpt2_directory, tmp_path):
    folder = shutil.copytree(gpt2_directory, tmp_path / "model")
    (folder / "tokenizer.json").write_text("{")
    assert f"{folder} holds a tokenizer that cannot be read" in refusal(from_hf, folder)


def test_a_directory_without_a_tokenizer_takes_token_ids(twin):
    with pytest.raises(InputError, match="this model has no tokenizer: give token ids, not 'w5'"):
        from_hf(twin("gpt2")[1]).to_tokens("w5")


# State dicts --------------------------------------------------------------------------------------

SIZE = {"n_layers": 2, "n_heads": 2, "d_model": 12, "d_vocab": 9, "n_ctx": 16}


@pytest.mark.parametrize("suffix", [None, ".pt", ".safetensors"])
def test_a_state_dict_becomes_a_model(suffix, tmp_path):
    config = TransformerConfig(**SIZE)
    model = Transformer(config, seed=3)
    state = model.state_dict()
    # A classic dict carries buffers too, and safetensors takes no empty names.
    source = {**state, "blocks.0.attn.mask": torch.ones(2, 2), "blocks.0.attn.IGNORE": torch.tensor(-1.0)}
    if suffix is not None:
        path = tmp_path / f"weights{suffix}"
        (save_file if suffix == ".safetensors" else torch.save)(source, path)
        source = path
    found = from_state_dict(source, config)
    assert all(torch.equal(weight, found.state_dict()[name]) for name, weight in state.items())


def test_a_state_dict_that_does_not_fit_is_refused_by_name(tmp_path):
    config = TransformerConfig(**SIZE)
    state = Transformer(config).state_dict()
    fewer = {name: weight for name, weight in state.items() if name != "blocks.1.attn.W_Q"}
    assert "blocks.1.attn.W_Q" in refusal(from_state_dict, fewer, config)
    assert "blocks.0.extra" in refusal(from_state_dict, {**state, "blocks.0.extra": torch.zeros(1)}, config)
    wrong = refusal(from_state_dict, {**state, "embed.W_E": torch.zeros(9, 11)}, config)
    assert "embed.W_E" in wrong
    assert "[9, 11]" in wrong
    assert "is no file" in refusal(from_state_dict, tmp_path / "nowhere.pt", config)
    (tmp_path / "cut.pt").write_bytes(b"PK")
    assert str(tmp_path / "cut.pt") in refusal(from_state_dict, tmp_path / "cut.pt", config)


# Memory -------------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
import torch, safetensors, einops
from toy_models import Transformer, from_hf
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
model = from_hf(sys.argv[1])
copy = sum(weight.numel() * weight.element_size() for weight in model.parameters())
loaded = peak()
torch.set_num_threads(2)
model.attention_statistics(torch.arange(model.cfg.n_ctx) % 100)
print((loaded - before) / copy, copy, peak() - loaded)
"""


def measured(folder) -> tuple[float, float, float]:
    """Copies of the weights that loading took, the bytes of one copy, the bytes that row statistics took beyond it."""
    command = [sys.executable, "-c", MEASURE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    copies, copy, statistics = map(float, done.stdout.split())
    return copies, copy, statistics


def test_loading_takes_little_more_memory_than_the_model(tmp_path):
    """An embedding that is half of the model is the hard case: read whole, it would take half a copy more."""
    wide = TransformerConfig(n_layers=3, n_heads=12, d_model=768, d_vocab=30_000, n_ctx=64, tie_word_embeddings=True)
    copies, copy, _ = measured(to_hf(Transformer(wide), tmp_path / "wide"))
    assert copy > 150e6
    assert copies < 1.3


def test_row_statistics_of_a_long_text_take_a_part_of_what_its_pattern_would(tmp_path):
    n, heads = 3072, 12
    long = TransformerConfig(n_layers=1, n_heads=heads, d_model=768, d_vocab=100, n_ctx=n)
    _, _, statistics = measured(to_hf(Transformer(long), tmp_path / "long"))
    assert statistics < 0.5 * heads * n * n * 4
