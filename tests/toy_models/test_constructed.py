import math

import pytest
import torch

from probes import names
from toy_models import constructed
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


@pytest.mark.parametrize("build", [constructed.uniform_head, constructed.previous_token_head])
def test_every_build_is_the_same_and_leaves_the_global_random_state_alone(build):
    state = torch.get_rng_state()
    first, second = build().state_dict(), build().state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
