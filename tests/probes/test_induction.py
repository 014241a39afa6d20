import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

import toy_models
from probes import names
from probes.errors import ProbeInputError
from probes.induction import duplicate_token, induction, prefix_matching, previous_token
from tests import oracles
from toy_models import Transformer, TransformerConfig, constructed
from toy_models.seeding import generator
from toy_models.tasks.repeated_blocks import RepeatedBlocks

VOCABULARY = 16
BLOCKS = RepeatedBlocks(d_vocab=VOCABULARY, n_ctx=32, shortest=3, longest=15, held_out=())
TEXTS = arrays("int64", st.tuples(st.integers(1, 3), st.integers(2, 9)), elements=st.integers(0, 3))


def random_pattern(batch: int, n: int, seed: int, head: int = 2, dtype=torch.float64) -> torch.Tensor:
    scores = 3 * torch.randn(batch, head, n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    visible = torch.ones(n, n, dtype=torch.bool).tril()
    return scores.masked_fill(~visible, -torch.inf).softmax(-1).to(dtype)


def uniform_pattern(n: int) -> torch.Tensor:
    return (torch.ones(n, n, dtype=torch.float64).tril() / torch.arange(1, n + 1)[:, None])[None, None]


class HandWrittenAttention(nn.Module):
    def __init__(self, d_model: int, seed: int):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.qkv = nn.Parameter(torch.randn(3, d_model, d_model, generator=random))
        self.hook_pattern = HookPoint()

    def forward(self, x):
        q, k, v = torch.einsum("bpd,ide->ibpe", x, self.qkv)
        scores = torch.einsum("bqe,bke->bqk", q, k) / math.sqrt(x.shape[-1])
        hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        pattern = self.hook_pattern(scores.masked_fill(hidden, -torch.inf).softmax(-1)[:, None])
        return x + pattern[:, 0] @ v


class HandWritten(HookedRootModule):
    """Somebody else's model: it shares nothing with ours but TransformerLens's hook names."""

    def __init__(self, n_layers: int = 2, d_model: int = 8):
        super().__init__()
        self.cfg = SimpleNamespace(n_layers=n_layers)
        self.embed = nn.Parameter(torch.randn(VOCABULARY, d_model, generator=torch.Generator().manual_seed(9)))
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"attn": HandWrittenAttention(d_model, layer)}) for layer in range(n_layers)
        )
        self.setup()

    def forward(self, tokens):
        x = self.embed[tokens]
        for block in self.blocks:
            x = block["attn"](x)
        return x @ self.embed.T


def ours() -> Transformer:
    return Transformer(TransformerConfig(n_layers=2, n_heads=2, d_model=16, d_vocab=VOCABULARY, n_ctx=32, d_mlp=0))


@pytest.fixture(params=["ours", "hand-written", "bridge-gpt2", "bridge-llama"])
def model(request):
    if request.param == "ours":
        return ours()
    if request.param == "hand-written":
        return HandWritten()
    return toy_models.load(request.getfixturevalue(f"{request.param.removeprefix('bridge-')}_directory"))


# Calibration on models whose heads are known ------------------------------------------------------


def test_the_induction_circuit_scores_one_on_its_own_heads():
    found = induction(constructed.induction_circuit(), BLOCKS.sample(8, generator(0, "text")).tokens)
    assert found.prefix_matching[1, 0] >= 1 - 1e-3
    assert found.previous_token[0, 0] >= 1 - 1e-3
    assert found.prefix_matching[0, 0] <= 1e-3


def test_a_previous_token_head_scores_one_as_such_and_nothing_else():
    found = induction(constructed.previous_token_head(), BLOCKS.sample(8, generator(0, "text")).tokens)
    assert found.previous_token.shape == (1, 1)
    assert found.previous_token[0, 0] >= 1 - 1e-3
    assert found.prefix_matching[0, 0] <= 1e-3
    assert found.duplicate_token[0, 0] <= 1e-3


@pytest.mark.parametrize("period", [3, 5, 8])
def test_a_previous_token_head_is_displaced_prefix_matching_by_the_period_less_one(period):
    model, tokens = constructed.previous_token_head(), BLOCKS.at(period).sample(8, generator(0, "text")).tokens
    _, cache = model.run_with_cache(tokens)
    for shift in range(1, period):
        score = prefix_matching(cache[names.pattern(0)], tokens, shift).item()
        assert score >= 1 - 1e-3 if shift == period - 1 else score <= 1e-3


def test_uniform_attention_scores_its_share_of_keys():
    tokens = BLOCKS.sample(4, generator(0, "text")).tokens
    found = induction(constructed.uniform_head().double(), tokens)
    n = tokens.shape[1]
    periods = [text[2:].index(text[1]) + 1 for text in tokens.tolist()]
    # Position i > period has seen (i - 1) // period copies of its token, among i + 1 visible keys.
    shares = [(i - 1) // period / (i + 1) for period in periods for i in range(period + 1, n)]
    expected = pytest.approx(math.fsum(shares) / len(shares), abs=1e-14)
    assert found.prefix_matching.item() == expected
    assert found.duplicate_token.item() == expected
    before = math.fsum(1 / (i + 1) for i in range(1, n)) / (n - 1)
    assert found.previous_token.item() == pytest.approx(before, abs=1e-14)


def test_every_earlier_occurrence_counts():
    tokens = torch.tensor([[5, 1, 5, 2, 5]])
    pattern = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    pattern[0, 0, 2] = torch.tensor([0.3, 0.2, 0.5, 0, 0], dtype=torch.float64)
    pattern[0, 0, 4] = torch.tensor([0.05, 0.15, 0.2, 0.35, 0.25], dtype=torch.float64)
    assert prefix_matching(pattern, tokens).item() == pytest.approx((0.2 + 0.15 + 0.35) / 2, abs=1e-15)
    assert duplicate_token(pattern, tokens).item() == pytest.approx((0.3 + 0.05 + 0.2) / 2, abs=1e-15)


def test_a_token_that_repeats_at_once_may_match_itself():
    pattern = torch.tensor([[[[1.0, 0.0], [0.4, 0.6]]]], dtype=torch.float64)
    assert prefix_matching(pattern, torch.tensor([[7, 7]])).item() == pytest.approx(0.6)


# Agreement with the definitions -------------------------------------------------------------------


@given(texts=TEXTS, seed=st.integers(0, 2**31), data=st.data())
@settings(max_examples=40)
def test_scores_follow_their_definitions(texts, seed, data):
    tokens, pattern = torch.tensor(texts), random_pattern(*texts.shape, seed)
    shift = data.draw(st.integers(1, texts.shape[1] - 1), "shift")
    rows, text = pattern.tolist(), texts.tolist()
    assert previous_token(pattern).tolist() == pytest.approx(oracles.previous_token(rows), abs=1e-12)
    repeats = any(len(set(row)) < len(row) for row in text)
    displaced = any(row[j - shift] == row[i] for row in text for i in range(len(row)) for j in range(shift, i + 1))
    for score, oracle, options, covered in (
        (prefix_matching, oracles.prefix_matching, {}, repeats),
        (prefix_matching, oracles.prefix_matching, {"shift": shift}, displaced),
        (duplicate_token, oracles.duplicate_token, {}, repeats),
    ):
        if covered:
            found = score(pattern, tokens, **options).tolist()
            assert found == pytest.approx(oracle(rows, text, **options), abs=1e-12)
        else:
            with pytest.raises(ProbeInputError):
                score(pattern, tokens, **options)


@given(texts=TEXTS.filter(lambda t: any(len(set(row)) < len(row) for row in t.tolist())), seed=st.integers(0, 2**31))
@settings(max_examples=25)
def test_scores_ignore_the_order_of_texts_and_the_names_of_tokens(texts, seed):
    tokens, pattern = torch.tensor(texts), random_pattern(*texts.shape, seed)
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
    relabelled = torch.tensor([17, 3, 0, 40])[tokens]
    for score in (prefix_matching, duplicate_token):
        expected = pytest.approx(score(pattern, tokens).tolist(), abs=1e-14)
        assert score(pattern[order], tokens[order]).tolist() == expected
        assert score(pattern, relabelled).tolist() == expected
    assert previous_token(pattern[order]).tolist() == pytest.approx(previous_token(pattern).tolist(), abs=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_patterns_are_summed_in_float32(dtype):
    tokens, pattern = torch.randint(4, (2, 64), generator=generator(0)), random_pattern(2, 64, 0, dtype=dtype)
    rounded = pattern.double().tolist()
    for found, expected in (
        (prefix_matching(pattern, tokens), oracles.prefix_matching(rounded, tokens.tolist())),
        (duplicate_token(pattern, tokens), oracles.duplicate_token(rounded, tokens.tolist())),
        (previous_token(pattern), oracles.previous_token(rounded)),
    ):
        assert found.dtype == torch.float32
        assert found.tolist() == pytest.approx(expected, rel=1e-5)  # 126 terms of float32: 126 * 2**-24


# Any hooked model ---------------------------------------------------------------------------------


def test_it_measures_the_patterns_that_the_model_itself_caches(model):
    tokens = torch.randint(VOCABULARY, (2, 20), generator=generator(1, "text"))
    found = induction(model, tokens)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    for layer in range(model.cfg.n_layers):
        pattern = cache[names.pattern(layer)].double().tolist()
        for name in ("prefix_matching", "duplicate_token"):
            expected = getattr(oracles, name)(pattern, tokens.tolist())
            assert getattr(found, name)[layer].tolist() == pytest.approx(expected, abs=1e-5)
        assert found.previous_token[layer].tolist() == pytest.approx(oracles.previous_token(pattern), abs=1e-5)
    spread = found.previous_token.max() - found.previous_token.min()
    assert spread > 1e-4  # heads differ, so a mixed-up layer or head would show


@pytest.mark.parametrize("training", [True, False])
def test_it_leaves_the_model_as_it_found_it(model, training):
    model.train(training)
    tokens = torch.randint(VOCABULARY, (1, 12), generator=generator(2, "text"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    points = [m for m in model.modules() if isinstance(m, HookPoint)]
    hooks = [(len(p._forward_hooks), len(p._backward_hooks)) for p in points]
    first = induction(model, tokens)
    assert points
    assert [(len(p._forward_hooks), len(p._backward_hooks)) for p in points] == hooks
    assert model.training is training
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(first.prefix_matching, induction(model, tokens).prefix_matching)


def test_it_writes_into_neither_pattern_nor_tokens():
    tokens, pattern = torch.tensor([[1, 2, 1, 2]]), random_pattern(1, 4, 0)
    copies = tokens.clone(), pattern.clone()
    prefix_matching(pattern, tokens), duplicate_token(pattern, tokens), previous_token(pattern)
    assert torch.equal(tokens, copies[0])
    assert torch.equal(pattern, copies[1])


# Refusals -----------------------------------------------------------------------------------------


def test_a_text_without_repeats_is_refused():
    with pytest.raises(ProbeInputError, match="no token of the text has an earlier occurrence"):
        induction(ours(), torch.tensor([[1, 2, 3], [3, 2, 1]]))


def test_a_text_of_one_token_is_refused():
    with pytest.raises(ProbeInputError, match="one token"):
        previous_token(uniform_pattern(1))


@pytest.mark.parametrize("shift", [0, -1, 4])
def test_a_shift_beyond_the_text_is_refused_with_its_value(shift):
    with pytest.raises(ProbeInputError, match=rf"shift={shift} must lie in \[1, 4\)"):
        prefix_matching(uniform_pattern(4), torch.tensor([[1, 2, 1, 2]]), shift)


def test_a_model_without_the_hook_is_refused_by_the_name_looked_for():
    model = HandWritten()
    for block in model.blocks:
        block["attn"].hook_pattern = nn.Identity()
    model.setup()
    with pytest.raises(ProbeInputError, match=r"blocks\.0\.attn\.hook_pattern"):
        induction(model, torch.tensor([[1, 2, 1]]))
