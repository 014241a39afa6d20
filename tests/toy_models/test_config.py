"""TransformerConfig: defaults, and combinations that cannot work are refused with their values."""

import dataclasses
import math

import pytest
import torch

from toy_models import TransformerConfig, normalisers, positions
from toy_models.attention import NAMES as BACKENDS
from toy_models.canonical import digest, plain
from toy_models.errors import ConfigError, ModelError
from toy_models.normalisers.log_n import LogN
from toy_models.normalisers.spec import Normaliser
from toy_models.positions.learned import Learned
from toy_models.positions.none import NoPosition
from toy_models.positions.rope import Rope
from toy_models.positions.shortformer import Shortformer

SMALL = {"n_layers": 2, "n_heads": 3, "d_model": 12, "d_vocab": 9, "n_ctx": 16}


def refusal(**options) -> str:
    with pytest.raises(ConfigError) as caught:
        TransformerConfig(**{**SMALL, **options})
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ModelError)
    return str(caught.value)


def test_defaults_follow_from_the_sizes():
    config = TransformerConfig(**SMALL)
    assert (config.d_head, config.d_mlp, config.d_vocab_out, config.n_key_value_heads) == (4, 48, 9, 3)
    assert config.attn_scale == pytest.approx(2.0)
    assert (config.attention, config.causal, config.window, config.act_fn) == ("auto", True, None, "gelu")
    assert (config.normalization_type, config.norm_position, config.eps) == ("LN", "pre", 1e-5)
    assert config.position == Learned()
    assert config.normaliser == normalisers.find("softmax")()
    assert config.dtype is torch.float32
    assert config.device == "cpu"
    assert TransformerConfig(**SMALL, d_head=5).attn_scale == pytest.approx(math.sqrt(5))


def test_what_is_given_is_kept():
    given = {"d_head": 5, "d_mlp": 7, "d_vocab_out": 3, "n_key_value_heads": 1, "attn_scale": 1.5, "window": 1}
    config = TransformerConfig(**SMALL, **given)
    assert {name: getattr(config, name) for name in given} == given
    for name, dtype in (("float64", torch.float64), ("bfloat16", torch.bfloat16)):
        assert TransformerConfig(**SMALL, dtype=name).dtype is dtype
        assert TransformerConfig(**SMALL, dtype=dtype).dtype is dtype


@pytest.mark.parametrize(
    ("name", "spec"),
    [("learned", Learned()), ("rope", Rope()), ("shortformer", Shortformer()), ("none", NoPosition())],
)
def test_a_position_may_be_a_name_or_a_spec(name, spec):
    assert TransformerConfig(**SMALL, position=name) == TransformerConfig(**SMALL, position=spec)


def test_what_transformer_lens_reads_follows_from_the_fields():
    config = TransformerConfig(**SMALL)
    assert (config.attn_only, config.final_rms, config.default_prepend_bos) == (False, False, False)
    config = TransformerConfig(**SMALL, d_mlp=0, normalization_type="RMS", bos_id=0)
    assert (config.attn_only, config.final_rms, config.default_prepend_bos) == (True, True, True)


REFUSED = [
    ({"d_model": 13}, ["d_model=13", "n_heads=3", "d_head"]),
    ({"n_heads": 0}, ["n_heads=0", "at least 1"]),
    ({"n_layers": -1}, ["n_layers=-1", "at least 0"]),
    ({"d_vocab": 0}, ["d_vocab=0"]),
    ({"n_ctx": True}, ["n_ctx=True", "whole number"]),
    ({"d_head": 0}, ["d_head=0"]),
    ({"d_mlp": -4}, ["d_mlp=-4", "at least 0"]),
    ({"d_vocab_out": 0}, ["d_vocab_out=0"]),
    ({"n_key_value_heads": 2}, ["n_heads=3", "n_key_value_heads=2", "divisor of 3"]),
    ({"n_key_value_heads": 0}, ["n_key_value_heads=0"]),
    ({"n_key_value_heads": 6}, ["n_heads=3", "n_key_value_heads=6"]),
    ({"window": 0}, ["window=0"]),
    ({"window": True}, ["window=True"]),
    ({"attn_scale": -1.0}, ["attn_scale=-1.0"]),
    ({"attn_scale": math.nan}, ["attn_scale=nan"]),
    ({"attn_scale": 0.0}, ["attn_scale=0.0", "positive"]),
    ({"eps": 0.0}, ["eps=0.0", "positive"]),
    ({"eps": -1e-5}, ["eps=-1e-05", "positive"]),
    ({"eps": math.nan}, ["eps=nan"]),
    ({"bos_id": 9}, ["bos_id=9", "d_vocab=9"]),
    ({"bos_id": -1}, ["bos_id=-1"]),
    ({"gated_mlp": True, "d_mlp": 0}, ["gated_mlp=True", "d_mlp=0"]),
    ({"norm_position": "post", "normalization_type": None}, ["norm_position='post'", "None", "LN"]),
    ({"smeared_keys": True, "causal": False}, ["smeared_keys=True", "causal=True"]),
    ({"act_fn": "swish"}, ["act_fn='swish'", "relu", "gelu", "gelu_new", "silu"]),
    ({"normalization_type": "BN"}, ["normalization_type='BN'", "LN", "RMS", "None"]),
    ({"norm_position": "middle"}, ["norm_position='middle'", "pre", "post"]),
    ({"dtype": "int8"}, ["dtype='int8'", "float32", "bfloat16"]),
    ({"dtype": torch.int64}, ["torch.int64", "float32"]),
    ({"position": "fire"}, ["'fire'", *positions.NAMES]),
    ({"position": 3}, ["position=3", "toy_models.positions"]),
    ({"position": Rope}, ["position=", "toy_models.positions"]),
    ({"normaliser": "softmin"}, ["'softmin'", *normalisers.NAMES]),
    ({"normaliser": 3}, ["normaliser=3", "toy_models.normalisers"]),
    ({"attention": "flash"}, ["'flash'", "auto", *BACKENDS]),
    ({"d_head": 3, "position": "rope"}, ["fraction=1.0", "d_head=3", "even"]),
    ({"position": Rope(fraction=0.1)}, ["fraction=0.1", "d_head=4"]),
    ({"position": Rope(fraction=1.5)}, ["fraction=1.5"]),
    ({"position": Rope(fraction=0.0)}, ["fraction=0.0"]),
    ({"position": Rope(base=-1.0)}, ["base=-1.0"]),
    ({"position": Rope(base=math.nan)}, ["base=nan"]),
]


@pytest.mark.parametrize(("options", "expected"), REFUSED, ids=[str(options) for options, _ in REFUSED])
def test_what_cannot_work_is_refused_with_its_values(options, expected):
    message = refusal(**options)
    for part in expected:
        assert part in message


WRONG_TYPES = [
    ({"n_ctx": 2.0}, ["n_ctx=2.0", "whole number"]),
    ({"d_model": "12"}, ["d_model='12'", "whole number"]),
    ({"window": 2.5}, ["window=2.5"]),
    ({"attn_scale": 0}, ["attn_scale=0", "positive"]),
    ({"attn_scale": "big"}, ["attn_scale='big'"]),
    ({"eps": 0}, ["eps=0", "positive"]),
    ({"eps": "small"}, ["eps='small'"]),
    ({"bos_id": "zero"}, ["bos_id='zero'"]),
    ({"act_fn": ["relu"]}, ["act_fn=['relu']", "relu"]),
]


@pytest.mark.parametrize(("options", "expected"), WRONG_TYPES, ids=[str(options) for options, _ in WRONG_TYPES])
def test_a_value_of_the_wrong_type_is_refused_too(options, expected):
    """These tests check signatures, and would refuse the call before the configuration could: go round them."""
    config = TransformerConfig(**SMALL)
    for name, value in options.items():
        object.__setattr__(config, name, value)
    with pytest.raises(ConfigError) as caught:
        config.__post_init__()
    assert "\n" not in str(caught.value)
    for part in expected:
        assert part in str(caught.value)


def test_a_fused_backend_refuses_a_normaliser_that_must_see_the_scores():
    class Materialising(Normaliser):
        def __call__(self, scores, visible):
            return scores

        def __repr__(self):
            return "Materialising()"

    message = refusal(attention="sdpa", normaliser=Materialising())
    expected = "attention='sdpa' cannot run normaliser=Materialising(), which needs all scores of a row at once"
    assert message == f"{expected}: use attention='auto'"
    assert TransformerConfig(**SMALL, attention="auto", normaliser=Materialising()).attention == "auto"


def test_options_are_named_and_frozen():
    with pytest.raises(TypeError):
        TransformerConfig(2, 3, 12, 9, 16)
    with pytest.raises(TypeError, match="n_head"):
        TransformerConfig(**SMALL, n_head=3)
    config = TransformerConfig(**SMALL)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.n_layers = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        Rope().base = 5.0


def test_replace_checks_again():
    config = TransformerConfig(**SMALL)
    assert dataclasses.replace(config, window=4).window == 4
    with pytest.raises(ConfigError, match="window=-1"):
        dataclasses.replace(config, window=-1)


# The digest -----------------------------------------------------------------------------------------


def test_the_digest_does_not_depend_on_the_order_of_the_fields():
    config = TransformerConfig(**SMALL, position="rope", causal=False)
    backwards = TransformerConfig(causal=False, position=Rope(), **dict(reversed(SMALL.items())))
    assert digest(config) == digest(backwards)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert len(digest(config)) == 12
    assert digest(config, 20).startswith(digest(config))


def test_a_default_spelled_out_is_the_same_configuration():
    spelled = TransformerConfig(**SMALL, d_head=4, d_mlp=48, d_vocab_out=9, n_key_value_heads=3, dtype="float32")
    assert digest(spelled) == digest(TransformerConfig(**SMALL))


def test_every_option_changes_the_digest():
    changes = [
        {"n_layers": 3},
        {"n_heads": 2},
        {"d_model": 24},
        {"d_vocab": 10},
        {"n_ctx": 17},
        {"d_head": 6},
        {"d_mlp": 0},
        {"d_vocab_out": 4},
        {"act_fn": "relu"},
        {"gated_mlp": True},
        {"normalization_type": None},
        {"normalization_type": "RMS"},
        {"norm_position": "post"},
        {"eps": 1e-6},
        {"position": "none"},
        {"position": "shortformer"},
        {"position": "rope"},
        {"position": Rope(base=500.0)},
        {"position": Rope(fraction=0.5)},
        {"attention": "reference"},
        {"n_key_value_heads": 1},
        {"window": 4},
        {"causal": False},
        {"attn_scale": 3.0},
        {"smeared_keys": True},
        {"gated_attention": True},
        {"normaliser": "relu"},
        {"normaliser": "log_n"},
        {"normaliser": LogN(learned=True)},
        {"parallel_attn_mlp": True},
        {"use_qk_norm": True},
        {"use_normalization_before_and_after": True},
        {"rmsnorm_uses_offset": True, "normalization_type": "RMS"},
        {"attn_scores_soft_cap": 50.0},
        {"output_logits_soft_cap": 30.0},
        {"embed_scale": 2.0},
        {"tie_word_embeddings": True},
        {"bos_id": 0},
        {"dtype": torch.float64},
        {"use_attn_result": True},
        {"use_split_qkv_input": True},
    ]
    digests = [digest(TransformerConfig(**{**SMALL, **change})) for change in [{}, *changes]]
    assert len(set(digests)) == len(digests)
    untried = {f.name for f in dataclasses.fields(TransformerConfig)} - {name for c in changes for name in c}
    assert untried == {"device"}  # one device here


def test_a_spec_that_was_there_before_an_option_keeps_its_text():
    assert plain(LogN()) == {"kind": "LogN", "s": 1.0}
    assert "gated_attention" not in plain(TransformerConfig(**SMALL))


def test_specs_without_options_stay_apart():
    assert plain(Learned()) == {"kind": "Learned"}
    assert len({digest(spec) for spec in (Learned(), Shortformer(), NoPosition(), Rope())}) == 4
    assert plain({"dtype": torch.bfloat16, "at": (1, 2)}) == {"dtype": "bfloat16", "at": [1, 2]}


@pytest.mark.parametrize("room", [positions, normalisers])
def test_every_listed_part_can_be_found_and_unknown_ones_list_them(room):
    for name in room.NAMES:
        assert dataclasses.is_dataclass(room.find(name))
    with pytest.raises(ValueError, match="'nothing': choose one of " + ", ".join(room.NAMES)):
        room.find("nothing")
