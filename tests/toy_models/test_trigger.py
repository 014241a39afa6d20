"""The trigger task: tokens and answers as its source has them, and its two controls."""

import pytest
import torch
from scipy.stats import chi2

from toy_models.errors import ConfigError
from toy_models.seeding import generator
from toy_models.tasks.trigger import Trigger

KINDS = [Trigger(), Trigger(first=False), Trigger(always=True), Trigger(d_content=1, n_ctx=3)]
by_kind = pytest.mark.parametrize("task", KINDS, ids=repr)


def sample(task: Trigger, n: int = 64, seed: int = 0):
    return task.sample(n, generator(seed, "trigger"))


@by_kind
def test_the_same_generator_gives_the_same_texts_and_the_global_random_state_stays(task):
    state = torch.get_rng_state()
    first, again, other = (sample(task, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.tokens, other.tokens)
    assert torch.equal(torch.get_rng_state(), state)


@by_kind
def test_each_text_has_one_trigger_from_the_third_position_on(task):
    batch = sample(task, 4000)
    assert (batch.is_trigger.sum(1) == 1).all()
    counts = batch.is_trigger.sum(0)
    assert (counts[:2] == 0).all()
    expected = 4000 / (task.n_ctx - 2)
    off = ((counts[2:] - expected) ** 2 / expected).sum().item()
    assert off <= chi2.ppf(1 - 1e-6, max(1, task.n_ctx - 3))
    assert batch.scored.all()


@by_kind
def test_tokens_say_what_they_are_and_their_content_is_even_on_both_sides_of_zero(task):
    batch = sample(task, 500)
    first = torch.zeros_like(batch.is_trigger)
    first[:, 0] = task.first
    assert torch.equal(batch.tokens[..., 0], first.float())
    assert torch.equal(batch.tokens[..., 1], batch.is_trigger.float())
    assert torch.equal(batch.tokens[..., -1], (~first & ~batch.is_trigger).float())
    content = batch.tokens[..., 2:-1]
    assert (content[first] == 0).all()
    drawn = content[~first]
    assert drawn.abs().max() <= 1
    # U(-1, 1): mean 0 with variance 1/3 and mean square 1/3 with variance 4/45, five standard errors.
    assert abs(drawn.mean().item()) < 5 * (1 / 3 / drawn.numel()) ** 0.5
    assert abs(drawn.square().mean().item() - 1 / 3) < 5 * (4 / 45 / drawn.numel()) ** 0.5


@by_kind
def test_the_answer_is_the_mean_of_the_tokens_so_far_at_the_trigger_and_nothing_elsewhere(task):
    batch = sample(task)
    for text, targets, is_trigger in zip(batch.tokens, batch.targets, batch.is_trigger, strict=True):
        for i in range(task.n_ctx):
            counted = text[int(task.first) : i + 1]
            if len(counted) and (is_trigger[i] or task.always):
                torch.testing.assert_close(targets[i], counted.mean(0), rtol=0, atol=1e-6)
            else:
                assert (targets[i] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_ctx": 2}, "n_ctx=2 must be a whole number of at least 3"),
        ({"d_content": 0}, "d_content=0 must be a whole number of at least 1"),
        ({"n_ctx": True}, "n_ctx=True"),
    ],
)
def test_sizes_that_leave_no_task_are_refused(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Trigger(**options)
    assert "\n" not in str(caught.value)
