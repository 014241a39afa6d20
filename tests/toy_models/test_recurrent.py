"""The recurrent nets: torch's own as oracle, hooks that see and hooks that change, what is refused."""

import pytest
import torch
from torch import nn
from transformer_lens import ActivationCache

from toy_models.errors import ConfigError, InputError
from toy_models.recurrent import Recurrent, RecurrentConfig
from toy_models.seeding import generator
from toy_models.tasks.an_bn import AnBn
from toy_models.train import TrainConfig, optimiser, train

SIZE = {"d_vocab": 7, "n_ctx": 12, "d_model": 5, "d_hidden": 4}
GATES = ("input_gate", "forget_gate", "output_gate", "candidate")
TOKENS = torch.randint(7, (3, 12), generator=torch.Generator().manual_seed(0))


def made(kind: str = "lstm", **options) -> Recurrent:
    """Float64, every parameter moved off its start."""
    model = Recurrent(RecurrentConfig(kind=kind, **{**SIZE, "dtype": "float64", **options}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator(1, name), dtype=torch.float64))
    return model


def torchs(model: Recurrent) -> nn.Module:
    """torch.nn's net with the same weights; its gates come as input, forget, candidate, output, its biases twice."""
    kind, order = (nn.LSTM, [0, 1, 3, 2]) if model.cfg.kind == "lstm" else (nn.RNN, [0])
    twin = kind(model.cfg.d_model, model.cfg.d_hidden, model.cfg.n_layers, batch_first=True).double()
    with torch.no_grad():
        for at, block in enumerate(model.blocks):
            getattr(twin, f"weight_ih_l{at}").copy_(block.W_in[order].mT.flatten(0, 1))
            getattr(twin, f"weight_hh_l{at}").copy_(block.W_rec[order].mT.flatten(0, 1))
            getattr(twin, f"bias_ih_l{at}").copy_(block.b[order].flatten())
            getattr(twin, f"bias_hh_l{at}").zero_()
    return twin


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("kind", ["lstm", "rnn"])
def test_states_logits_and_gradients_are_those_of_torchs_net(kind, n_layers):
    model = made(kind, n_layers=n_layers)
    twin = torchs(model)
    states = twin(model.W_E[TOKENS])[0]
    logits = states @ model.W_U + model.unembed.b_U
    torch.testing.assert_close(model(TOKENS), logits, rtol=0, atol=1e-14)
    mine, theirs = (torch.autograd.grad(out.square().sum(), model.W_E)[0] for out in (model(TOKENS), logits))
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_every_parameter_gets_a_gradient_that_finite_differences_confirm():
    model, step = made(n_layers=2), 1e-6
    loss = model(TOKENS, return_type="loss")
    loss.backward()
    for name, weight in model.named_parameters():
        at = weight.grad.abs().argmax()
        with torch.no_grad():
            weight.view(-1)[at] += step
            above = model(TOKENS, return_type="loss")
            weight.view(-1)[at] -= 2 * step
            below = model(TOKENS, return_type="loss")
            weight.view(-1)[at] += step
        assert weight.grad.view(-1)[at].item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-5), name


def test_the_cache_holds_every_gate_at_every_position_and_they_make_the_cell_and_the_state():
    model = made(n_layers=2)
    logits, cache = model.run_with_cache(TOKENS)
    assert isinstance(cache, ActivationCache)
    names = {f"blocks.{i}.hook_{name}" for i in range(2) for name in (*GATES, "cell", "state")}
    assert set(cache.keys()) == names | {"hook_embed"}
    for layer in range(2):
        i, f, o, g, c, h = (cache[f"blocks.{layer}.hook_{name}"] for name in (*GATES, "cell", "state"))
        assert c.shape == (3, 12, 4)
        before = torch.cat([torch.zeros_like(c[:, :1]), c[:, :-1]], 1)
        torch.testing.assert_close(c, f * before + i * g, rtol=0, atol=1e-15)
        torch.testing.assert_close(h, o * c.tanh(), rtol=0, atol=1e-15)
    torch.testing.assert_close(h @ model.W_U + model.unembed.b_U, logits, rtol=0, atol=1e-14)
    assert set(made("rnn").run_with_cache(TOKENS)[1].keys()) == {"hook_embed", "blocks.0.hook_state"}


def test_a_hook_that_only_listens_changes_no_bit_and_each_fires_once():
    model, fired = made(n_layers=2), []
    names = [name for name in model.hook_dict if not name.endswith("_before")]
    heard = model.run_with_hooks(TOKENS, fwd_hooks=[(name, lambda _, hook: fired.append(hook.name)) for name in names])
    assert torch.equal(heard, model(TOKENS))
    assert sorted(fired) == sorted(names)


@pytest.mark.parametrize("what", ["cell", "state"])
def test_an_edit_of_what_a_step_starts_from_changes_that_step_and_all_later_ones(what):
    model, at = made(), 5
    plain = model.run_with_cache(TOKENS)[1]

    def swap(value, hook):
        if hook.ctx["pos"] == at:
            value[:] = value.flip(0)  # in place: the last text goes on from where the first was

    swapped = [(f"blocks.0.hook_{name}_before", swap) for name in ("cell", "state")]
    with model.hooks(fwd_hooks=swapped):
        both = model.run_with_cache(TOKENS)[1]["blocks.0.hook_state"]
    tail = torch.cat([TOKENS.flip(0)[:, :at], TOKENS[:, at:]], 1)
    swapped_texts = model.run_with_cache(tail)[1]["blocks.0.hook_state"]
    assert torch.equal(both[:, at:], swapped_texts[:, at:])
    assert torch.equal(both[:, :at], plain["blocks.0.hook_state"][:, :at])
    with model.hooks(fwd_hooks=[(f"blocks.0.hook_{what}_before", swap)]):
        one = model.run_with_cache(TOKENS)[1]["blocks.0.hook_state"]
    moved = (one - plain["blocks.0.hook_state"]).abs().amax((0, 2))
    assert (moved[:at] == 0).all()
    assert (moved[at:] > 0).all()


def test_an_edit_of_the_state_reaches_the_logits_of_that_position_alone():
    model = made()

    def clear(value, hook):
        value[:, 4] = 0.0
        return value

    cleared = model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.0.hook_state", clear)])
    moved = (cleared - model(TOKENS)).abs().amax((0, 2))
    assert moved[4] > 0
    assert moved.sum() == moved[4]


@pytest.mark.parametrize("name", [*GATES, "cell"])
@pytest.mark.parametrize("in_place", [True, False])
def test_an_edit_that_would_come_too_late_is_refused(name, in_place):
    model = made()

    def edit(value, hook):
        return value.zero_() if in_place else value * 2

    with pytest.raises(InputError, match=f"edit of blocks.0.hook_{name} would change nothing.*edit hook_cell_before"):
        model.run_with_hooks(TOKENS, fwd_hooks=[(f"blocks.0.hook_{name}", edit)])


def test_a_token_changes_nothing_before_it():
    model, other = made(n_layers=2), TOKENS.clone()
    other[:, 6] = (other[:, 6] + 1) % 7
    moved = (model(TOKENS) - model(other)).abs().amax((0, 2))
    assert (moved[:6] == 0).all()
    assert (moved[6:] > 0).all()


def test_the_same_seed_gives_the_same_weights_whatever_else_there_is_and_cells_remember_from_the_start():
    one, two, other = (
        Recurrent(RecurrentConfig(**SIZE, n_layers=n), seed=seed) for n, seed in ((1, 3), (2, 3), (1, 4))
    )
    for name, weight in one.named_parameters():
        assert torch.equal(weight, dict(two.named_parameters())[name])
        assert name.endswith(".b") or "b_U" in name or not torch.equal(weight, dict(other.named_parameters())[name])
    assert one.blocks[0].b.tolist() == [[0.0] * 4, [1.0] * 4, [0.0] * 4, [0.0] * 4]


def test_the_global_random_state_is_left_alone_and_the_config_follows_the_model():
    state = torch.get_rng_state()
    model = Recurrent(RecurrentConfig(**SIZE)).double()
    assert torch.equal(torch.get_rng_state(), state)
    assert model.cfg.dtype == model(TOKENS).dtype == torch.float64
    assert not model.training


def test_it_trains_as_a_transformer_does_with_weight_decay_on_its_matrices_alone():
    task = AnBn(longest=4)
    model = Recurrent(RecurrentConfig(**{**SIZE, "d_vocab": task.d_vocab}))
    decayed, spared = (len(group["params"]) for group in optimiser(model, TrainConfig()).param_groups)
    assert (decayed, spared) == (4, 2)
    losses = [loss for _, loss in train(model, task, TrainConfig(steps=60, lr=0.03), show_progress=False)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("made_or_run", "error", "complaint"),
    [
        (lambda: RecurrentConfig(kind="gru", **SIZE), ConfigError, "kind='gru' must be one of lstm, rnn"),
        (lambda: RecurrentConfig(**{**SIZE, "d_hidden": 0}), ConfigError, "d_hidden=0 must be a whole number"),
        (lambda: RecurrentConfig(**SIZE, dtype="int8"), ConfigError, "dtype='int8' must be one of float64"),
        (lambda: Recurrent(RecurrentConfig(**SIZE, device="nowhere")), ConfigError, "try device='cpu'"),
        (lambda: made()(TOKENS.float()), InputError, "whole numbers, not torch.float32"),
        (lambda: made()([[1, 2]]), InputError, "whole numbers, not list"),
        (lambda: made()(TOKENS[None]), InputError, r"shape \(1, 3, 12\)"),
        (lambda: made()(TOKENS + 1), InputError, r"token 7 is outside the vocabulary: ids must lie in \[0, 7\)"),
        (lambda: made()(TOKENS.repeat(1, 2)), InputError, "24 positions go beyond n_ctx=12"),
        (lambda: made()(TOKENS, return_type="both"), InputError, "return_type='both' must be one of logits, loss"),
        (lambda: made(d_vocab_out=3)(TOKENS, return_type="loss"), InputError, "d_vocab_out=3 equal to d_vocab=7"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(made_or_run, error, complaint):
    with pytest.raises(error, match=complaint) as caught:
        made_or_run()
    assert "\n" not in str(caught.value)
