import itertools
import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import toy_models
from probes import names
from probes.errors import ProbeInputError
from probes.heads import first_token
from probes.sinks import EPSILON, own_token, sink_mass, sink_rate, sinks
from tests.probes.clean_and_corrupt import perturbed
from tests.probes.models import HandWritten, same, text, trace
from toy_models import Transformer, constructed
from toy_models.seeding import generator

GQA = {"position": "rope", "n_heads": 4, "d_head": 4, "n_key_value_heads": 2, "normalization_type": "RMS"}


def with_start(n: int, batch: int = 4, d_vocab: int = 16) -> torch.Tensor:
    """Token 0 in front and nowhere else."""
    tokens = torch.randint(1, d_vocab, (batch, n), generator=generator(0, "text"))
    tokens[:, 0] = 0
    return tokens


@torch.no_grad()
def sink_head(value: float = 1.0) -> Transformer:
    """Every query attends to token 0, whose value has the given size; those of all others have 1."""
    model = constructed.uniform_head().double()
    model.blocks[0].attn.b_Q[0, 0] = constructed.SHARPNESS
    model.blocks[0].attn.W_K[0, 0, 0] = 1.0  # "I am the first token"
    model.blocks[0].attn.W_V[0, 0] *= value
    return model


def pairs(d_vocab: int) -> torch.Tensor:
    """Every text of two tokens."""
    return torch.tensor(list(itertools.product(range(d_vocab), repeat=2)))


@pytest.fixture(params=["ours", "bridge-gpt2", "bridge-llama"])
def model_with_values(request):
    if request.param == "ours":
        return perturbed()
    return toy_models.load(request.getfixturevalue(f"{request.param.removeprefix('bridge-')}_directory"))


# Calibration on models whose heads are known ------------------------------------------------------


@pytest.mark.parametrize("value", [1.0, 0.0, 0.25])
def test_a_sink_takes_all_the_mass_and_carries_what_its_value_is_worth(value):
    n = 20
    found = sinks(sink_head(value), with_start(n))
    beside = n * math.exp(-constructed.SHARPNESS)
    assert (found.mass >= 1 - beside).all()
    assert found.value_ratio.item() == pytest.approx(value, abs=1e-14)
    # The rest, at most `beside`, weighs in with values of size 1.
    assert found.carried.item() == pytest.approx(1 if value else 0, abs=beside / max(value, 1e-300) if value else 0)
    assert sink_rate(found.mass, EPSILON["gu"]) == sink_rate(found.mass, EPSILON["barbero"]) == 1


@pytest.mark.parametrize("n", [2, 5, 20])
def test_uniform_attention_has_the_mass_of_a_harmonic_number(n):
    found = sinks(constructed.uniform_head().double(), with_start(n))
    harmonic = math.fsum(1 / m for m in range(1, n + 1))
    assert (found.mass - harmonic / n).abs().max() <= 1e-14
    assert found.value_ratio.item() == pytest.approx(1, abs=1e-14)
    assert found.carried.item() == pytest.approx((harmonic - 1) / (n - 1), abs=1e-14)


def test_the_two_conventions_part_on_a_mass_between_their_thresholds():
    mass = torch.tensor([[[0.31, 0.5], [0.3, 0.9]], [[0.2, 0.79], [0.81, 0.8]]], dtype=torch.float64)
    assert sink_rate(mass, EPSILON["gu"]) == 6 / 8
    assert sink_rate(mass, EPSILON["barbero"]) == 2 / 8


def test_a_diagonal_head_re_adds_its_own_token_and_no_more():
    train, held_out = (torch.randint(16, (20, 12), generator=generator(seed, "text")) for seed in (0, 1))
    found = own_token(constructed.diagonal_head().double(), train, held_out)
    beside = 12 * math.exp(-constructed.SHARPNESS)
    assert found.linear.item() >= 1 - 4 * beside
    assert found.constant.item() == pytest.approx(1 / 16, abs=0.05)  # the mean of 16 one-hot vectors


def test_a_sink_head_says_the_same_everywhere():
    train, held_out = with_start(20, batch=8), with_start(20, batch=3)
    found = own_token(sink_head(), train, held_out)
    assert found.constant.item() >= 1 - 40 * math.exp(-constructed.SHARPNESS)
    assert found.linear.item() >= 1 - 40 * math.exp(-constructed.SHARPNESS)


@pytest.mark.parametrize("d_vocab", [4, 6])
def test_over_all_pairs_of_tokens_the_shares_are_known(d_vocab):
    """Query 1 writes (t_0 + t_1) / 2 one-hot if uniform, t_0 alone if it looks back: its own token says half, or none.

    With V tokens the mean has squared size 1 / V, the uniform output (1 + 1 / V) / 2 on average, and what
    t_1 leaves open is (1 - 1 / V) / 4.
    """
    texts = pairs(d_vocab)
    found = own_token(constructed.uniform_head(d_vocab, 2).double(), texts, texts)
    assert found.constant.item() == pytest.approx(2 / (d_vocab + 1), abs=1e-12)
    assert found.linear.item() == pytest.approx(1 - (d_vocab - 1) / (2 * (d_vocab + 1)), abs=1e-12)
    found = own_token(constructed.previous_token_head(d_vocab, 2).double(), texts, texts)
    beside = 4 * math.exp(-constructed.SHARPNESS)
    assert found.constant.item() == pytest.approx(1 / d_vocab, abs=beside)
    assert found.linear.item() == pytest.approx(1 / d_vocab, abs=beside)


# Agreement with the definitions -------------------------------------------------------------------


@given(n=st.integers(2, 9), seed=st.integers(0, 2**31))
def test_the_mass_counts_query_0_which_the_first_token_score_leaves_out(n, seed):
    scores = 3 * torch.randn(1, 2, n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pattern = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)
    expected = (1 + (n - 1) * first_token(pattern)) / n
    assert (sink_mass(pattern)[0] - expected).abs().max() <= 1e-14


@pytest.mark.parametrize("options", [{}, GQA])
def test_what_the_first_token_carries_follows_its_definition(options):
    model, tokens = perturbed(**options), text(n=7, batch=2)
    found = sinks(model, tokens)
    _, cache = model.run_with_cache(tokens)
    share = model.cfg.n_heads // model.cfg.n_key_value_heads
    for layer, head in itertools.product(range(model.cfg.n_layers), range(model.cfg.n_heads)):
        pattern, v = cache[names.pattern(layer)][:, head], cache[f"blocks.{layer}.attn.hook_v"][:, :, head // share]
        size = [[(v[b, j] @ model.W_O[layer, head]).norm().item() for j in range(7)] for b in range(2)]
        sums = [
            math.fsum(pattern[b, i, j].item() * size[b][j] for b in range(2) for i in range(1, 7) for j in keys)
            for keys in (range(1), range(7))
        ]
        assert found.carried[layer, head].item() == pytest.approx(sums[0] / sums[1], rel=1e-12)
        rest = statistics.fmean(size[b][j] for b in range(2) for j in range(1, 7))
        ratio = (size[0][0] + size[1][0]) / 2 / rest
        assert found.value_ratio[layer, head].item() == pytest.approx(ratio, rel=1e-12)


def test_massive_activations_follow_their_definition():
    model, tokens = perturbed(), text(n=7, batch=2)
    found = sinks(model, tokens)
    _, cache = model.run_with_cache(tokens)
    for layer, b in itertools.product(range(3), range(2)):
        x = cache[names.resid_post(layer)][b].numpy()
        assert found.massive[b, layer].item() == pytest.approx((x[0] ** 2).sum() / (x[1:] ** 2).sum(), rel=1e-12)
        size = np.sort(np.abs(x).ravel())
        # Of an even count the lower middle one is the median, as torch has it.
        assert found.largest[b, layer].item() == pytest.approx(size[-1] / size[(len(size) - 1) // 2], rel=1e-12)


@pytest.mark.parametrize("options", [{}, GQA, {"normalization_type": None}, {"norm_position": "post"}])
def test_the_fit_is_the_least_squares_of_what_the_layer_reads(options):
    """With numpy's least squares, on the head's output in the stream, and the norm written out once more."""
    model, train, held_out = perturbed(**options), text(0, batch=6), text(1, batch=4)
    found = own_token(model, train, held_out)
    _, fit = model.run_with_cache(train)
    _, test = model.run_with_cache(held_out)

    def read(cache, layer):
        x = cache[names.resid_pre(layer)]
        if model.cfg.normalization_type and model.cfg.norm_position == "pre":
            x = x - x.mean(-1, keepdim=True) if model.cfg.normalization_type == "LN" else x
            x = x / (x.square().mean(-1, keepdim=True) + model.cfg.eps).sqrt()
        x = x[:, 1:].flatten(0, 1).numpy()
        return np.hstack([x, np.ones((len(x), 1))])

    def written(cache, layer, head):
        return (cache[names.z(layer)][:, 1:, head].flatten(0, 1) @ model.W_O[layer, head].detach()).numpy()

    for layer, head in itertools.product(range(model.cfg.n_layers), range(model.cfg.n_heads)):
        y, y_new = written(fit, layer, head), written(test, layer, head)
        guess = read(test, layer) @ np.linalg.lstsq(read(fit, layer), y, rcond=1e-12)[0]
        for name, predicted in (("linear", guess), ("constant", y.mean(0))):
            share = 1 - ((y_new - predicted) ** 2).sum() / (y_new**2).sum()
            assert getattr(found, name)[layer, head].item() == pytest.approx(share, abs=1e-9)


# Any hooked model ---------------------------------------------------------------------------------


def test_every_kind_of_model_has_the_shares_of_every_head(any_model):
    found = own_token(any_model, text(0, batch=6), text(1, batch=6))
    shape = (any_model.cfg.n_layers, any_model.cfg.n_heads)
    assert found.linear.shape == found.constant.shape == shape
    assert (found.linear <= 1).all()
    assert (found.constant <= 1).all()


def test_every_kind_of_model_with_values_has_its_sinks(model_with_values):
    found = sinks(model_with_values, text())
    n_layers, n_heads = model_with_values.cfg.n_layers, model_with_values.cfg.n_heads
    assert found.mass.shape == (3, n_layers, n_heads)
    assert found.carried.shape == found.value_ratio.shape == (n_layers, n_heads)
    assert found.massive.shape == found.largest.shape == (3, n_layers)
    assert ((found.carried > 0) & (found.carried < 1)).all()
    assert found.mass.std() > 1e-3  # heads differ, so a mixed-up layer or head would show


def test_it_leaves_the_model_as_it_found_it(any_model):
    before, tokens = trace(any_model), text(batch=6)
    first = own_token(any_model, tokens, tokens)
    assert same(before, trace(any_model))
    assert torch.equal(tokens, text(batch=6))
    assert torch.equal(first.linear, own_token(any_model, tokens, tokens).linear)


def test_scoring_sinks_leaves_no_trace(model_with_values):
    before = trace(model_with_values)
    sinks(model_with_values, text())
    assert same(before, trace(model_with_values))


# Refusals -----------------------------------------------------------------------------------------


def test_a_model_without_values_is_refused_by_the_hook():
    with pytest.raises(ProbeInputError, match=r"no hook blocks\.0\.attn\.hook_v"):
        sinks(HandWritten(d_vocab=9), text())


def test_a_model_without_the_scale_of_its_norm_is_refused():
    model = perturbed()
    model.blocks[1].ln1.hook_scale = nn.Identity()
    model.setup()
    with pytest.raises(ProbeInputError, match=r"no hook blocks\.1\.ln1\.hook_scale"):
        own_token(model, text(batch=6), text())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sinks(perturbed(), text(n=1)), "a text of 1 token"),
        (lambda: own_token(perturbed(), text(batch=6), text(n=1)), "a text of 1 token"),
        (lambda: own_token(perturbed(), text(n=5), text()), r"train has 12 .* more than d_model \+ 1 = 13 are needed"),
        (lambda: sinks(perturbed(causal=False), text()), "on a later key: a sink rate is that of a decoder"),
        (lambda: sink_rate(torch.ones(2), 1.0), r"epsilon=1\.0 must lie in \[0, 1\)"),
        (lambda: sink_rate(torch.ones(2, 0), 0.3), r"mass has shape \(2, 0\)"),
        (lambda: sinks(perturbed(), torch.tensor([[1, 9]])), r"token 9 must lie in \[0, 9\)"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(call, message):
    with pytest.raises(ProbeInputError, match=message) as refusal:
        call()
    assert "\n" not in str(refusal.value)
