"""How the Triton backends are asked for, and what they say where they cannot serve: with Triton or without."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from tests.toy_models.serving import serving
from toy_models import Transformer, TransformerConfig
from toy_models.attention import BY_NAME_ONLY, NAMES, attend

THERE = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not THERE, reason="Triton is not installed: pip install triton")
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said where there is no GPU")


def draw(dtype=torch.float32, d_head=16, n=5, texts=1):
    noise = torch.Generator().manual_seed(0)
    return [torch.randn(texts, n, 2, d_head, generator=noise).to(dtype) for _ in "qkv"]


@pytest.fixture
def outside_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@needs_triton
@pytest.mark.parametrize(
    ("inputs", "options", "said"),
    [
        ({"dtype": torch.float64}, {}, "'triton' has no float64: choose auto, or one of reference, sdpa, tiled"),
        ({}, {"bias": torch.zeros(2, 5, 5)}, "'triton' has no bias"),
        ({"d_head": 257}, {}, "no heads wider than 256, and these are 257 wide"),
        ({"texts": 40000, "n": 1, "d_head": 1}, {}, "no room for 40000 texts of 2 heads, more than 65535 together"),
    ],
)
def test_what_the_kernels_do_not_have_is_refused_by_name(inputs, options, said):
    with pytest.raises(ValueError, match=said) as caught:
        attend(*draw(**inputs), **options, backend="triton")
    assert "\n" not in str(caught.value)


@needs_triton
@needs_no_gpu
def test_tensors_on_a_cpu_are_refused_and_what_would_serve_is_named(outside_the_interpreter):
    with pytest.raises(ValueError, match=r"runs on a GPU, and these tensors are on cpu.*one of reference, tiled$"):
        attend(*draw(), statistics=True, backend="triton")
    assert not BY_NAME_ONLY & set(serving(*draw()[:2]))


def test_where_triton_is_not_installed_the_remedy_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs Triton, which is not installed \(pip install triton\)"):
        attend(*draw(), backend="triton")


@pytest.mark.parametrize(("dtype", "said"), [(torch.bfloat16, "is for float32, and these are bfloat16")])
def test_tf32_is_for_float32(outside_the_interpreter, dtype, said):
    with pytest.raises(ValueError, match=said):
        attend(*draw(dtype), backend="triton_tf32")


@needs_no_gpu
def test_the_interpreter_is_not_asked_for_products_it_would_compute_in_another_way(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="has no TF32 in Triton's interpreter"):
        attend(*draw(), backend="triton_tf32")


@needs_triton
@needs_no_gpu
def test_auto_takes_no_backend_that_no_gpu_has_run(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "triton" in serving(*draw()[:2], statistics=True)
    assert set(NAMES) > BY_NAME_ONLY
    for statistics in (True, False):
        assert attend(*draw(), statistics=statistics).backend not in BY_NAME_ONLY


def test_nothing_of_triton_is_imported_before_something_is_computed():
    program = """
import sys, torch, toy_models.attention as a, toy_models.attention.triton as t, toy_models.attention.triton_tf32
q = torch.zeros(1, 2, 1, 16)
t.refuses(q, q, a.Options(scale=1.0))
a.attend(q, q, q, statistics=True)
print([name for name in sys.modules if name.split(".")[0] in ("triton", "transformer_lens")])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@needs_triton
@needs_no_gpu
def test_a_model_trains_on_the_kernels_as_on_the_reference():
    size = {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_vocab": 11, "n_ctx": 12, "position": "rope"}
    tokens = torch.randint(11, (2, 12), generator=torch.Generator().manual_seed(0))
    found = {}
    for backend in ("reference", "triton"):
        model = Transformer(TransformerConfig(**size, attention=backend), seed=0)
        loss = model(tokens, return_type="loss")
        loss.backward()
        found[backend] = [loss.detach(), *(weight.grad for weight in model.parameters())]
        assert model.backends == (backend, backend)
    for eager, fused in zip(*found.values(), strict=True):
        torch.testing.assert_close(fused, eager, rtol=1e-4, atol=1e-6)
    rows = model.attention_statistics(tokens)
    assert model.backends == ("triton", "triton")
    assert rows[1].entropy.shape == (2, 2, 12)
