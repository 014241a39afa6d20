import math
import statistics
from contextlib import closing

import pytest
import torch

from toy_models import Transformer, TransformerConfig
from toy_models.errors import ConfigError, ModelError, TrainingError
from toy_models.seeding import generator
from toy_models.tasks import Batch
from toy_models.tasks.repeated_blocks import RepeatedBlocks
from toy_models.train import TrainConfig, optimiser, task_loss, train

TASK = RepeatedBlocks(d_vocab=8, n_ctx=12, shortest=3, longest=3, held_out=())
CONFIG = TransformerConfig(n_layers=1, n_heads=2, d_model=16, d_vocab=8, n_ctx=12)


def run(seed: int = 0, model_seed: int = 0, **options):
    model = Transformer(CONFIG, seed=model_seed)
    return model, list(train(model, TASK, TrainConfig(batch_size=8, **options), seed=seed))


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


# The loop -----------------------------------------------------------------------------------------


def test_the_loss_falls_from_chance_to_almost_nothing():
    _, updates = run(steps=120, warmup=10)
    losses = [loss for _, loss in updates]
    assert losses[0] > 0.8 * math.log(8)
    assert statistics.mean(losses[-5:]) < 0.05


def test_it_yields_after_every_update_the_count_and_the_loss_of_that_batch():
    model, options = Transformer(CONFIG), TrainConfig(steps=3, batch_size=8)
    expected = []
    with closing(train(model, TASK, options, seed=4)) as updates:
        for step in range(3):
            batch = TASK.sample(8, generator(4, "data", step))
            expected.append((step + 1, task_loss(model(batch.tokens), batch).item()))
            before = weights(model)
            assert next(updates) == expected[-1]
            assert not same(before, weights(model))
        assert next(updates, None) is None


def test_the_same_seed_gives_the_same_bits_and_another_seed_other_data():
    model, updates = run(steps=5)
    again, same_updates = run(steps=5)
    other, other_updates = run(steps=5, seed=1)
    assert updates == same_updates
    assert same(weights(model), weights(again))
    assert updates[0] != other_updates[0]
    assert not same(weights(model), weights(other))


def test_it_goes_on_bit_for_bit_with_the_optimizer_of_that_moment():
    whole, updates = run(steps=6)
    model, options = Transformer(CONFIG), TrainConfig(steps=6, batch_size=8)
    optimizer = optimiser(model, options)
    with closing(train(model, TASK, options, optimizer=optimizer)) as first:
        begun = [next(first) for _ in range(4)]
    rest = list(train(model, TASK, options, start=4, optimizer=optimizer))
    assert begun + rest == updates
    assert same(weights(model), weights(whole))


def test_the_global_random_state_is_neither_read_nor_touched():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, _ = run(steps=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second, _ = run(steps=2)
    assert same(weights(first), weights(second))


def test_no_bar_is_drawn_where_nobody_looks(capfd):
    run(steps=2)
    assert capfd.readouterr() == ("", "")


# Loss and optimizer -------------------------------------------------------------------------------


def test_the_loss_is_the_mean_cross_entropy_of_the_scored_positions_alone():
    logits = torch.tensor([[[1.0, 2.0], [0.0, 3.0], [5.0, -5.0]]])
    batch = Batch(torch.zeros(1, 3, dtype=torch.long), torch.tensor([[0, 1, 1]]), torch.tensor([[True, True, False]]))
    by_hand = (math.log(1 + math.exp(1)) + math.log(1 + math.exp(-3))) / 2
    assert task_loss(logits, batch).item() == pytest.approx(by_hand, rel=1e-6)


def test_weight_decay_shrinks_matrices_and_nothing_else():
    model = Transformer(CONFIG)
    before, options = weights(model), TrainConfig(lr=0.1, weight_decay=0.5)
    optimizer = optimiser(model, options)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()  # without a gradient only the decay moves a weight
    for name, value in model.state_dict().items():
        matrix = name.rsplit(".", 1)[-1].startswith("W_")
        torch.testing.assert_close(value, before[name] * (1 - 0.1 * 0.5) if matrix else before[name])
    assert {name.rsplit(".", 1)[-1] for name in before} >= {"W_E", "W_Q", "W_in", "w", "b", "b_Q", "b_U"}


def test_every_parameter_is_given_to_the_optimizer_once():
    model = Transformer(CONFIG)
    given = [p for group in optimiser(model, TrainConfig()).param_groups for p in group["params"]]
    assert len(given) == len({id(p) for p in given})
    assert {id(p) for p in given} == {id(p) for p in model.parameters()}


def test_an_update_is_no_larger_than_adam_allows():
    before = weights(Transformer(CONFIG))
    model, _ = run(steps=1, lr=1e-3, warmup=0, decay=0.0, weight_decay=0.0)
    moved = max((value - before[name]).abs().max().item() for name, value in model.state_dict().items())
    assert moved == pytest.approx(1e-3, rel=1e-3)  # Adam's first step is lr * sign(gradient)


# Learning rate ------------------------------------------------------------------------------------


def test_the_rate_rises_stays_and_falls_linearly():
    config = TrainConfig(steps=100, lr=0.5, warmup=9, decay=0.2)
    assert [config.rate(step) for step in range(9)] == pytest.approx([0.5 * (step + 1) / 10 for step in range(9)])
    assert [config.rate(step) for step in range(9, 81)] == [0.5] * 72
    assert [config.rate(step) for step in range(80, 100)] == pytest.approx(
        [0.5 * (100 - step) / 20 for step in range(80, 100)]
    )


def test_without_warm_up_and_decay_the_rate_is_constant():
    config = TrainConfig(steps=10, lr=0.5, warmup=0, decay=0.0)
    assert [config.rate(step) for step in range(10)] == [0.5] * 10


@pytest.mark.parametrize("config", [TrainConfig(steps=7, warmup=50), TrainConfig(steps=3, decay=1.0), TrainConfig()])
def test_the_rate_is_always_positive_and_never_above_its_peak(config):
    assert all(0 < config.rate(step) <= config.lr for step in range(config.steps))


def test_the_optimizer_steps_at_that_rate():
    model, config = Transformer(CONFIG), TrainConfig(steps=8, warmup=2, decay=0.5, batch_size=2)
    optimizer, used = optimiser(model, config), []
    for _ in train(model, TASK, config, optimizer=optimizer):
        used.append({group["lr"] for group in optimizer.param_groups})
    assert used == [{config.rate(step)} for step in range(8)]


# Refusals -----------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_with_the_step_the_rate_and_the_remedy():
    model = Transformer(CONFIG)
    done = []
    with pytest.raises(TrainingError) as caught:
        done.extend(train(model, TASK, TrainConfig(steps=5, batch_size=8, lr=1e30, warmup=0), seed=3))
    assert str(caught.value) == (
        "the loss is nan and its gradient's norm nan at step 1 (seed 3, lr 1e+30): lower lr=1e+30, or lengthen warmup=0"
    )
    assert isinstance(caught.value, ModelError)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights():
    model = Transformer(CONFIG)
    model.hook_embed.add_hook(lambda grad, hook: (grad * math.inf,), dir="bwd")
    with pytest.raises(TrainingError):
        list(train(model, TASK, TrainConfig(steps=3, batch_size=8)))
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"lr": 0.0},
        {"lr": -1e-3},
        {"lr": math.nan},
        {"clip": 0.0},
        {"warmup": -1},
        {"decay": 1.5},
        {"decay": -0.1},
        {"decay": math.nan},
        {"checkpoint_every": -1},
    ],
)
def test_options_that_cannot_work_are_refused_with_their_value(options):
    (name, value), *_ = options.items()
    with pytest.raises(ConfigError, match=f"{name}={value}") as caught:
        TrainConfig(**options)
    assert "\n" not in str(caught.value)
