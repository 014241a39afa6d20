"""Position codes: closed forms, the source's own buckets, and who can tell where a text begins."""

import math

import pytest
import torch

from toy_models import positions
from toy_models.canonical import digest
from toy_models.errors import ConfigError
from toy_models.positions.alibi import Alibi
from toy_models.positions.code import PositionCode
from toy_models.positions.relative import Relative, bucket

CLOSE = {"rtol": 1e-10, "atol": 1e-11}  # float64 all through
# Codes that say where a token stands; the others say how far apart two tokens are, or nothing.
ABSOLUTE = {"learned", "sinusoidal", "shortformer"}
BIASED = [{"position": "alibi"}, {"position": "relative"}, {"position": Relative(num_buckets=8, max_distance=6)}]


def scored(model, tokens, **run) -> tuple[torch.Tensor, torch.Tensor]:
    """The last layer's scores, and scale * q . k of the same pass."""
    cache = model.run_with_cache(tokens, **run)[1]
    share = model.cfg.n_heads // model.cfg.n_key_value_heads
    k = cache["k", 1].repeat_interleave(share, dim=2)
    return cache["attn_scores", 1], torch.einsum("bqhd,bkhd->bhqk", cache["q", 1], k) / model.cfg.attn_scale


@pytest.mark.parametrize("name", positions.NAMES)
def test_a_code_overrides_the_one_method_that_it_names(perturbed, name):
    model = perturbed(position=name)
    methods = ("embed", "embed_attention", "rotation", "bias")
    overridden = [m for m in methods if getattr(type(model.pos_embed), m) is not getattr(PositionCode, m)]
    assert overridden == [model.cfg.position.where] * (name != "none")


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"causal": False}])
@pytest.mark.parametrize("name", positions.NAMES)
def test_only_absolute_codes_can_tell_where_a_text_begins(perturbed, draw_tokens, name, options):
    model, tokens = perturbed(position=name, **options), draw_tokens(3, 7)
    plain, moved = model(tokens), model(tokens, position_offset=5)
    by_row = model(tokens, position_offset=torch.tensor([5, 0, 9]))
    if name in ABSOLUTE:
        assert (moved - plain).abs().amax((1, 2)).min() > 1e-3
        torch.testing.assert_close(by_row[0], moved[0], **CLOSE)
        torch.testing.assert_close(by_row[1], plain[1], **CLOSE)
    else:
        torch.testing.assert_close(moved, plain, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(by_row, plain, rtol=1e-9, atol=1e-10)


@torch.no_grad()
def test_every_code_but_none_hears_the_order_of_earlier_tokens(perturbed):
    """One layer and the last position: without a code, its logits are those of any reordering of the rest."""
    for name in positions.NAMES:
        model = perturbed(position=name, n_layers=1)
        there, back = model(torch.tensor([[1, 2, 3, 4]])), model(torch.tensor([[3, 1, 2, 4]]))
        heard = (there - back)[0, -1].abs().max()
        assert heard < 1e-12 if name == "none" else heard > 1e-4


# Sinusoidal -----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("d_model", [2, 12, 15])
def test_the_sinusoidal_code_is_its_formula(perturbed, draw_tokens, d_model):
    model = perturbed(position="sinusoidal", d_model=d_model, n_heads=1)
    start = 1000  # far beyond n_ctx
    cache = model.run_with_cache(draw_tokens(2, 5), position_offset=start)[1]
    for i in range(5):
        for c in range(d_model):
            angle = (start + i) / 10000 ** (2 * (c // 2) / d_model)
            expected = math.cos(angle) if c % 2 else math.sin(angle)
            assert cache["hook_pos_embed"][1, i, c].item() == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(cache["resid_pre", 0], cache["hook_embed"] + cache["hook_pos_embed"], **CLOSE)


def test_the_sinusoidal_code_has_no_weights_and_the_streams_type(perturbed, draw_tokens):
    for dtype in (torch.float64, torch.bfloat16):
        model = perturbed(position="sinusoidal").to(dtype)
        assert not list(model.pos_embed.parameters())
        with torch.no_grad():
            assert model.run_with_cache(draw_tokens(2, 5))[1]["hook_pos_embed"].dtype is dtype


def test_sinusoidal_codes_overlap_by_their_distance_alone(perturbed):
    code = perturbed(position="sinusoidal").pos_embed.embed(torch.arange(40)[None])[0]
    overlap = code @ code.T
    frequencies = 10000.0 ** (-torch.arange(0, 12, 2, dtype=torch.float64) / 12)
    distance = (torch.arange(40)[:, None] - torch.arange(40)).double()
    torch.testing.assert_close(overlap, (distance[..., None] * frequencies).cos().sum(-1), **CLOSE)


# Biases ---------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("spec", "slopes"),
    [
        (Alibi(), [2 ** (-8 * (h + 1) / 6) for h in range(6)]),
        (Alibi(slopes=(1.0, 0.5, 0.0, 2.5, -1.0, 3.0)), [1, 0.5, 0, 2.5, -1, 3]),
    ],
)
def test_alibi_takes_slope_times_distance_off_the_score(perturbed, draw_tokens, spec, slopes, causal):
    model = perturbed(position=spec, n_heads=6, n_key_value_heads=2, causal=causal)
    scores, plain = scored(model, draw_tokens(2, 7))
    for h, slope in enumerate(slopes):
        for i in range(7):
            for j in range(7 if not causal else i + 1):
                expected = plain[:, h, i, j] - slope * abs(i - j)
                torch.testing.assert_close(scores[:, h, i, j], expected, rtol=1e-12, atol=1e-12)
    assert torch.isneginf(scores[..., 0, 1:]).all() == causal


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (4, 3), (64, 1000), (16, 16), (48, 81)])
def test_buckets_are_those_of_t5(num_buckets, max_distance, causal):
    from transformers.models.t5.modeling_t5 import T5Attention

    key_minus_query = torch.arange(-1500, 1501)[None]
    options = {"num_buckets": num_buckets, "max_distance": max_distance}
    theirs = T5Attention._relative_position_bucket(key_minus_query, bidirectional=not causal, **options)
    found = bucket(-key_minus_query, causal=causal, **options)
    assert torch.equal(found, theirs)
    assert set(found.unique().tolist()) <= set(range(num_buckets))


def test_near_distances_have_a_bucket_each_and_far_ones_share_the_last():
    found = bucket(torch.arange(400)[None], causal=True, num_buckets=32, max_distance=128)[0]
    assert found[:17].tolist() == list(range(17))
    assert (found[128:] == 31).all()
    assert (found.diff() >= 0).all()
    assert found[127] == 31  # 16 + floor(16 ln(127/16) / ln 8) = 31
    assert found[112] == 30  # and ln(112/16) / ln 8 = 0.9358, of 16: 14.97


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_relative_adds_the_heads_entry_for_the_bucket_of_the_distance(perturbed, draw_tokens, causal):
    spec = Relative(num_buckets=8, max_distance=6)
    model = perturbed(position=spec, causal=causal)
    scores, plain = scored(model, draw_tokens(2, 9))
    table = model.pos_embed.W_bias
    assert table.shape == (8, 2)
    for i in range(9):
        for j in range(9 if not causal else i + 1):
            at = bucket(torch.tensor([[i - j]]), causal=causal, num_buckets=8, max_distance=6).item()
            torch.testing.assert_close(scores[:, :, i, j], plain[:, :, i, j] + table[at], **CLOSE)


@pytest.mark.parametrize("options", BIASED)
def test_scores_without_the_bias_are_those_of_no_code(perturbed, draw_tokens, options):
    """The bias is in hook_attn_scores: taking it out there, in every layer, leaves a model without positions."""
    model, tokens = perturbed(**options), draw_tokens(3, 8)
    bare = perturbed(position="none")
    bare.load_state_dict({name: w for name, w in model.state_dict().items() if "pos_embed" not in name})
    at = torch.arange(8)[None]
    with torch.no_grad():
        bias = model.pos_embed.bias(at, at)
        hook = (lambda name: name.endswith("hook_attn_scores"), lambda scores, hook: scores - bias)
        assert (model(tokens) - bare(tokens)).abs().max() > 1e-3
        torch.testing.assert_close(model.run_with_hooks(tokens, fwd_hooks=[hook]), bare(tokens), **CLOSE)


@pytest.mark.parametrize("attention", ["reference", "sdpa"])
def test_the_bucket_table_learns_through_every_backend(perturbed, draw_tokens, attention):
    model, tokens = perturbed(position="relative", attention=attention), draw_tokens(2, 9)
    model(tokens, return_type="loss").backward()
    table, step = model.pos_embed.W_bias, 1e-5
    for index in [(0, 0), (3, 1), (7, 0)]:
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                table[index] += sign * step
                losses.append(model(tokens, return_type="loss").item())
                table[index] -= sign * step
        assert table.grad[index].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-5, abs=1e-9)
        assert table.grad[index] != 0
    assert not table.grad[8:].any()  # distance 8 is the last token's alone, and its logits are in no loss


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", BIASED)
def test_sixteen_bit_scores_carry_the_bias_in_float32(perturbed, draw_tokens, dtype, options):
    model = perturbed(n_ctx=300, **options).to(dtype)
    cache = model.run_with_cache(draw_tokens(1, 300), names_filter=lambda n: n.startswith("blocks.1.attn.hook_"))[1]
    q, k, at = cache["q", 1].double(), cache["k", 1].double(), torch.arange(300)[None]
    exact = torch.einsum("bqhd,bkhd->bhqk", q, k) / 6**0.5 + model.pos_embed.bias(at, at).double()
    seen = torch.ones(300, 300, dtype=torch.bool).tril()
    assert cache["attn_scores", 1].dtype is torch.float32
    torch.testing.assert_close(cache["attn_scores", 1][..., seen].double(), exact[..., seen], rtol=1e-5, atol=1e-5)


def test_the_table_is_drawn_from_its_own_stream(perturbed):
    from toy_models import Transformer, TransformerConfig

    size = {"n_layers": 1, "n_heads": 64, "d_model": 64, "d_vocab": 9, "n_ctx": 8, "position": "relative"}
    one, again, other = (Transformer(TransformerConfig(**size), seed=seed).pos_embed.W_bias for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert abs(one.std().item() / 0.1 - 1) < 5 / (2 * one.numel()) ** 0.5  # 0.8 / sqrt(64), five standard errors


# Options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"position": Alibi(slopes=(1.0,))}, ["n_heads=2", "(1.0,)"]),
        ({"position": Alibi(slopes=(1.0, math.nan))}, ["n_heads=2", "nan"]),
        ({"position": Relative(num_buckets=1)}, ["num_buckets=1 ", "at least 2"]),
        ({"position": Relative(num_buckets=7), "causal": False}, ["num_buckets=7 ", "at least 4 and even"]),
        ({"position": Relative(max_distance=16)}, ["max_distance=16", "16 distances"]),
    ],
)
def test_impossible_options_are_refused_in_one_line(perturbed, options, parts):
    with pytest.raises(ConfigError) as caught:
        perturbed(**options)
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts)


def test_specs_have_hashes_of_their_own():
    specs = [positions.find(name)() for name in positions.NAMES]
    specs += [Alibi(slopes=(1.0, 2.0)), Relative(num_buckets=16), Relative(max_distance=64)]
    assert len({digest(spec) for spec in specs}) == len(specs)
