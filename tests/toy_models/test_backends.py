"""Every attention backend against a float64 oracle, within the error budget: at most twice the error of the eager
reference in the same type, plus one unit in the last place of the largest output.  In float64 itself the oracle is no
more exact than what it judges: there everything agrees to 1e-12 of the largest output."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toy_models.serving import serving
from toy_models import positions
from toy_models.attention import attend
from toy_models.errors import InputError

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
MASKS = {
    "causal": {},
    "bidirectional": {"causal": False},
    "window": {"window": 3},
    "bidirectional window": {"causal": False, "window": 2},
    "window of one": {"window": 1},
    "padding": {"pads": (0, 2)},
    "padding and window": {"pads": (1, 4), "window": 3},
    "bidirectional padding": {"causal": False, "pads": (3, 1)},
}


def draw(batch, n_query, n_key, heads, kv_heads, d_head, seed=0, dtype=torch.float64):
    noise = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, n_query, heads, d_head, generator=noise, dtype=torch.float64)
    k, v = (torch.randn(batch, n_key, kv_heads, d_head, generator=noise, dtype=torch.float64) for _ in "kv")
    return q.to(dtype), k.to(dtype), v.to(dtype)


def draw_bias(heads, n_query, n_key, seed=1):
    """In float32, as the model gives it: nats of the size that learned buckets and slopes have."""
    return 2 * torch.randn(heads, n_query, n_key, generator=torch.Generator().manual_seed(seed))


def oracle(q, k, v, *, causal=True, window=None, scale=None, key_padding=None, bias=None):
    """Row by row, in float64, from the definition."""
    q, k, v = q.double(), k.double(), v.double()
    group, last = q.shape[2] // k.shape[2], k.shape[1] - q.shape[1]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    z = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for i in range(q.shape[1]):
            at = i + last
            keys = [
                j
                for j in range(k.shape[1])
                if not (causal and j > at)
                and (window is None or abs(at - j) < window)
                and (key_padding is None or key_padding[b, j])
            ]
            for h in range(q.shape[2]):
                if keys:
                    scores = scale * k[b, keys, h // group] @ q[b, i, h]
                    weights = (scores if bias is None else scores + bias[h, i, keys].double()).softmax(0)
                    z[b, i, h] = weights @ v[b, keys, h // group]
    return z


def padding(pads, n_key):
    return None if pads is None else torch.arange(n_key)[None] >= torch.tensor(pads)[:, None]


def assert_within_budget(found, eager, exact, most_units):
    """`most_units` bounds the eager reference itself, in units of the last place of the largest output."""
    assert found.dtype is eager.dtype
    largest, unit = exact.abs().max(), torch.finfo(found.dtype).eps * exact.abs().max()
    error, allowed = ((x.double() - exact).abs().max() for x in (found, eager))
    if found.dtype is torch.float64:
        assert error <= 1e-12 * largest
    else:
        assert allowed <= most_units * unit
        assert error <= 2 * allowed + unit


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("n_query", "n_key"), [(7, 7), (3, 7), (1, 7)])
@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
def test_backends_keep_the_error_budget(dtype, mask, n_query, n_key, biased):
    masks = dict(MASKS[mask])
    masks["key_padding"] = padding(masks.pop("pads", None), n_key)
    for heads, kv_heads in ((2, 2), (4, 2), (3, 1)):
        q, k, v = (x.to(dtype) for x in draw(2, n_query, n_key, heads, kv_heads, d_head=8))
        masks["bias"] = draw_bias(heads, n_query, n_key) if biased else None
        exact, eager = oracle(q, k, v, **masks), attend(q, k, v, backend="reference", **masks)
        for backend in (*serving(q, k, **masks), "auto"):
            found = attend(q, k, v, backend=backend, **masks)
            assert found.backend == ("sdpa" if backend == "auto" else backend)
            assert_within_budget(found.z, eager.z, exact, most_units=2)


@torch.no_grad()
@settings(max_examples=60)
@given(
    batch=st.integers(1, 3),
    n_key=st.integers(1, 12),
    missing=st.integers(0, 11),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    d_head=st.integers(1, 9),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 13),
    scale=st.none() | st.floats(0.01, 3),
    real=st.none() | st.lists(st.booleans(), min_size=36, max_size=36),
    biased=st.booleans(),
)
def test_backends_agree_for_any_shape_and_mask(
    batch, n_key, missing, kv_heads, group, d_head, causal, window, scale, real, biased
):
    n_query = max(1, n_key - missing)
    q, k, v = draw(batch, n_query, n_key, kv_heads * group, kv_heads, d_head)
    key_padding = None if real is None else torch.tensor(real[: batch * n_key]).reshape(batch, n_key)
    bias = draw_bias(kv_heads * group, n_query, n_key) if biased else None
    masks = {"causal": causal, "window": window, "scale": scale, "key_padding": key_padding, "bias": bias}
    expected = oracle(q, k, v, **masks)
    for name in serving(q, k, **masks):
        torch.testing.assert_close(attend(q, k, v, backend=name, **masks).z, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
def test_a_row_that_sees_nothing_is_zero_and_has_no_gradient(dtype, causal, biased):
    real = torch.tensor([[False] * 5, [False, False, True, True, True]])
    bias = draw_bias(2, 5, 5).requires_grad_() if biased else None
    for backend in (*serving(*draw(2, 5, 5, 2, 1, 8, dtype=dtype)[:2], bias=bias), "auto"):
        _check_dead_rows(dtype, backend, causal, bias, real)


def _check_dead_rows(dtype, backend, causal, bias, real):
    q, k, v = (x.requires_grad_() for x in draw(2, 5, 5, 2, 1, 8, dtype=dtype))
    z = attend(q, k, v, causal=causal, key_padding=real, bias=bias, backend=backend).z
    assert torch.equal(z[0], torch.zeros_like(z[0]))
    assert torch.equal(z[1, :2], torch.zeros_like(z[1, :2])) == causal
    assert z[1, 2:].abs().min() > 0
    z.sum().backward()
    for grad in (q.grad, k.grad, v.grad):
        assert torch.isfinite(grad).all()
        assert torch.equal(grad[0], torch.zeros_like(grad[0]))
    assert bias is None or torch.isfinite(bias.grad).all()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
def test_the_fused_gradients_are_those_of_the_reference(mask, biased):
    masks = dict(MASKS[mask])
    masks["key_padding"] = padding(masks.pop("pads", None), 7)
    gradients = []
    for backend in serving(*draw(2, 4, 7, 4, 2, 8)[:2]):
        inputs = [x.requires_grad_() for x in draw(2, 4, 7, 4, 2, 8)]
        bias = [draw_bias(4, 4, 7).double().requires_grad_()] * biased
        attend(*inputs, backend=backend, bias=bias[0] if biased else None, **masks).z.pow(2).sum().backward()
        gradients.append([x.grad for x in inputs + bias])
    eager, *others = gradients
    for fused in others:
        for found, expected in zip(fused, eager, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize(
    ("n_query", "options", "chosen"),
    [
        (1024, {}, "sdpa"),
        (1024, {"causal": False}, "sdpa"),
        (1, {}, "sdpa"),
        (1024, {"window": 8}, "tiled"),
        (1024, {"key_padding": torch.arange(1024)[None] > 3}, "tiled"),
        (1024, {"alibi_slopes": torch.ones(1)}, "tiled"),
        (900, {"window": 8}, "sdpa"),
        (1, {"key_padding": torch.arange(1024)[None] > 3}, "sdpa"),
        (3, {"sink_logit": torch.ones(1)}, "sdpa"),
        (1024, {"sink_logit": torch.ones(1)}, "tiled"),
        (3, {"score_cap": 5.0}, "tiled"),
        (3, {"statistics": True}, "tiled"),
    ],
)
def test_auto_writes_out_no_large_mask_and_takes_what_serves(n_query, options, chosen):
    q, k, v = draw(1, n_query, 1024, 1, 1, 4)
    assert attend(q, k, v, **options).backend == chosen


def test_sdpa_says_that_it_has_no_statistics_and_who_has():
    with pytest.raises(ValueError, match=r"'sdpa' has no statistics: choose auto, or one of reference, tiled"):
        attend(*draw(1, 3, 3, 1, 1, 4), statistics=True, backend="sdpa")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "flash"}, r"'flash'.*auto, reference, sdpa, tiled"),
        ({"heads": (3, 2)}, "3 query heads cannot share 2 key-value heads"),
        ({"n": (4, 3)}, "3 < 4"),
    ],
)
def test_shapes_and_names_that_do_not_fit_are_refused(change, message):
    n_query, n_key = change.get("n", (3, 3))
    heads, kv_heads = change.get("heads", (2, 2))
    with pytest.raises(ValueError, match=message):
        attend(*draw(1, n_query, n_key, heads, kv_heads, 4), backend=change.get("backend", "auto"))


# In the model ---------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("position", positions.NAMES)
@pytest.mark.parametrize("options", [{}, {"n_heads": 6, "n_key_value_heads": 2, "window": 3}, {"causal": False}])
def test_a_model_keeps_the_error_budget_with_every_backend(perturbed, draw_tokens, dtype, position, options):
    tokens, mask = draw_tokens(3, 9), padding((0, 2, 5), 9)
    logits = {}
    model = perturbed(position=position, **options).to(dtype)
    q, bias = torch.zeros(1, 1, 1, 1, dtype=dtype), torch.zeros(1, 1, 1) if position == "relative" else None
    for backend in (*serving(q, q, bias=bias), "auto"):
        model.set_attention(backend)
        logits[backend] = model(tokens, attention_mask=mask)
    model.double().set_attention("reference")
    exact = model(tokens, attention_mask=mask)
    for found in logits.values():
        assert_within_budget(found, logits["reference"], exact, most_units=64)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_models_score_in_float32(perturbed, draw_tokens, dtype):
    cache = perturbed(position="rope").to(dtype).run_with_cache(draw_tokens(2, 7))[1]
    exact = torch.einsum("bqhd,bkhd->bhqk", cache["rot_q", 1].double(), cache["rot_k", 1].double()) / 6**0.5
    scores, seen = cache["attn_scores", 1], torch.ones(7, 7, dtype=torch.bool).tril()
    assert scores.dtype is torch.float32
    torch.testing.assert_close(scores[..., seen].double(), exact[..., seen], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_auto_materialises_only_the_layer_that_somebody_listens_to(perturbed, draw_tokens):
    model, tokens = perturbed(), draw_tokens(2, 7)
    assert model.backends == (None, None)
    plain = model(tokens)
    assert model.backends == ("sdpa", "sdpa")
    for name in ("blocks.1.attn.hook_pattern", "blocks.1.attn.hook_attn_scores"):
        logits, cache = model.run_with_cache(tokens, names_filter=name)
        assert model.backends == ("sdpa", "reference")
        assert list(cache.keys()) == [name]
        torch.testing.assert_close(logits, plain, rtol=1e-10, atol=1e-11)
    model.run_with_cache(tokens, names_filter=lambda name: name.endswith("hook_z"))
    assert model.backends == ("sdpa", "sdpa")
    model.run_with_cache(tokens)
    assert model.backends == ("reference", "reference")
    model(tokens)
    assert model.backends == ("sdpa", "sdpa")
    model.set_attention("reference")
    model(tokens)
    assert model.backends == ("reference", "reference")


def test_a_backward_hook_on_the_pattern_counts_as_listening(perturbed, draw_tokens):
    model, seen = perturbed(), []
    hook = ("blocks.0.attn.hook_pattern", lambda grad, hook: seen.append(grad.shape))
    with model.hooks(bwd_hooks=[hook]):
        model(draw_tokens(2, 7), return_type="loss").backward()
    assert model.backends == ("reference", "sdpa")
    assert seen == [(2, 2, 7, 7)]


@torch.no_grad()
@pytest.mark.parametrize("point", ["hook_pattern", "hook_attn_scores"])
def test_an_explicit_fused_backend_says_how_to_get_its_pattern(perturbed, draw_tokens, point):
    model, tokens = perturbed(attention="sdpa"), draw_tokens(2, 7)
    with pytest.raises(InputError) as caught:
        model.run_with_cache(tokens, names_filter=f"blocks.1.attn.{point}")
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in ("'sdpa'", "blocks.1.attn", "set_attention('auto')"))
    assert model(tokens).isfinite().all()  # and no hook is left behind
    model.set_attention("auto")
    assert f"blocks.1.attn.{point}" in model.run_with_cache(tokens)[1]


@torch.no_grad()
def test_a_text_that_is_all_padding_gives_no_nan(perturbed, draw_tokens):
    model, tokens = perturbed(), draw_tokens(2, 7)
    mask = padding((7, 3), 7)
    q = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    for backend in (*serving(q, q), "auto"):
        model.set_attention(backend)
        assert model(tokens, attention_mask=mask).isfinite().all()
    cache = model.run_with_cache(tokens, attention_mask=mask)[1]
    assert torch.equal(cache["pattern", 0][0], torch.zeros(2, 7, 7, dtype=torch.float64))
    assert torch.equal(cache["pattern", 1][1, :, :3], torch.zeros(2, 3, 7, dtype=torch.float64))
