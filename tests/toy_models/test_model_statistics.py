"""Row statistics on the model: those of its own pattern, asked for by a hook or by a call, and nothing left behind."""

import json
import subprocess
import sys

import pytest
import torch

import toy_models
from toy_models import positions
from toy_models.attention import STATISTICS, RowStatistics, attend, reference
from toy_models.errors import InputError

CLOSE = {"rtol": 1e-10, "atol": 1e-11}  # float64 all through
POINT = "blocks.{}.attn.hook_row_statistics"
MODELS = [
    *({"position": name} for name in positions.NAMES),
    {"position": "rope", "n_heads": 6, "n_key_value_heads": 2, "window": 3},
    {"position": "alibi", "causal": False, "window": 4},
    {"position": "rope", "smeared_keys": True, "attn_scale": 1.7},
]
REAL = torch.arange(9)[None] >= torch.tensor([0, 3, 5])[:, None]  # left padding: rows that see nothing are dead


def of_the_pattern(model, tokens, targets=None, received=False, **run) -> list[RowStatistics]:
    """From the scores and the pattern that the model itself caches."""
    cache = model.run_with_cache(tokens, **run)[1]
    layers = range(model.cfg.n_layers)
    asked = {"targets": targets, "received": received}
    return [reference.row_statistics(cache["attn_scores", layer], cache["pattern", layer], **asked) for layer in layers]


def hooked(model, tokens, **run) -> list[torch.Tensor]:
    cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("row_statistics"), **run)[1]
    return [cache[POINT.format(layer)] for layer in range(model.cfg.n_layers)]


def assert_same(found: RowStatistics, expected: RowStatistics, **close) -> None:
    for name in expected.__dataclass_fields__:
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        if other is not None:
            torch.testing.assert_close(one, other, **close, msg=lambda text, name=name: f"{name}: {text}")


# The numbers ----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("options", MODELS, ids=str)
@pytest.mark.parametrize("mask", [None, REAL], ids=["", "padded"])
def test_hook_and_call_give_the_statistics_of_the_models_own_pattern(perturbed, draw_tokens, options, mask):
    model, tokens = perturbed(**options), draw_tokens(3, 9)
    for layer, (stacked, called, expected) in enumerate(
        zip(
            hooked(model, tokens, attention_mask=mask),
            model.attention_statistics(tokens, attention_mask=mask),
            of_the_pattern(model, tokens, attention_mask=mask),
            strict=True,
        )
    ):
        assert stacked.shape == (3, model.cfg.n_heads, 9, len(STATISTICS)), layer
        assert_same(RowStatistics.unstacked(stacked), expected, **CLOSE)
        assert_same(called, expected, **CLOSE)
        some_see_nothing = mask is not None and (model.cfg.causal or model.cfg.window is not None)
        assert called.dead_rows.any() == some_see_nothing


@torch.no_grad()
def test_targets_and_received_mass_come_from_the_call(perturbed, draw_tokens):
    model, tokens = perturbed(position="rope"), draw_tokens(2, 7)
    targets = torch.tensor([[-1, 0, 1, 1, 3, 0, 6]])[None]
    expected = of_the_pattern(model, tokens, targets, received=True)
    found = model.attention_statistics(tokens, targets=targets, received=True)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other, **CLOSE)
    torch.testing.assert_close(found[1].received_mass.sum(-1), torch.full((2, 2), 7.0, dtype=torch.float64), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("point", ["hook_attn_scores", "hook_pattern"])
def test_where_a_hook_edits_the_scores_or_the_pattern_the_statistics_are_of_the_edit(perturbed, draw_tokens, point):
    model, tokens = perturbed(), draw_tokens(2, 7)

    def onto_the_first_key(x, hook):
        x[..., 1:] = -torch.inf if point == "hook_attn_scores" else 0.0
        x[..., 0] = 1.0
        return x

    with model.hooks(fwd_hooks=[(f"blocks.0.attn.{point}", onto_the_first_key)]):
        first, second = model.attention_statistics(tokens)
        stacked = hooked(model, tokens)[0]
        assert model.backends[0] == "reference"
    ones = torch.ones(2, 2, 7, dtype=torch.float64)
    for found in (first, RowStatistics.unstacked(stacked)):
        assert torch.equal(found.peak, ones)
        assert torch.equal(found.sink_mass, ones)
        assert torch.equal(found.entropy, 0 * ones)
    assert second.entropy.mean() > 0.1
    assert model.attention_statistics(tokens)[0].entropy.mean() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("position", ["rope", "alibi", "relative"])
def test_new_tokens_after_a_cache_have_the_statistics_of_the_whole_text(perturbed, draw_tokens, position):
    model, tokens = perturbed(position=position), draw_tokens(2, 9)
    whole, past = hooked(model, tokens), model.empty_cache()
    model(tokens[:, :5], past=past)
    for new, full in zip(hooked(model, tokens[:, 5:], past=past), whole, strict=True):
        torch.testing.assert_close(new, full[:, :, 5:], **CLOSE)


def test_the_entropy_at_the_hook_carries_gradients(perturbed, draw_tokens):
    model, tokens, kept = perturbed(), draw_tokens(2, 7), {}

    def keep(x, hook):
        kept[hook.name] = x

    def gradient(point: str, entropy) -> torch.Tensor:
        model.zero_grad()
        model.run_with_hooks(tokens, fwd_hooks=[(point, keep)], return_type=None)
        entropy(kept[point]).sum().backward()
        return model.blocks[0].attn.W_Q.grad.clone()

    found = gradient(POINT.format(1), lambda rows: RowStatistics.unstacked(rows).entropy)
    expected = gradient("blocks.1.attn.hook_pattern", lambda p: torch.special.entr(p + (p == 0)))
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)


# ALiBi ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_model_with_alibi_never_writes_its_table_of_penalties(perturbed, draw_tokens, monkeypatch):
    model, tokens = perturbed(position="alibi"), draw_tokens(2, 7)
    at = torch.arange(7)[None]
    table = model.pos_embed.bias(at, at)

    def written_out(*_):
        raise AssertionError("the (query, key) table was made")

    monkeypatch.setattr(model.pos_embed, "bias", written_out)
    _, cache = model.run_with_cache(tokens, position_offset=4)
    products = torch.einsum("bqhd,bkhd->bhqk", cache["q", 1], cache["k", 1]) / model.cfg.attn_scale
    seen = torch.ones(7, 7, dtype=torch.bool).tril()
    torch.testing.assert_close(cache["attn_scores", 1][..., seen], (products + table)[..., seen], **CLOSE)
    model.attention_statistics(tokens)


# What a pass does not do ----------------------------------------------------------------------------


@torch.no_grad()
def test_nothing_is_computed_unless_somebody_listens(perturbed, draw_tokens, monkeypatch):
    model, tokens = perturbed(), draw_tokens(2, 7)

    def counted(*_, **__):
        raise AssertionError("row statistics were computed")

    monkeypatch.setattr(reference, "row_statistics", counted)
    model(tokens)
    assert model.backends == ("sdpa", "sdpa")
    cache = model.run_with_cache(tokens)[1]
    assert not [name for name in cache if "statistics" in name]
    model.set_attention("reference")
    model(tokens)


@torch.no_grad()
def test_an_edit_of_the_statistics_changes_nothing(perturbed, draw_tokens):
    model, tokens = perturbed(), draw_tokens(2, 7)
    edited = model.run_with_hooks(tokens, fwd_hooks=[(POINT.format(0), lambda x, hook: x.fill_(7.0))])
    torch.testing.assert_close(edited, model(tokens), **CLOSE)


@pytest.mark.parametrize("training", [True, False])
def test_the_call_leaves_no_trace_and_computes_no_logits(perturbed, draw_tokens, monkeypatch, training):
    model, tokens = perturbed().train(training), draw_tokens(2, 7)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def spoken(*_):
        raise AssertionError("logits were computed")

    with monkeypatch.context() as patched:
        patched.setattr(model.unembed, "forward", spoken)
        found = model.attention_statistics(tokens)
    assert not found[0].entropy.requires_grad
    assert model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert sum(len(p._forward_hooks) + len(p._backward_hooks) for p in model.hook_dict.values()) == 0
    model(tokens)
    assert model.backends == ("sdpa", "sdpa")


@torch.no_grad()
def test_a_backend_without_statistics_says_how_to_get_them(perturbed, draw_tokens):
    model, tokens = perturbed(attention="sdpa"), draw_tokens(2, 7)
    for ask in (model.attention_statistics, lambda tokens: hooked(model, tokens)):
        with pytest.raises(InputError) as caught:
            ask(tokens)
        message = str(caught.value)
        assert "\n" not in message
        assert all(part in message for part in ("blocks.0.attn", "'sdpa' has no statistics", "auto", "set_attention"))
    model(tokens)  # and no hook is left behind
    model.set_attention("auto")
    assert len(model.attention_statistics(tokens)) == 2


@torch.no_grad()
@pytest.mark.parametrize("listening", [False, True])
def test_targets_that_do_not_fit_are_refused_with_their_values(perturbed, draw_tokens, listening):
    model, tokens = perturbed(), draw_tokens(2, 7)
    hooks = [("blocks.0.attn.hook_pattern", lambda x, hook: None)] * listening
    for targets, message in (
        (torch.full((1, 1, 7), 7), "targets from 7 to 7: name keys 0 to 6"),
        (torch.zeros(1, 1, 6, dtype=torch.long), r"targets has shape \(1, 1, 6\)"),
    ):
        with pytest.raises(InputError, match=message), model.hooks(fwd_hooks=hooks):
            model.attention_statistics(tokens, targets=targets)


# Other people's models ------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(("name", "q", "k"), [("gpt2", "hook_q", "hook_k"), ("llama", "hook_rot_q", "hook_rot_k")])
def test_queries_and_keys_of_a_bridge_give_the_statistics_of_its_pattern(request, draw_tokens, name, q, k):
    model = toy_models.load(request.getfixturevalue(f"{name}_directory"))
    cache = model.run_with_cache(draw_tokens(2, 20, d_vocab=23))[1]
    for layer in range(2):
        inputs = (cache[f"blocks.{layer}.attn.{point}"] for point in (q, k, "hook_v"))
        found = attend(*inputs, statistics=True)
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"].double()
        scores = cache[f"blocks.{layer}.attn.hook_attn_scores"].double()
        hidden = torch.ones(20, 20, dtype=torch.bool).triu(1)
        expected = reference.row_statistics(scores.masked_fill(hidden, -torch.inf), pattern)
        for statistic in STATISTICS:
            scale = 20 if statistic == "mean_distance" else 1  # in keys
            error = (getattr(found.statistics, statistic) - getattr(expected, statistic)).abs().max()
            assert error <= 1e-5 * scale, statistic


# Memory ---------------------------------------------------------------------------------------------

GROWTH = """
import json
import resource
import sys

import torch

from toy_models import Transformer, TransformerConfig

torch.set_num_threads(1)
size = {"n_layers": 2, "n_heads": 8, "d_model": 512, "d_mlp": 0, "d_vocab": 16, "n_ctx": 4096}
model = Transformer(TransformerConfig(**size, position="rope"))
tokens = torch.randint(16, (1, 4096), generator=torch.Generator().manual_seed(0))
run = model.attention_statistics if sys.argv[1] == "statistics" else model
with torch.no_grad():
    run(tokens[:, :64])  # what a first call loads is not working memory
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(tokens)
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, model.backends]))
"""


def test_4096_tokens_with_statistics_take_little_more_memory_than_without():
    """At most 1.5 times; holding the pattern takes 17 times as much."""
    measured = {}
    # A process begins with the peak of the one that started it: a small one between keeps pytest's own out.
    between = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"
    for asked in ("logits", "statistics"):
        command = [sys.executable, "-c", between, "-c", GROWTH, asked]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        measured[asked], backends = json.loads(done.stdout)
        assert (backends == ["sdpa"] * 2) == (asked == "logits")
    residual = 4096 * 512 * 4 / (1 if sys.platform == "darwin" else 1024)  # macOS counts in bytes
    assert measured["logits"] > 3 * residual  # queries, keys and values at the least: the growth was seen
    assert measured["statistics"] <= 1.5 * measured["logits"]
