import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_lens.hook_points import HookPoint

import toy_models
from probes import names
from probes.errors import ProbeInputError
from probes.heads import diagonal, entropy, first_token, heads, relative_entropy
from tests import oracles
from toy_models import Transformer, TransformerConfig, constructed
from toy_models.seeding import generator

VOCABULARY = 16
SCORES = (first_token, diagonal, entropy, relative_entropy)


def random_pattern(batch: int, n: int, seed: int, head: int = 2, dtype=torch.float64) -> torch.Tensor:
    scores = 3 * torch.randn(batch, head, n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scores.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -torch.inf).softmax(-1).to(dtype)


def by_definition(name: str, pattern: list) -> list[float]:
    """The table of the theory note in plain loops, per head."""
    row_score = {
        "first_token": lambda row, i: row[0],
        "diagonal": lambda row, i: row[i],
        "entropy": lambda row, i: oracles.entropy(row),
        "relative_entropy": lambda row, i: oracles.entropy(row) / math.log(i + 1),
    }[name]
    per_head = [
        [row_score(text[head][i], i) for text in pattern for i in range(1, len(text[head]))]
        for head in range(len(pattern[0]))
    ]
    return [math.fsum(values) / len(values) for values in per_head]


def text(n: int = 24, batch: int = 2, d_vocab: int = VOCABULARY) -> torch.Tensor:
    return torch.randint(d_vocab, (batch, n), generator=generator(0, "text"))


@pytest.fixture(params=["ours", "bridge-gpt2", "bridge-llama"])
def model(request):
    if request.param == "ours":
        return Transformer(TransformerConfig(n_layers=2, n_heads=2, d_model=16, d_vocab=VOCABULARY, n_ctx=32))
    return toy_models.load(request.getfixturevalue(f"{request.param.removeprefix('bridge-')}_directory"))


# Calibration on models whose heads are known ------------------------------------------------------


def test_the_uniform_head_scores_the_closed_forms():
    n = 24
    found = heads(constructed.uniform_head(n_ctx=n).double(), text(n))
    share = math.fsum(1 / (i + 1) for i in range(1, n)) / (n - 1)
    assert found.first_token.item() == pytest.approx(share, abs=1e-14)
    assert found.diagonal.item() == pytest.approx(share, abs=1e-14)
    assert found.entropy.item() == pytest.approx(math.lgamma(n + 1) / (n - 1), abs=1e-13)
    assert found.relative_entropy.item() == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("n", [2, 3, 24])
def test_the_previous_token_head_sees_the_first_token_once_and_itself_never(n):
    model = constructed.previous_token_head(n_ctx=max(n, 8)).double()
    found = heads(model, text(n))
    beside = n * math.exp(-constructed.SHARPNESS)  # the mass beside the match
    assert found.first_token.item() == pytest.approx(1 / (n - 1), abs=beside)
    assert found.diagonal.item() <= beside
    assert 0 <= found.relative_entropy.item() <= 3 * constructed.SHARPNESS * beside


def test_a_head_on_the_first_token_and_one_on_the_diagonal_score_one():
    n = 12
    sink = torch.zeros(n, n, dtype=torch.float64)
    sink[:, 0] = 1
    pattern = torch.stack([sink, torch.eye(n, dtype=torch.float64)])[None]
    assert first_token(pattern).tolist() == [1, 0]
    assert diagonal(pattern).tolist() == [0, 1]
    assert entropy(pattern).tolist() == relative_entropy(pattern).tolist() == [0, 0]


def test_a_window_keeps_the_relative_entropy_below_one():
    n, width = 24, 4
    visible = torch.ones(n, n, dtype=torch.float64).tril().triu(1 - width)
    pattern = (visible / visible.sum(-1, keepdim=True))[None, None]
    expected = math.fsum(math.log(min(i + 1, width)) / math.log(i + 1) for i in range(1, n)) / (n - 1)
    assert relative_entropy(pattern).item() == pytest.approx(expected, abs=1e-14)


# Agreement with the definitions -------------------------------------------------------------------


@given(batch=st.integers(1, 3), n=st.integers(2, 9), seed=st.integers(0, 2**31))
@settings(max_examples=40)
def test_scores_follow_their_definitions_and_ignore_the_order_of_texts(batch, n, seed):
    pattern = random_pattern(batch, n, seed)
    for score in SCORES:
        found = score(pattern)
        assert found.dtype == torch.float64
        assert found.tolist() == pytest.approx(by_definition(score.__name__, pattern.tolist()), abs=1e-12)
        assert score(pattern.flip(0)).tolist() == pytest.approx(found.tolist(), abs=1e-14)


@given(n=st.integers(2, 9), seed=st.integers(0, 2**31))
@settings(max_examples=25)
def test_first_token_and_diagonal_share_one_unit_of_attention(n, seed):
    pattern = random_pattern(2, n, seed)
    assert (first_token(pattern) + diagonal(pattern) <= 1 + 1e-14).all()
    assert ((relative_entropy(pattern) >= 0) & (relative_entropy(pattern) <= 1 + 1e-14)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_patterns_are_summed_in_float32(dtype):
    pattern = random_pattern(2, 64, 0, dtype=dtype)
    for score in SCORES:
        found = score(pattern)
        assert found.dtype == torch.float32
        expected = by_definition(score.__name__, pattern.double().tolist())
        assert found.tolist() == pytest.approx(expected, rel=1e-5)  # sums of 126 terms in float32: 126 * 2**-24


# Any hooked model ---------------------------------------------------------------------------------


def test_it_measures_the_patterns_that_the_model_itself_caches(model):
    tokens = text(20)
    found = heads(model, tokens)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    for layer in range(model.cfg.n_layers):
        pattern = cache[names.pattern(layer)].double().tolist()
        for score in SCORES:
            expected = by_definition(score.__name__, pattern)
            assert getattr(found, score.__name__)[layer].tolist() == pytest.approx(expected, abs=1e-5)
    assert found.diagonal.max() - found.diagonal.min() > 1e-4  # heads differ, so a mixed-up head would show


def test_it_leaves_the_model_as_it_found_it(model):
    tokens = text(12)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    points = [m for m in model.modules() if isinstance(m, HookPoint)]
    hooks = [len(p._forward_hooks) for p in points]
    first = heads(model, tokens)
    assert [len(p._forward_hooks) for p in points] == hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(first.entropy, heads(model, tokens).entropy)


def test_it_does_not_write_into_the_pattern():
    pattern = random_pattern(1, 4, 0)
    copy = pattern.clone()
    for score in SCORES:
        score(pattern)
    assert torch.equal(pattern, copy)


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES)
def test_a_text_of_one_token_is_refused(score):
    with pytest.raises(ProbeInputError, match="one token"):
        score(torch.ones(1, 1, 1, 1))


@pytest.mark.parametrize("score", [entropy, relative_entropy])
def test_attention_to_later_keys_is_refused_with_the_weight(score):
    with pytest.raises(ProbeInputError, match=r"weight 0\.25 on a hidden key"):
        score(torch.full((1, 1, 4, 4), 0.25))


@pytest.mark.parametrize("score", [entropy, relative_entropy])
def test_rows_that_do_not_sum_to_one_are_refused_with_the_excess(score):
    with pytest.raises(ProbeInputError, match=r"sum to 1 .* off by 0\.5"):
        score(torch.eye(4)[None, None] / 2)


def test_a_model_without_the_hook_is_refused_by_the_name_looked_for():
    class Silent:
        cfg = TransformerConfig(n_layers=1, n_heads=1, d_model=4, d_vocab=4, n_ctx=4)

        def run_with_cache(self, tokens, **_):
            return tokens, {}

    with pytest.raises(ProbeInputError, match=r"blocks\.0\.attn\.hook_pattern"):
        heads(Silent(), text(4, d_vocab=4))
