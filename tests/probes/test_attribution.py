import pytest
import torch

from probes import names
from probes.attribution import attribution, attribution_from_cache
from probes.errors import ProbeInputError
from tests.probes.models import HandWritten, ours, same, text, trace
from toy_models import constructed
from toy_models.seeding import generator
from toy_models.tasks.repeated_blocks import RepeatedBlocks

OPTIONS = {
    "LN, learned": {},
    "RMS, rope": {"normalization_type": "RMS", "position": "rope"},
    "no norm, shortformer": {"normalization_type": None, "position": "shortformer"},
    "attention only": {"d_mlp": 0},
    "gated, grouped": {"gated_mlp": True, "act_fn": "silu", "normalization_type": "RMS", "n_key_value_heads": 1},
    "no layers": {"n_layers": 0},
}
REPEATS = RepeatedBlocks(d_vocab=16, n_ctx=32, shortest=7, longest=7, held_out=())


def of(found, label: str) -> torch.Tensor:
    return found.contributions[[part.label for part in found.parts].index(label)]


# Calibration on models whose heads are known ------------------------------------------------------


def test_the_induction_circuit_owes_its_answer_to_the_second_layer_alone():
    model, batch = constructed.induction_circuit(sharpness=20.0).double(), REPEATS.sample(4, generator(0, "text"))
    at = range(8, 32)  # every position that sees a repeat
    found = attribution(model, batch.tokens, batch.targets[:, 8:], positions=at)
    assert (of(found, "L1H0") - 20).abs().max() <= 20 * 31 * 2.1e-9  # (n - 1) exp(-20) of the mass falls beside
    for part in found.parts:
        if part.label != "L1H0":
            assert of(found, part.label).abs().max() == 0
    assert found.heads.tolist() == [[0.0], [pytest.approx(20, abs=1e-5)]]


def test_the_uniform_head_contributes_the_share_of_the_token_among_those_seen():
    tokens = torch.tensor([[3, 5, 3, 3, 7]])
    found = attribution(constructed.uniform_head().double(), tokens, 3, against=7, positions=range(5))
    shares = [1, 1 / 2, 2 / 3, 3 / 4, 3 / 5 - 1 / 5]
    assert of(found, "L0H0")[0].tolist() == pytest.approx(shares, abs=1e-14)


# It adds up ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIONS)
def test_contributions_add_up_to_the_logit_and_to_a_difference(name):
    model, tokens = ours(**OPTIONS[name]), text()
    targets = torch.randint(9, (3, 12), generator=generator(2, "targets"))
    with torch.no_grad():
        logits = model(tokens)
    one = attribution(model, tokens, targets, positions=range(12))
    picked = logits.gather(-1, targets[..., None])[..., 0]
    assert (one.contributions.sum(0) - picked).abs().max() <= 1e-10
    assert torch.equal(one.logit, picked)
    two = attribution(model, tokens, targets[:, 0], against=4, positions=[-1, 3])
    difference = logits[torch.arange(3), :, targets[:, 0]] - logits[:, :, 4]
    assert (two.contributions.sum(0) - difference[:, [-1, 3]]).abs().max() <= 1e-10


def test_contributions_add_up_on_any_model_within_float32_rounding(any_model):
    found = attribution(any_model, text(), 2, against=5, positions=range(12))
    with torch.no_grad():
        logits = any_model(text())
    assert (found.contributions.sum(0) - (logits[..., 2] - logits[..., 5])).abs().max() <= 1e-5
    assert found.heads.shape == (any_model.cfg.n_layers, any_model.cfg.n_heads)
    assert found.heads.std() > 1e-4  # heads differ, so a mixed-up one would show


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_models_are_split_in_float32(dtype):
    found = attribution(ours(dtype=dtype), text(), 2)
    assert found.contributions.dtype == torch.float32
    exact = attribution(ours(dtype=dtype).double(), text(), 2)
    assert (found.contributions - exact.contributions).abs().max() <= 40 * torch.finfo(getattr(torch, dtype)).eps


# Each part is what it says ------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIONS)
def test_every_part_is_its_own_vector_through_the_frozen_norm(name):
    """The definition in plain words: the part's vector, from hook_result and its like, centred, divided, scaled."""
    model, tokens = ours(**OPTIONS[name]), text()
    found = attribution(model, tokens, 2, against=5, positions=range(12))
    model.set_use_attn_result(True)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    d = (model.W_U[:, 2] - model.W_U[:, 5]).detach()
    for part, value in zip(found.parts, found.contributions, strict=True):
        if part.kind == "head":
            x = cache[f"blocks.{part.layer}.attn.hook_result"][:, :, part.head]
        elif part.kind in ("embed", "pos_embed"):
            x = cache[f"hook_{part.kind}"]
        elif part.kind == "mlp":
            x = cache[f"blocks.{part.layer}.hook_mlp_out"]
        elif part.kind == "attn_bias":
            x = model.blocks[part.layer].attn.b_O.detach()
        else:
            continue
        if model.cfg.normalization_type == "LN":
            x = x - x.mean(-1, keepdim=True)
        if model.cfg.normalization_type:
            x = x / cache["ln_final.hook_scale"] * model.ln_final.w.detach()
        assert (x @ d - value).abs().max() <= 1e-12, part.label


@pytest.mark.parametrize("head", range(2))
def test_without_the_head_and_at_the_same_scale_the_logit_falls_by_its_contribution(head):
    model, tokens = ours(n_layers=1, d_mlp=0), text()
    found = attribution(model, tokens, 2, positions=range(12))
    _, cache = model.run_with_cache(tokens)

    def without(z, hook):
        z = z.clone()
        z[:, :, head] = 0
        return z

    hooks = [(names.z(0), without), (names.FINAL_SCALE, lambda scale, hook: cache[names.FINAL_SCALE])]
    with torch.no_grad():
        after = model.run_with_hooks(tokens, fwd_hooks=hooks)[..., 2]
    assert (found.logit - after - of(found, f"L0H{head}")).abs().max() <= 1e-12


def test_a_cache_of_a_run_with_hooks_splits_the_logits_of_that_run():
    model, tokens = ours(), text()
    with torch.no_grad(), model.hooks(fwd_hooks=[(names.z(1), lambda z, hook: 0 * z)]):
        logits, cache = model.run_with_cache(tokens)
    found = attribution_from_cache(model, cache, logits, 2)
    assert found.heads[1].abs().max() == 0
    assert found.heads[[0, 2]].abs().min() > 0
    assert torch.equal(found.logit[:, 0], logits[:, -1, 2])


def test_rows_name_every_part_once_and_carry_its_mean():
    found = attribution(ours(), text(), 2, positions=[-1, -2])
    rows = found.rows()
    layers = [f"L{i}{part}" for i in range(3) for part in ("H0", "H1", " attn_bias", " mlp")]
    assert [row["part"] for row in rows] == ["embed", "pos_embed", *layers, "norm_bias", "unembed_bias"]
    assert sum(row["contribution"] for row in rows) == pytest.approx(found.logit.mean().item(), abs=1e-12)
    head = next(row for row in rows if row["part"] == "L1H0")
    assert (head["kind"], head["layer"], head["head"]) == ("head", 1, 0)
    assert head["contribution"] == found.heads[1, 0].item()


# No trace -----------------------------------------------------------------------------------------


def test_it_leaves_the_model_and_the_text_as_it_found_them(any_model):
    before, tokens = trace(any_model), text()
    first = attribution(any_model, tokens, 2)
    assert same(before, trace(any_model))
    assert torch.equal(tokens, text())
    assert not first.contributions.requires_grad
    assert torch.equal(first.contributions, attribution(any_model, tokens, 2).contributions)


def test_it_does_not_write_into_the_cache():
    model = ours()
    logits, cache = model.run_with_cache(text())
    copies = {name: value.clone() for name, value in cache.items()}
    attribution_from_cache(model, cache, logits, 2)
    assert all(torch.equal(value, copies[name]) for name, value in cache.items())


# Refusals -----------------------------------------------------------------------------------------


def test_a_post_norm_model_is_refused_since_its_parts_do_not_add_up():
    with pytest.raises(ProbeInputError, match=r"the parts add up to .* the model's logit is"):
        attribution(ours(norm_position="post"), text(), 2)


def test_a_part_that_nobody_told_of_is_refused():
    model = ours(dtype="float32")
    with (
        model.hooks(fwd_hooks=[(names.resid_post(2), lambda x, hook: 1.001 * x)]),
        pytest.raises(ProbeInputError, match="the parts add up to"),
    ):
        attribution(model, text(), 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 9}, r"token 9 must lie in \[0, 9\)"),
        ({"target": 2, "against": -1}, r"token -1 must lie in \[0, 9\)"),
        ({"target": 2, "positions": [12]}, r"position 12 must lie in \[-12, 12\)"),
        ({"target": 2, "positions": []}, "positions is empty"),
        ({"target": torch.zeros(2, dtype=torch.long)}, r"shape \(2,\) must be one for all, \(batch,\) = \(3,\)"),
    ],
)
def test_what_is_out_of_range_is_refused_by_its_value(arguments, message):
    with pytest.raises(ProbeInputError, match=message) as refusal:
        attribution(ours(), text(), **arguments)
    assert "\n" not in str(refusal.value)


def test_a_cache_without_the_heads_is_refused_by_the_name_looked_for():
    model = ours()
    logits, cache = model.run_with_cache(text(), names_filter=[names.EMBED])
    with pytest.raises(ProbeInputError, match=r"the cache has no blocks\.0\.attn\.hook_z"):
        attribution_from_cache(model, cache, logits, 2)


def test_a_model_without_the_hook_is_refused_with_the_nearest_names():
    model = HandWritten()
    model.hook_embed = torch.nn.Identity()
    model.setup()
    with pytest.raises(ProbeInputError, match="the model has no hook hook_embed: the nearest are "):
        attribution(model, text(), 2)
