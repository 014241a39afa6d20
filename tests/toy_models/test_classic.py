"""Our Transformer against recordings of classic TransformerLens (data/make_classic.py says how they were made).

Two programs that add the same numbers in another order differ by rounding alone: in float32 the budget is 64
units of the largest entry's last place, in float64 it is 1e-12 of the largest entry.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from toy_models import Transformer, TransformerConfig
from toy_models.positions import find

CASES = sorted(path.stem for path in (Path(__file__).parent / "data").glob("*.npz"))
BUFFERS = ("mask", "IGNORE", "rotary_sin", "rotary_cos")
MATERIALISED = ("hook_attn_scores", "hook_pattern")


class Recording:
    """One .npz: the configuration in our words, the classic weights, and what they computed."""

    def __init__(self, name: str):
        with np.load(Path(__file__).parent / "data" / f"{name}.npz") as file:
            arrays = {key: torch.from_numpy(file[key]) for key in file if key != "config"}
            self.options = json.loads(str(file["config"]))
        if "position" in self.options:
            position = dict(self.options["position"])
            self.options["position"] = find(position.pop("name"))(**position)
        self.tokens, self.logits, self.loss = arrays["tokens"], arrays["logits"], arrays.get("loss")
        self.state = {key.removeprefix("state/"): a for key, a in arrays.items() if key.startswith("state/")}
        self.activations = {key.removeprefix("act/"): a for key, a in arrays.items() if key.startswith("act/")}

    def model(self, **options) -> Transformer:
        model = Transformer(TransformerConfig(**{**self.options, **options}), seed=1)
        model.load_state_dict(self.state, strict=True)
        return model


def assert_agrees(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    assert found.shape == expected.shape, what
    assert found.dtype == expected.dtype, what
    hidden = torch.isneginf(expected)
    assert torch.equal(torch.isneginf(found), hidden), what
    found, expected = found.masked_fill(hidden, 0.0), expected.masked_fill(hidden, 0.0)
    unit = {torch.float32: 64 * torch.finfo(torch.float32).eps, torch.float64: 1e-12}[expected.dtype]
    worst = (found - expected).abs().max()
    assert worst <= unit * expected.abs().max(), f"{what}: off by {worst:.3g}"


def test_every_kind_of_option_was_recorded():
    """A recording that goes missing must not go unnoticed."""
    recorded = [Recording(name) for name in CASES]
    chosen = {key for one in recorded for key in one.options}
    assert {"act_fn", "gated_mlp", "normalization_type", "position", "causal", "window"} <= chosen
    assert {"attn_scale", "d_vocab_out", "n_key_value_heads", "eps", "dtype"} <= chosen
    assert {one.options.get("act_fn", "gelu") for one in recorded} == {"relu", "gelu", "gelu_new", "silu"}
    assert {one.options.get("normalization_type", "LN") for one in recorded} == {"LN", "RMS", None}
    assert any(one.options["d_mlp"] == 0 for one in recorded)
    coded = {type(one.options["position"]).__name__ for one in recorded if "position" in one.options}
    assert coded == {"Rope", "Shortformer", "Alibi"}
    assert any(key.endswith("._W_K") for one in recorded for key in one.state)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["reference", "auto", "sdpa"])
@pytest.mark.parametrize("case", CASES)
def test_logits_and_loss_are_those_of_classic_transformer_lens(case, attention):
    recorded = Recording(case)
    model = recorded.model(attention=attention)
    assert_agrees(model(recorded.tokens), recorded.logits, "logits")
    assert set(model.backends) == {"reference" if attention == "reference" else "sdpa"}
    if recorded.loss is not None:
        logits, loss = model(recorded.tokens, return_type="both")
        assert_agrees(logits, recorded.logits, "logits")
        assert_agrees(loss, recorded.loss, "loss")


@torch.no_grad()
@pytest.mark.parametrize("attention", ["reference", "auto", "sdpa"])
@pytest.mark.parametrize("case", CASES)
def test_activations_are_those_of_classic_transformer_lens(case, attention):
    recorded = Recording(case)
    model = recorded.model(attention=attention)
    wanted = {
        name: value
        for name, value in recorded.activations.items()
        if attention != "sdpa" or not name.endswith(MATERIALISED)
    }
    logits, cache = model.run_with_cache(recorded.tokens, names_filter=list(wanted))
    assert_agrees(logits, recorded.logits, "logits")
    assert set(cache.keys()) == set(wanted)
    for name, expected in wanted.items():
        assert_agrees(cache[name], expected, name)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_a_classic_state_dict_also_loads_without_its_buffers(case):
    recorded = Recording(case)
    with_buffers = recorded.model()
    bare = {key: value for key, value in recorded.state.items() if not key.endswith(BUFFERS)}
    assert len(bare) < len(recorded.state)
    without = Transformer(TransformerConfig(**recorded.options), seed=2)
    without.load_state_dict(bare, strict=True)
    assert torch.equal(without(recorded.tokens), with_buffers(recorded.tokens))


@pytest.mark.parametrize("case", CASES)
def test_loading_leaves_the_callers_state_dict_as_it_was(case):
    recorded = Recording(case)
    before = set(recorded.state)
    recorded.model()
    assert set(recorded.state) == before


@pytest.mark.parametrize("case", ["ln_gelu_learned", "gqa_rope"])
def test_a_missing_weight_is_refused_by_name(case):
    recorded = Recording(case)
    for key in [key for key in recorded.state if not key.endswith(BUFFERS)]:
        fewer = {k: v for k, v in recorded.state.items() if k != key}
        with pytest.raises(RuntimeError, match=key.replace("._", ".")):
            Transformer(TransformerConfig(**recorded.options)).load_state_dict(fewer, strict=True)


@pytest.mark.parametrize(
    "surplus", ["blocks.0.attn.W_X", "blocks.2.attn.W_Q", "mask", "blocks.0.mlp.mask", "blocks.0.attn.mask_extra"]
)
def test_a_weight_too_many_is_refused_by_name(surplus):
    recorded = Recording("ln_gelu_learned")
    recorded.state[surplus] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=surplus):
        recorded.model()


def test_a_weight_of_another_shape_is_refused():
    recorded = Recording("ln_gelu_learned")
    recorded.state["blocks.1.attn.W_Q"] = torch.zeros(2, 16, 5)
    with pytest.raises(RuntimeError, match=r"blocks\.1\.attn\.W_Q"):
        recorded.model()


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_our_own_state_dict_makes_the_round_trip(case):
    recorded = Recording(case)
    model = recorded.model()
    again = Transformer(model.cfg, seed=3)
    assert not torch.equal(again(recorded.tokens), model(recorded.tokens))
    again.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(again(recorded.tokens), model(recorded.tokens))
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
