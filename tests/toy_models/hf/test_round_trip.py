import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.toy_models.hf.twins import CASES
from toy_models import Transformer, TransformerConfig, from_hf, to_hf
from toy_models.errors import ModelError
from toy_models.positions.rope import Rope
from toy_models.seeding import generator

# What is read as one architecture and written as another that computes the same.
SIMPLER = {"mistral_without_window": "LlamaForCausalLM"}
SIZE = {"n_layers": 2, "n_heads": 2, "d_model": 8, "d_mlp": 12, "d_vocab": 11, "n_ctx": 10}


def random_model(without: tuple[str, ...] = (), **options) -> Transformer:
    """Every weight random, but for those whose names end in one of `without`, which are zero."""
    model = Transformer(TransformerConfig(**{**SIZE, **options}))
    noise = generator(0, "round trip")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape, generator=noise, dtype=torch.float64)
            weight.copy_(torch.zeros(()) if name.endswith(without) else drawn)
    return model


def assert_same_bits(one: Transformer, other: Transformer) -> None:
    mine, yours = one.state_dict(), other.state_dict()
    assert mine.keys() == yours.keys()
    for name, weight in mine.items():
        assert weight.dtype == yours[name].dtype, name
        assert torch.equal(weight, yours[name]), name


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_read_written_and_read_again_every_bit_is_the_same(case, twin, tokens, tmp_path):
    theirs, folder = twin(case)
    first = from_hf(folder)
    written = to_hf(first, tmp_path / "written")
    again = from_hf(written)
    assert again.cfg == first.cfg
    assert_same_bits(again, first)
    on_disk, before = load_file(written / "model.safetensors"), load_file(folder / "model.safetensors")
    for name, weight in before.items():
        assert torch.equal(on_disk[name], weight), name
    architecture = json.loads((written / "config.json").read_text())["architectures"]
    assert architecture == [SIMPLER.get(case, type(theirs).__name__)]
    reopened = AutoModelForCausalLM.from_pretrained(written, attn_implementation="eager").eval()
    torch.testing.assert_close(reopened(tokens).logits, theirs(tokens).logits, rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_toy_opens_in_transformers_in_its_own_type(dtype, tmp_path):
    model = random_model(("b_U",), dtype=dtype)
    folder = to_hf(model, tmp_path / "toy")
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = torch.randint(11, (2, 10), generator=generator(1, "toy"))
    assert theirs.dtype == model.cfg.dtype
    if dtype == "float64":
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), rtol=0, atol=1e-10)
    assert_same_bits(from_hf(folder), model)


OPTIONS = st.fixed_dictionaries(
    {
        "n_layers": st.integers(1, 3),
        "n_heads": st.sampled_from([2, 4]),
        "tie_word_embeddings": st.booleans(),
        "eps": st.sampled_from([1e-6, 1e-5, 0.1]),
        "act_fn": st.sampled_from(["relu", "gelu", "gelu_new", "silu"]),
    }
)
KINDS = st.sampled_from(
    [
        {"position": "learned", "attn_scale": 1.0},
        {"position": Rope(fraction=0.5, base=77.0), "d_model": 16, "parallel_attn_mlp": True},
        {"position": "rope"},
        {"position": "rope", "normalization_type": "RMS", "gated_mlp": True, "n_key_value_heads": 1, "d_head": 6},
        {"position": "rope", "normalization_type": "RMS", "gated_mlp": True, "window": 3},
        {"position": "rope", "normalization_type": "RMS", "gated_mlp": True, "use_qk_norm": True},
    ]
)


@settings(max_examples=25)
@given(options=OPTIONS, kind=KINDS)
def test_what_fits_comes_back_with_every_bit(tmp_path_factory, options, kind):
    gated = kind.get("gated_mlp", False)
    attention = (".b_Q", ".b_K", ".b_V", ".b_O") if "window" in kind else ()
    model = random_model(("b_U", *((".b_in", ".b_out") if gated else ()), *attention), **{**options, **kind})
    again = from_hf(to_hf(model, tmp_path_factory.mktemp("any") / "model"))
    assert again.cfg == model.cfg
    assert_same_bits(again, model)


# Refusals -----------------------------------------------------------------------------------------


def refusal(model: Transformer, folder) -> str:
    with pytest.raises(ModelError) as caught:
        to_hf(model, folder)
    told = str(caught.value)
    assert "\n" not in told
    assert list(folder.parent.iterdir()) == []
    return told


@pytest.mark.parametrize(
    ("options", "without", "told"),
    [
        ({}, (), "GPT2LMHeadModel: unembed.b_U reaches"),
        ({"position": "alibi"}, ("b_U",), "GPT2LMHeadModel: position='Alibi' must be 'Learned'"),
        ({"window": 3}, ("b_U",), "GPT2LMHeadModel: window=3 must be None"),
        ({"d_head": 5}, ("b_U",), "GPT2LMHeadModel: d_head=5 must be d_model / n_heads = 4"),
        ({"d_mlp": 0}, ("b_U",), "GPT2LMHeadModel: d_mlp=0 leaves no MLP"),
        ({"d_vocab_out": 3}, ("b_U",), "GPT2LMHeadModel: d_vocab_out=3 must equal d_vocab=11"),
        ({"attn_scale": 3.0}, ("b_U",), "GPT2LMHeadModel: attn_scale=3.0 must be sqrt(d_head) or 1"),
        ({"smeared_keys": True}, ("b_U",), "GPT2LMHeadModel: smeared_keys=True must be False"),
        ({"position": "rope", "n_key_value_heads": 1}, ("b_U",), "GPTNeoXForCausalLM: n_key_value_heads=1 must equal"),
        (
            {"position": Rope(fraction=0.5), "normalization_type": "RMS", "gated_mlp": True},
            ("b_U", ".b_in", ".b_out"),
            "must turn whole heads, fraction=1",
        ),
        (
            {"position": "rope", "normalization_type": "RMS", "gated_mlp": True},
            ("b_U",),
            "LlamaForCausalLM: blocks.0.mlp.b_in reaches",
        ),
    ],
)
def test_what_fits_no_architecture_is_refused_with_the_reason_of_each(options, without, told, tmp_path):
    found = refusal(random_model(without, **options), tmp_path / "toy")
    assert told in found
    assert "Gemma3ForCausalLM: " in found


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(ModelError, match="cannot write"):
        to_hf(random_model(("b_U",)), tmp_path / "file" / "toy")


def test_a_directory_with_files_in_it_is_left_alone(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="exists already"):
        to_hf(random_model(("b_U",)), tmp_path / "there")
    assert [path.name for path in tmp_path.rglob("*")] == ["there", "notes.txt"]
