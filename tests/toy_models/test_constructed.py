import math

import pytest
import torch

from probes import names
from toy_models import Transformer, TransformerConfig, constructed
from toy_models.seeding import generator
from toy_models.tasks.repeated_blocks import RepeatedBlocks

SIZES = [(16, 32), (40, 48), (9, 40)]  # d_vocab, n_ctx


def blocks(d_vocab: int, n_ctx: int, period: int):
    task = RepeatedBlocks(d_vocab=d_vocab, n_ctx=n_ctx, shortest=period, longest=period, held_out=())
    return task.sample(6, generator(0, "blocks"))


@torch.no_grad()
def right_answers(model, batch) -> torch.Tensor:
    """The probability of the right next token at every scored position."""
    p = model(batch.tokens).double().softmax(-1).gather(-1, batch.targets[..., None])[..., 0]
    return p[batch.scored]


@torch.no_grad()
def pattern(model, tokens, layer: int = 0) -> torch.Tensor:
    return model.run_with_cache(tokens)[1][names.pattern(layer)][:, 0]


def random_tokens(d_vocab: int, n_ctx: int) -> torch.Tensor:
    return torch.randint(d_vocab, (3, n_ctx), generator=generator(0, "text"))


# Induction circuit --------------------------------------------------------------------------------


@pytest.mark.parametrize(("d_vocab", "n_ctx"), SIZES)
@pytest.mark.parametrize("period", [1, 2, 3, 5, 8])
def test_the_induction_circuit_continues_every_repeat(d_vocab, n_ctx, period):
    answers = right_answers(constructed.induction_circuit(d_vocab, n_ctx), blocks(d_vocab, n_ctx, period))
    assert answers.numel() == 6 * (n_ctx - period - 1)
    assert answers.min() >= 1 - 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_induction_circuit_works_in_every_precision(dtype):
    answers = right_answers(constructed.induction_circuit().to(dtype), blocks(16, 32, 7))
    assert answers.min() >= 1 - 1e-3


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("wire", ["W_Q", "W_K", "W_V", "W_O"])
def test_a_cut_wire_breaks_the_induction_circuit(layer, wire):
    model = constructed.induction_circuit()
    with torch.no_grad():
        getattr(model.blocks[layer].attn, wire).zero_()
    assert right_answers(model, blocks(16, 32, 7)).mean() < 0.5


def test_with_a_weak_match_the_mass_beside_it_is_at_most_its_share():
    n_ctx, sharpness = 32, 5.0
    batch = blocks(16, n_ctx, 15)
    tokens = batch.tokens
    after = torch.zeros(*tokens.shape, n_ctx, dtype=torch.bool)
    after[:, :, 1:] = tokens[:, :, None] == tokens[:, None, :-1]
    model = constructed.induction_circuit(sharpness=sharpness).double()
    previous = pattern(model, tokens)
    keys = torch.arange(1, n_ctx + 1, dtype=torch.float64)
    beside = 1 - previous.diagonal(-1, dim1=1, dim2=2)
    assert (beside <= (keys[1:] - 1) * math.exp(-sharpness) + 1e-12).all()
    assert beside.max() > 0.1  # weak enough for the bound to say something
    strong = pattern(constructed.induction_circuit().double(), tokens, layer=1)
    beside = 1 - (strong * after.tril()).sum(-1)[batch.scored]
    assert (beside <= n_ctx * math.exp(-constructed.SHARPNESS) * 1.01).all()


def test_a_new_token_has_no_match_and_is_answered_by_all_keys_alike():
    seen = pattern(constructed.induction_circuit().double(), torch.tensor([[0, 3, 1, 4, 5, 9]]), layer=1)
    for i in range(1, 6):
        # Key 0 stands before nothing, and layer 0 lets it see itself: it too is no match.
        assert seen[0, i, : i + 1].tolist() == pytest.approx([1 / (i + 1)] * (i + 1), abs=1e-6)


# Previous-token head ------------------------------------------------------------------------------


@pytest.mark.parametrize(("d_vocab", "n_ctx"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_previous_token_head_says_the_previous_token(d_vocab, n_ctx, dtype):
    tokens = random_tokens(d_vocab, n_ctx)
    with torch.no_grad():
        logits = constructed.previous_token_head(d_vocab, n_ctx).to(dtype)(tokens)
    said = torch.cat([tokens[:, :1], tokens[:, :-1]], dim=1)  # position 0 sees itself
    expected = constructed.SHARPNESS * torch.nn.functional.one_hot(said, d_vocab).double()
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-3)


def test_a_blind_previous_token_head_says_nothing_in_particular():
    model, tokens = constructed.previous_token_head(), random_tokens(16, 32)
    with torch.no_grad():
        model.blocks[0].attn.W_Q.zero_()
    right = model(tokens).softmax(-1)[:, 1:].gather(-1, tokens[:, :-1, None])
    assert right.mean() < 0.5


# Diagonal head ------------------------------------------------------------------------------------


def self_mass(model, tokens) -> torch.Tensor:
    return pattern(model, tokens).diagonal(dim1=-2, dim2=-1)


@pytest.mark.parametrize(("d_vocab", "n_ctx"), [*SIZES, (16, 1024)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_diagonal_head_sees_itself_and_says_its_token(d_vocab, n_ctx, dtype):
    tokens = random_tokens(d_vocab, n_ctx)
    model = constructed.diagonal_head(d_vocab, n_ctx).to(dtype)
    assert self_mass(model, tokens).min() >= 1 - 1e-3
    with torch.no_grad():
        logits = model(tokens)
    expected = constructed.SHARPNESS * torch.nn.functional.one_hot(tokens, d_vocab).double()
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-3 * constructed.SHARPNESS)


def test_the_diagonal_heads_scores_are_the_sum_of_cosines():
    model, n = constructed.diagonal_head(12, 40, base=500.0).double(), 40
    scores = model.run_with_cache(random_tokens(12, n))[1]["attn_scores", 0][0, 0]
    psi = model.blocks[0].attn.b_Q[0]
    at = torch.arange(n, dtype=torch.float64)
    angle = (at[:, None] - at)[..., None] * 500.0 ** (-torch.arange(6, dtype=torch.float64) / 6)
    expected = psi.pow(2).sum() / 6 * angle.cos().sum(-1)
    seen = torch.ones(n, n, dtype=torch.bool).tril()
    torch.testing.assert_close(scores[seen], expected[seen], rtol=1e-10, atol=1e-9)
    gap = (scores.diagonal()[:, None] - scores).where(torch.ones(n, n, dtype=torch.bool).tril(-1), torch.inf).min()
    assert gap.item() == pytest.approx(constructed.SHARPNESS, rel=1e-6)  # as low as the closest return, no lower


@pytest.mark.parametrize("squared_norm", [5.0, 20.0, 100.0])
def test_one_frequency_returns_and_loses_the_diagonal_in_a_long_text(squared_norm):
    """With psi on the pair that turns by 1 rad per token alone: cos(44) is within 2e-4 of cos(0)."""
    for n in (16, 512):
        model = constructed.diagonal_head(16, n).double()
        with torch.no_grad():
            for bias in (model.blocks[0].attn.b_Q, model.blocks[0].attn.b_K):
                bias.zero_()
                bias[0, 0] = squared_norm**0.5
        found, at = self_mass(model, random_tokens(16, n)), torch.arange(n, dtype=torch.float64)
        beside = (squared_norm * (at.cos() - 1)).exp().cumsum(0)  # of the distances 0 to i, the first is itself
        torch.testing.assert_close(found, (1 / beside).expand_as(found), rtol=1e-9, atol=0)
        assert found[0, -1] < 0.06 or n == 16
    assert self_mass(constructed.diagonal_head(16, 512), random_tokens(16, 512)).min() >= 1 - 1e-3


@torch.no_grad()
def test_without_positions_no_first_head_gives_a_repeated_token_more_than_half_to_itself():
    """On [bos, x, x] the copies read the same, so they share the mass of the second.  The bound is the first layer's:
    behind it the causal mask has told the copies apart.  Rotation does so at once."""
    tokens, size = torch.tensor([[0, 3, 3], [0, 7, 7]]), {"d_model": 16, "d_vocab": 16, "n_ctx": 32, "d_head": 8}
    best = {0: 0.0, 1: 0.0}
    for seed in range(12):
        options = {"position": "none", "normalization_type": ("LN", "RMS", None)[seed % 3], "dtype": "float64"}
        model = Transformer(TransformerConfig(n_layers=2, n_heads=64, **size, **options), seed=seed)
        for layer, block in enumerate(model.blocks):
            block.attn.W_Q.mul_(3.0 * (seed + 1))
            found = model.run_with_cache(tokens)[1][names.pattern(layer)][:, :, 2, 2]
            best[layer] = max(best[layer], found.max().item())
    assert 0.499 < best[0] <= 0.5 + 1e-12  # the search reaches the bound
    assert best[1] > 0.9
    assert self_mass(constructed.diagonal_head(), tokens).min() >= 1 - 1e-3


# Uniform head -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d_vocab", "n_ctx"), SIZES)
def test_the_uniform_head_counts_the_tokens_seen(d_vocab, n_ctx):
    tokens = random_tokens(d_vocab, n_ctx)
    with torch.no_grad():
        logits = constructed.uniform_head(d_vocab, n_ctx)(tokens)
    shares = [
        [[text[: i + 1].count(token) / (i + 1) for token in range(d_vocab)] for i in range(n_ctx)]
        for text in tokens.tolist()
    ]
    torch.testing.assert_close(logits, torch.tensor(shares), rtol=0, atol=1e-6)


def test_the_uniform_head_weighs_all_visible_keys_alike():
    found = pattern(constructed.uniform_head().double(), random_tokens(16, 32))
    expected = torch.ones(32, 32, dtype=torch.float64).tril() / torch.arange(1, 33)[:, None]
    torch.testing.assert_close(found, expected.expand_as(found), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    "build", [constructed.uniform_head, constructed.previous_token_head, constructed.diagonal_head]
)
def test_every_build_is_the_same_and_leaves_the_global_random_state_alone(build):
    state = torch.get_rng_state()
    first, second = build().state_dict(), build().state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
