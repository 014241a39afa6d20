"""Generation: the cache changes nothing, hooks stay live, and chance comes from the caller's generator alone."""

import pytest
import torch

from toy_models import positions
from toy_models.generation import KeyValueCache, choose

CLOSE = {"rtol": 0.0, "atol": 1e-10}  # float64 all through
MODELS = {
    "learned": {},
    "rope": {"position": "rope"},
    "shortformer": {"position": "shortformer"},
    "none": {"position": "none"},
    "sinusoidal": {"position": "sinusoidal"},
    "alibi": {"position": "alibi"},
    "relative": {"position": "relative"},
    "gqa alibi window": {"n_heads": 6, "n_key_value_heads": 2, "position": "alibi", "window": 4},
    "reference relative": {"attention": "reference", "position": "relative"},
    "smeared": {"smeared_keys": True},
    "smeared rope": {"smeared_keys": True, "position": "rope", "n_key_value_heads": 1},
    "window": {"window": 3},
    "gqa rope window": {"n_heads": 6, "n_key_value_heads": 2, "position": "rope", "window": 4},
    "gated rms": {"gated_mlp": True, "normalization_type": "RMS", "position": "rope"},
    "post-norm": {"norm_position": "post"},
    "attention only": {"d_mlp": 0, "normalization_type": None},
    "reference": {"attention": "reference", "position": "rope"},
}


@pytest.fixture(params=MODELS)
def model(request, perturbed):
    return perturbed(**MODELS[request.param])


@torch.no_grad()
def test_greedy_generation_with_a_cache_is_the_argmax_loop(model, draw_tokens):
    start = draw_tokens(3, 4)
    text = start
    for _ in range(9):
        text = torch.cat([text, model(text)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(model.generate(start, 9), text)
    assert torch.equal(model.generate(start, 9, use_past=False), text)
    assert len({tuple(row) for row in text[:, 4:].tolist()}) > 1


@torch.no_grad()
@pytest.mark.parametrize("pieces", [(1,) * 8, (3, 1, 4), (5, 3), (8,)])
def test_logits_in_pieces_are_the_logits_of_the_whole(model, draw_tokens, pieces):
    tokens, past = draw_tokens(3, 8), KeyValueCache(model.cfg.n_layers)
    found = [model(piece, past=past) for piece in tokens.split(pieces, dim=1)]
    assert past.length == 8
    torch.testing.assert_close(torch.cat(found, dim=1), model(tokens), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("options", [{"window": 3}] + [{"position": name} for name in positions.NAMES])
def test_padded_texts_continue_from_the_cache(perturbed, draw_tokens, options):
    model, tokens, pads = perturbed(**options), draw_tokens(3, 9), torch.tensor([0, 1, 3])
    mask = torch.arange(9)[None] >= pads[:, None]
    whole = model(tokens, attention_mask=mask, position_offset=-pads)
    past = KeyValueCache(2)
    model(tokens[:, :6], past=past, attention_mask=mask[:, :6], position_offset=-pads)
    rest = model(tokens[:, 6:], past=past, attention_mask=mask, position_offset=-pads)
    torch.testing.assert_close(rest, whole[:, 6:], **CLOSE)


@torch.no_grad()
def test_a_text_may_grow_to_one_beyond_the_context(perturbed, draw_tokens):
    model = perturbed()
    assert model.generate(draw_tokens(2, 10), 7).shape == (2, 17)
    assert model.generate(draw_tokens(2, 16), 1, use_past=False).shape == (2, 17)
    assert torch.equal(model.generate(draw_tokens(2, 5), 0), draw_tokens(2, 5))


@torch.no_grad()
def test_hooks_see_every_step_and_their_edits_count(perturbed, draw_tokens):
    model, tokens, seen = perturbed(), draw_tokens(2, 4), []

    def favour_token_7(logit_input, hook):
        seen.append(logit_input.shape[1])
        return logit_input + 100 * model.W_U[:, 7]

    plain = model.generate(tokens, 3)
    with model.hooks(fwd_hooks=[("ln_final.hook_normalized", favour_token_7)]):
        edited = model.generate(tokens, 3)
        assert seen == [4, 1, 1]
        seen.clear()
        assert torch.equal(model.generate(tokens, 3, use_past=False), edited)
        assert seen == [4, 5, 6]
    assert torch.equal(edited[:, 4:], torch.full((2, 3), 7))
    assert not torch.equal(plain, edited)
    assert torch.equal(model.generate(tokens, 3), plain)


@torch.no_grad()
def test_an_edited_key_stays_edited_in_the_cache(perturbed, draw_tokens):
    model, tokens, past = perturbed(position="rope"), draw_tokens(2, 7), KeyValueCache(2)

    def without_key_1(k, hook):
        k = k.clone()
        k[:, 1] = 0
        return k

    hook = ("blocks.0.attn.hook_k", without_key_1)
    with model.hooks(fwd_hooks=[hook]):
        expected = model(tokens)
        model(tokens[:, :5], past=past)
    torch.testing.assert_close(model(tokens[:, 5:], past=past), expected[:, 5:], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("seen", [0, 3])
def test_a_pass_that_fails_leaves_the_cache_as_it_was(perturbed, draw_tokens, layer, seen):
    model, tokens, past = perturbed(), draw_tokens(2, 7), KeyValueCache(2)
    if seen:
        model(tokens[:, :seen], past=past)

    def stop(x, hook):
        raise ArithmeticError("stop")

    with pytest.raises(ArithmeticError), model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_mlp_out", stop)]):
        model(tokens[:, seen:] * 0, past=past)
    assert past.length == seen
    torch.testing.assert_close(model(tokens[:, seen:], past=past), model(tokens)[:, seen:], **CLOSE)


@torch.no_grad()
def test_the_same_generator_state_draws_the_same_text(perturbed, draw_tokens):
    model, tokens = perturbed(), draw_tokens(2, 4)

    def drawn(seed, **options):
        return model.generate(tokens, 10, temperature=1.5, generator=torch.Generator().manual_seed(seed), **options)

    assert torch.equal(drawn(1), drawn(1))
    assert torch.equal(drawn(1), drawn(1, use_past=False))
    assert not torch.equal(drawn(1), drawn(2))
    generator = torch.Generator().manual_seed(1)
    first = model.generate(tokens, 10, temperature=1.5, generator=generator)
    assert not torch.equal(model.generate(tokens, 10, temperature=1.5, generator=generator), first)


def test_draws_follow_the_softmax_at_that_temperature():
    n, temperature = 20_000, 2.0
    logits = torch.tensor([0.0, 1.0, 3.0, -1.0])
    drawn = choose(logits.expand(n, -1), temperature, torch.Generator().manual_seed(0))
    p = (logits / temperature).softmax(0)
    share = torch.bincount(drawn, minlength=4) / n
    assert ((share - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all()  # four standard errors
    assert torch.equal(choose(logits.expand(3, -1), 0.0, None), torch.tensor([2, 2, 2]))
