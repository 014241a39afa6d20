import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch

from analyses.core.config import configure, plain
from analyses.core.errors import WorkbenchError
from toy_models.config import TransformerConfig


class Opaque:
    """A type that pydantic does not know."""


OPAQUE = Opaque()


@dataclass(frozen=True)
class Rope:
    base: float = 1e4
    opaque: Opaque = OPAQUE


@dataclass(frozen=True)
class Learned:
    pass


@dataclass(frozen=True)
class Model:
    width: int = 64
    heads: int = 4
    d_head: int | None = None
    position: str | Rope | Learned = "rope"
    opaque: Opaque = OPAQUE
    twice: int = field(init=False, default=0)

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"width={self.width} does not split\n over heads={self.heads}")
        if self.d_head is None:
            object.__setattr__(self, "d_head", self.width // self.heads)
        if self.d_head * self.heads > self.width:
            raise ValueError(f"d_head={self.d_head} is too wide")
        if isinstance(self.position, str):
            object.__setattr__(self, "position", {"rope": Rope, "learned": Learned}[self.position]())
        object.__setattr__(self, "twice", 2 * self.width)


@dataclass(frozen=True)
class Config:
    model: Model = Model()
    steps: int = 100
    rate: float = 1e-3
    smear: bool = False
    norm: Literal["LN", "RMS"] | None = "LN"
    name: str = "plain"
    window: int | None = None
    seeds: tuple[int, ...] = (0, 1)
    names: tuple[str, ...] = ("a",)
    rates: tuple[float, ...] = (0.1,)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "7", 7),
        ("steps", "1e3", 1000),
        ("steps", "-2", -2),
        ("rate", "5e5", 5e5),
        ("rate", "3", 3.0),
        ("smear", "true", True),
        ("smear", "False", False),
        ("norm", "RMS", "RMS"),
        ("norm", "null", None),
        ("norm", "none", None),
        ("name", "5", "5"),
        ("name", "a,b", "a,b"),
        ("name", "none", "none"),
        ("name", "null", "null"),
        ("window", "12", 12),
        ("window", "null", None),
        ("seeds", "0,1,2", (0, 1, 2)),
        ("seeds", "(3,)", (3,)),
        ("seeds", "4", (4,)),
        ("names", "rope,learned", ("rope", "learned")),
        ("names", "1,2", ("1", "2")),
        ("rates", "[1,2e-1]", (1.0, 0.2)),
        ("seeds", [5, 6], (5, 6)),
        ("steps", 9, 9),
    ],
)
def test_a_setting_is_read_as_its_annotation_asks(key, text, value):
    found = getattr(configure(Config, {key: text}), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("steps", "1.5", "steps=1.5: expected int"),
        ("steps", "true", "steps=true: expected int"),
        ("steps", True, "steps=True: expected int"),
        ("smear", "1", "smear=1: expected bool"),
        ("norm", "BN", "norm=BN: expected Literal['LN', 'RMS'] | None"),
        ("window", "wide", "window=wide: expected int | None"),
        ("seeds", "0,x", "seeds=0,x: expected tuple[int, ...]"),
        ("model", "big", "model=big: expected Model"),
        ("model.opaque", "clear", "model.opaque=clear: expected Opaque"),
        ("model.position.base", "low", "model.position.base=low: expected float"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_the_expected_type(key, value, expected):
    with pytest.raises(WorkbenchError) as caught:
        configure(Config, {key: value})
    text = str(caught.value).replace("Optional[Literal['LN', 'RMS']]", "Literal['LN', 'RMS'] | None")
    assert text == expected


@pytest.mark.parametrize(
    ("key", "unknown", "nearest"),
    [
        ("stepps", "stepps", "steps"),
        ("width", "width", "model.width"),
        ("modle.width", "modle", "model"),
        ("model.widht", "model.widht", "model.width"),
        ("model.position.bas", "model.position.bas", "model.position.base"),
    ],
)
def test_an_unknown_key_is_answered_by_the_nearest_known_one(key, unknown, nearest):
    with pytest.raises(WorkbenchError) as caught:
        configure(Config, {key: 1})
    assert str(caught.value) == f"unknown key '{unknown}': the nearest known one is '{nearest}'"


def test_a_derived_field_cannot_be_set():
    with pytest.raises(WorkbenchError, match=r"unknown key 'model\.twice'"):
        configure(Config, {"model.twice": 3})


def test_a_name_that_the_dataclass_turns_into_a_spec_is_a_value():
    assert configure(Config, {"model.position": "learned"}).model.position == Learned()


def test_a_part_of_a_spec_can_be_set_and_the_rest_stays():
    model = configure(Config, {"model.position.base": "5e5"}).model
    assert model.position == Rope(base=5e5)
    assert model.opaque is OPAQUE
    assert model.position.opaque is OPAQUE


@pytest.mark.parametrize("keys", [("model.position", "model.position.base"), ("model.position.base", "model.position")])
def test_a_spec_and_its_part_can_be_set_together_in_any_order(keys):
    values = {"model.position": "rope", "model.position.base": "7"}
    assert configure(Config, {key: values[key] for key in keys}).model.position == Rope(base=7.0)


def test_a_part_that_the_chosen_spec_lacks_is_refused():
    with pytest.raises(WorkbenchError, match=r"'model.position.base': model.position is Learned\(\)"):
        configure(Config, {"model.position": "learned", "model.position.base": "7"})


def test_a_part_of_a_plain_value_is_refused():
    with pytest.raises(WorkbenchError, match=r"cannot set steps\.x: steps is 100"):
        configure(Config, {"steps.x": "7"})


def test_settings_apply_together_so_that_no_half_way_state_is_refused():
    model = configure(Config, {"model.width": "30", "model.heads": "5"}).model
    assert (model.width, model.heads) == (30, 5)


def test_a_combination_that_the_dataclass_refuses_is_one_line():
    with pytest.raises(WorkbenchError) as caught:
        configure(Config, {"model.width": "30"})
    assert str(caught.value) == "width=30 does not split over heads=4"


def test_what_a_dataclass_filled_in_follows_the_settings_and_what_was_chosen_stays():
    assert configure(Config, {"model.width": "128"}).model.d_head == 32
    assert configure(Config, {"model.width": "128", "model.d_head": "8"}).model.d_head == 8

    @dataclass(frozen=True)
    class Chosen:
        model: Model = Model(d_head=5)

    assert configure(Chosen, {"model.width": "128"}).model.d_head == 5


def test_what_a_dataclass_filled_in_follows_too_when_a_spec_and_its_part_are_set():
    model = configure(Config, {"model.width": "32", "model.position": "rope", "model.position.base": "7"}).model
    assert (model.d_head, model.position.base) == (8, 7.0)


def test_the_defaults_are_untouched():
    configure(Config, {"model.width": "128", "steps": "3"})
    assert Config().model.width == 64
    assert Config().steps == 100


def test_a_plain_config_is_json_and_carries_the_class_of_a_chosen_spec():
    @dataclass(frozen=True)
    class Small:
        position: str | Rope | Learned = Learned()
        inner: Learned = Learned()
        dtype: Any = torch.bfloat16
        seeds: object = range(3)
        rates: tuple[float, ...] = (0.5, float("inf"))
        table: Any = field(default_factory=lambda: {1: (2,)})
        derived: int = field(init=False, default=3)

    assert plain(Small()) == {
        "position": {"kind": "Learned"},
        "inner": {},
        "dtype": "bfloat16",
        "seeds": [0, 1, 2],
        "rates": [0.5, "inf"],
        "table": {"1": [2]},
    }
    json.dumps(plain(Small()), allow_nan=False)


def test_a_value_without_a_plain_form_is_named():
    with pytest.raises(WorkbenchError, match=r"model\.position\.opaque is a Opaque"):
        plain(Config())


TRANSFORMER = TransformerConfig(n_layers=2, n_heads=4, d_model=64, d_vocab=16, n_ctx=32, position="rope")


@dataclass(frozen=True)
class WithTransformer:
    model: TransformerConfig = TRANSFORMER


def test_a_transformer_config_takes_settings_and_keeps_its_derived_sizes_true():
    model = configure(WithTransformer, {"model.position.base": "5e5", "model.d_model": "128"}).model
    assert (model.position.base, model.d_head, model.d_mlp, model.attn_scale) == (5e5, 32, 512, 32**0.5)
    assert model == TransformerConfig(
        n_layers=2, n_heads=4, d_model=128, d_vocab=16, n_ctx=32, position=type(model.position)(base=5e5)
    )
    assert plain(WithTransformer())["model"]["position"]["kind"] == "Rope"
    assert plain(WithTransformer())["model"]["dtype"] == "float32"


def test_a_refusal_of_the_transformer_config_is_one_line():
    with pytest.raises(WorkbenchError, match="d_head=7"):
        configure(WithTransformer, {"model.d_head": "7"})
