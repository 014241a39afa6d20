"""What config.json says: options with an effect are followed or refused by name and value."""

import json
import shutil

import pytest
import torch

from tests.toy_models.hf.twins import CASES
from toy_models import TransformerConfig, from_hf
from toy_models.errors import ModelError
from toy_models.hf import NAMES, find
from toy_models.hf.given import Given
from toy_models.positions.rope import Rope
from toy_models.positions.rope_scaling import Llama3Scaling


@pytest.fixture
def changed(twin, tmp_path):
    """case, options -> a directory with these options in config.json beside the old ones; None takes one away."""

    def make(case, **options):
        folder = shutil.copytree(twin(case)[1], tmp_path / "model")
        path = folder / "config.json"
        merged = {**json.loads(path.read_text()), **options}
        path.write_text(json.dumps({name: value for name, value in merged.items() if value is not ...}))
        return folder

    return make


def refusal(folder, **options) -> str:
    with pytest.raises(ModelError) as caught:
        from_hf(folder, **options)
    told = str(caught.value)
    assert "\n" not in told
    return told


def test_every_architecture_has_a_twin():
    kinds = {family for family, _ in CASES.values()}
    assert {"GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM" for kind in kinds} == set(NAMES)


@pytest.mark.parametrize("case", CASES)
def test_everything_that_transformers_writes_by_itself_is_known(case, twin):
    theirs, folder = twin(case)
    options = json.loads(theirs.config.to_json_string(use_diff=False))  # defaults of every version's options included
    family = find(type(theirs).__name__)
    given = Given({**options, "architectures": [type(theirs).__name__]})
    given.only(model_type=family.model_type)
    found, _ = family.options(given)
    given.finish()
    assert TransformerConfig(**found) == from_hf(folder).cfg


REFUSED = [
    ("gpt2", {"architectures": ["GPT2Model"]}, "architecture 'GPT2Model' is not supported: supported are GPT2LMHead"),
    ("gpt2", {"architectures": ["MixtralForCausalLM"]}, "'MixtralForCausalLM' is not supported"),
    ("gpt2", {"architectures": ...}, "architectures=None must name one architecture"),
    ("gpt2", {"model_type": "gptj"}, "model_type='gptj' is not supported, only 'gpt2'"),
    ("gpt2", {"activation_function": "quick_gelu"}, "activation_function='quick_gelu' is not supported: choose"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True is not supported"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True is not supported"),
    ("gpt2", {"quantization_config": {"bits": 4}}, "quantization_config={'bits': 4} is not supported"),
    ("gpt2", {"auto_map": {"AutoModel": "code.Model"}}, "auto_map={'AutoModel': 'code.Model'} is not supported"),
    ("gpt2", {"some_new_idea": 0.5}, "some_new_idea=0.5 is not supported: nothing is known of its effect"),
    ("gpt2", {"n_head": ...}, "names no n_head"),
    ("gpt2", {"n_head": "two"}, "n_head='two' must be a whole number"),
    ("gpt2", {"n_head": 3}, "d_model=16 does not split over n_heads=3"),
    ("gpt2", {"layer_norm_epsilon": -1.0}, "layer_norm_epsilon=-1.0 must be a number above 0"),
    ("gpt2", {"tie_word_embeddings": 1}, "tie_word_embeddings=1 is not supported: choose True, False"),
    ("gpt2", {"n_ctx": 20}, "n_ctx=20 is not supported, only 40"),
    (
        "neox",
        {"rotary_pct": 0.4, "rope_parameters": ...},
        "rotary_pct=0.4 of 8 coordinates a head is not an even number",
    ),
    ("llama", {"mlp_bias": True}, "mlp_bias=True is not supported, only False"),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type='dynamic' is not supported: supported"),
    ("llama", {"rope_scaling": {"rope_type": "longrope"}}, "rope_type='longrope' is not supported"),
    ("llama", {"rope_scaling": {"rope_type": "linear"}}, "rope_type='linear' needs a factor"),
    (
        "llama",
        {"rope_scaling": {"rope_type": "linear", "factor": 2, "mscale": 3.0}},
        "mscale=3.0 is not supported with",
    ),
    ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 2}}, "rope_type='llama3' names no low_freq_factor"),
    ("llama", {"rope_parameters": {"full_attention": {}}}, "one set of options for all layers"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported"),
    ("llama", {"num_key_value_heads": 3}, "cannot share n_key_value_heads=3"),
    ("llama", {"hidden_size": 18, "head_dim": None}, "hidden_size=18 does not split over num_attention_heads=4"),
    ("llama", {"num_local_experts": 8}, "num_local_experts=8 is not supported"),
    ("mistral", {"layer_types": ["full_attention"] * 2}, "layer_types=['full_attention', 'full_attention'] is not"),
    ("qwen2", {"use_mrope": True}, "use_mrope=True is not supported"),
    ("qwen2", {"layer_types": ["full_attention", "chunked_attention"]}, "layer_types names 'chunked_attention'"),
    ("qwen2", {"layer_types": ["full_attention"]}, "must have one entry for each of num_hidden_layers=2"),
    ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True is not supported"),
    ("gemma", {"hidden_act": "silu", "hidden_activation": "relu"}, "hidden_act and hidden_activation disagree"),
    ("gemma2", {"hidden_act": "relu"}, "hidden_act='relu' is not supported"),
    (
        "gemma3",
        {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
        "layers with a window are plain",
    ),
    ("gemma3", {"rope_parameters": {"chunked_attention": {"rope_theta": 2.0}}}, "rope_parameters.chunked_attention"),
]


@pytest.mark.parametrize(("case", "options", "told"), REFUSED, ids=[f"{c}-{next(iter(o))}" for c, o, _ in REFUSED])
def test_what_is_not_supported_is_refused_by_name_and_value(case, options, told, changed):
    folder = changed(case, **options)
    assert told in (found := refusal(folder))
    assert "architecture" in next(iter(options)) or str(folder / "config.json") in found


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'"gpt2"', b"\xff"])
def test_a_config_that_cannot_be_read_is_refused_by_its_name(text, changed):
    folder = changed("gpt2")
    (folder / "config.json").write_bytes(text)
    assert f"{folder / 'config.json'} is damaged" in refusal(folder)


@torch.no_grad()
@pytest.mark.parametrize(
    ("case", "older"),
    [
        ("llama_llama3", lambda rope: {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}),
        (
            "llama_linear",
            lambda rope: {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": "linear", "factor": 3}},
        ),
        (
            "neox",
            lambda rope: {"rotary_emb_base": rope["rope_theta"], "rotary_pct": rope["partial_rotary_factor"]},
        ),
        (
            "gemma3",
            lambda rope: {
                "rope_theta": 10000,
                "rope_local_base_freq": 50,
                "rope_scaling": {"rope_type": "linear", "factor": 3},
            },
        ),
        ("llama", lambda rope: {}),
    ],
)
def test_the_older_words_for_rotary_options_mean_the_same(case, older, changed, twin, tokens):
    rope = json.loads((twin(case)[1] / "config.json").read_text())["rope_parameters"]
    folder = changed(case, rope_parameters=..., **older(rope))
    assert torch.equal(from_hf(folder)(tokens), from_hf(twin(case)[1])(tokens))


@pytest.mark.parametrize("case", ["qwen2_windows", "qwen3_biased_windows", "gemma2", "gemma3_six_of_seven_windows"])
def test_which_layers_have_a_window_follows_where_it_is_not_written_down(case, changed, twin):
    found = from_hf(changed(case, layer_types=...)).cfg
    assert found == from_hf(twin(case)[1]).cfg
    assert len(set(found.window)) == 2


def test_options_that_change_nothing_are_passed_over(changed, twin, tokens):
    folder = changed("gpt2", use_cache=False, resid_pdrop=0.3, task_specific_params={"a": 1}, some_new_idea=None)
    assert torch.equal(from_hf(folder)(tokens), from_hf(twin("gpt2")[1])(tokens))


def test_what_a_config_leaves_out_is_what_transformers_takes(changed):
    llama = from_hf(changed("llama", rms_norm_eps=..., hidden_act=..., tie_word_embeddings=...)).cfg
    assert (llama.eps, llama.act_fn, llama.tie_word_embeddings) == (1e-6, "silu", False)


def test_the_original_length_may_stand_beside_the_scaling(changed):
    scaling = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
    folder = changed("llama", rope_parameters=..., rope_scaling=scaling, original_max_position_embeddings=9)
    assert from_hf(folder).cfg.position == Rope(scaling=Llama3Scaling(8.0, 9, 1.0, 4.0))


def test_a_bos_token_outside_the_vocabulary_is_none(changed):
    assert from_hf(changed("gpt2", bos_token_id=50256)).cfg.bos_id is None
