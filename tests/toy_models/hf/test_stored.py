"""Files that are damaged, that lie or that are dangerous: one clear line, nothing executed, no model."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.toy_models.hf.twins import theirs
from toy_models import from_hf
from toy_models.errors import ModelError


@pytest.fixture
def folder(twin, tmp_path):
    """A GPT-2 of our own to damage."""
    return shutil.copytree(twin("gpt2")[1], tmp_path / "model")


@pytest.fixture
def sharded(tmp_path):
    """The same in several files with an index."""
    theirs("gpt2").save_pretrained(tmp_path / "sharded", max_shard_size="8KB")
    return tmp_path / "sharded"


def refusal(folder: Path, **options) -> str:
    with pytest.raises(ModelError) as caught:
        from_hf(folder, **options)
    told = str(caught.value)
    assert "\n" not in told
    return told


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder: Path, **options) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


WEIGHT = "transformer.h.1.mlp.c_fc.weight"


def test_a_missing_tensor_is_refused_by_name(folder):
    rewrite(folder, lambda tensors: tensors.pop(WEIGHT))
    assert "holds no tensor h.1.mlp.c_fc.weight" in refusal(folder)


def test_a_tensor_too_many_is_refused_by_name(folder):
    rewrite(folder, lambda tensors: tensors.update({"transformer.h.0.attn.extra": torch.zeros(1)}))
    assert "holds transformer.h.0.attn.extra, which config.json has no place for" in refusal(folder)


def test_a_tensor_of_another_shape_is_refused_by_name_with_both_shapes(folder):
    rewrite(folder, lambda tensors: tensors.update({WEIGHT: torch.zeros(16, 63)}))
    assert f"{WEIGHT} in {folder} has shape (16, 63): config.json makes it (16, 64)" in refusal(folder)


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        ({"n_embd": 32}, "transformer.wte.weight in {} has shape (23, 16): config.json makes it (23, 32)"),
        ({"vocab_size": 24}, "has shape (23, 16): config.json makes it (24, 16)"),
        ({"n_positions": 39}, "transformer.wpe.weight in {} has shape (40, 16): config.json makes it (39, 16)"),
        ({"n_layer": 3}, "holds no tensor h.2."),
        ({"n_layer": 1}, "holds transformer.h.1."),
        ({"n_layer": 10**9}, "tensors, and config.json says n_layer=1000000000"),
        ({"n_embd": 10**6, "n_head": 1}, "config.json makes it (23, 1000000)"),
        ({"n_embd": 10**9, "n_head": 1}, "config.json asks for weights that cannot be"),
        ({"tie_word_embeddings": False}, "holds no tensor lm_head.weight"),
    ],
)
def test_a_config_that_lies_about_its_weights_is_refused(lie, told, folder):
    configure(folder, **lie)
    assert told.format(folder) in refusal(folder)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_file_cut_short_is_refused_by_its_name(kept, folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert f"{path} is damaged or cut short" in refusal(folder)


def test_whole_numbers_are_no_weights(folder):
    rewrite(folder, lambda tensors: tensors.update({WEIGHT: torch.zeros(16, 64, dtype=torch.int8)}))
    assert f"{WEIGHT} in {folder / 'model.safetensors'} is I8: only F64, F32, BF16, F16 are read" in refusal(folder)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    assert "holds no model.safetensors" in refusal(folder)


# Shards -------------------------------------------------------------------------------------------


def test_shards_are_one_model(sharded, tokens):
    assert len(list(sharded.glob("*.safetensors"))) > 2
    torch.testing.assert_close(from_hf(sharded)(tokens), theirs("gpt2")(tokens).logits, rtol=0, atol=1e-4)


def test_a_cut_shard_is_refused_by_its_name(sharded):
    path = sorted(sharded.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path} is damaged or cut short" in refusal(sharded)


def test_a_missing_shard_is_refused_by_its_name(sharded):
    path = sorted(sharded.glob("*.safetensors"))[1]
    path.unlink()
    assert f"holds no {path.name}" in refusal(sharded)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda index: index["weight_map"].update({WEIGHT: "../outside.safetensors"}), "without a path"),
        (lambda index: index["weight_map"].update({"lm_head.bias": "model-00001"}), "holds no model-00001"),
        (lambda index: index.pop("weight_map"), "has no weight_map"),
        (lambda index: index.update(weight_map={WEIGHT: 1}), "has no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(change, told, sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    assert told in refusal(sharded)


def test_a_tensor_in_another_shard_than_the_index_says_is_refused(sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    other = next(file for file in index["weight_map"].values() if file != index["weight_map"][WEIGHT])
    index["weight_map"][WEIGHT] = other
    path.write_text(json.dumps(index))
    assert f"says that {WEIGHT} is in {other}, which does not hold it" in refusal(sharded)


# Names --------------------------------------------------------------------------------------------


def test_names_without_the_prefix_and_buffers_of_masks_are_read(folder, tokens):
    before = from_hf(folder)(tokens)

    def change(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 40, 40)

    rewrite(folder, change)
    assert torch.equal(from_hf(folder)(tokens), before)


def test_the_same_weight_under_two_names_is_refused(folder):
    rewrite(folder, lambda tensors: tensors.update({"wpe.weight": tensors["transformer.wpe.weight"].clone()}))
    assert "holds both" in refusal(folder)


def test_a_tied_unembedding_may_be_stored_as_well_but_must_agree(folder, tokens):
    before = from_hf(folder)(tokens)
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["transformer.wte.weight"].clone()}))
    assert torch.equal(from_hf(folder)(tokens), before)
    rewrite(folder, lambda tensors: tensors["lm_head.weight"][22, 15:].add_(1))
    assert "lm_head.weight" in refusal(folder)


# Pickles ------------------------------------------------------------------------------------------


@pytest.fixture
def pickled(folder):
    """Weights as torch.save writes them."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_pickled_weights_are_read_when_they_are_named_and_not_otherwise(pickled, twin, tokens):
    assert "weights='pytorch_model.bin'" in refusal(pickled)
    named = from_hf(pickled, weights="pytorch_model.bin")
    assert torch.equal(named(tokens), from_hf(twin("gpt2")[1])(tokens))


def test_pickles_of_the_older_format_are_read_too(pickled, twin, tokens):
    state = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    torch.save(state, pickled / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(pickled / "pytorch_model.bin")
    named = from_hf(pickled, weights="pytorch_model.bin")
    assert torch.equal(named(tokens), from_hf(twin("gpt2")[1])(tokens))


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("plain", [False, True])
def test_a_pickle_that_would_run_something_is_refused_and_nothing_is_run(plain, pickled, tmp_path):
    mark, path = tmp_path / "it ran", pickled / "pytorch_model.bin"
    if plain:
        path.write_bytes(pickle.dumps({"w": Bomb(mark)}, protocol=2))
    else:
        torch.save({"w": Bomb(mark)}, path)
    assert "nothing in it was run" in refusal(pickled, weights="pytorch_model.bin")
    assert not mark.exists()


def test_pickled_whole_numbers_are_no_weights(pickled):
    state = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    torch.save({**state, WEIGHT: torch.zeros(16, 64, dtype=torch.long)}, pickled / "pytorch_model.bin")
    assert "is torch.int64: only F64, F32, BF16, F16 are read" in refusal(pickled, weights="pytorch_model.bin")


@pytest.mark.parametrize("state", [[torch.zeros(1)], {"w": 3}])
def test_a_pickle_of_something_else_than_weights_is_refused(state, pickled):
    torch.save(state, pickled / "pytorch_model.bin")
    assert str(pickled / "pytorch_model.bin") in refusal(pickled, weights="pytorch_model.bin")


def test_a_pickle_cut_short_is_refused(pickled):
    path = pickled / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-3000])
    assert str(path) in refusal(pickled, weights="pytorch_model.bin")


@pytest.mark.parametrize("weights", ["../model.bin", "/etc/passwd", "nowhere.safetensors"])
def test_a_file_that_is_not_in_the_folder_is_refused(weights, folder):
    assert weights in refusal(folder, weights=weights)
