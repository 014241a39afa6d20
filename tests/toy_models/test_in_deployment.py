"""In deployment: what is drawn is what is said, by hand and by Gibbs's inequality, and one word ends everything."""

import math
from dataclasses import replace

import pytest
import torch

from toy_models.errors import ConfigError, InputError
from toy_models.seeding import generator
from toy_models.tasks.hidden_source import BOS, HiddenSource
from toy_models.tasks.in_deployment import SWITCHED, InDeployment

TASK = InDeployment(n_symbols=4, n_ctx=12, n_chains=2, periods=(2, 3), hazard=0.1)
WORD = TASK.switch


def said(task: InDeployment, *text: int) -> torch.Tensor:
    return task.predict(torch.tensor([[BOS, *text]]))[0].exp()


def test_without_the_word_and_with_one_period_it_is_the_hidden_source_less_the_hazard():
    task = replace(TASK, periods=(3,))
    base = HiddenSource(n_symbols=4, n_ctx=12, n_chains=2, sharpness=2.0, period=3, noise=0.1)
    text = base.sample(6, generator(0, "text")).tokens
    torch.testing.assert_close(task.predict(text).exp()[..., :-1], 0.9 * base.predict(text).exp(), rtol=1e-12, atol=0)


def test_the_word_is_as_likely_everywhere_until_it_has_fallen():
    found = said(TASK, 1, 2, WORD, 3)
    assert found[:3, WORD].tolist() == pytest.approx([0.1] * 3)
    assert (found[3:, WORD] == 0).all()
    assert (found[:, BOS] == 0).all()
    assert found.sum(-1).tolist() == pytest.approx([1.0] * 5)


def test_behind_the_word_a_known_chain_speaks_whatever_came_before():
    one, other = said(TASK, 1, 1, WORD, 3, 2), said(TASK, 4, 2, WORD, 3, 2)
    assert torch.equal(one[3:], other[3:])
    assert one[3, 1:5].tolist() == pytest.approx([0.25] * 4)
    torch.testing.assert_close(one[4:, 1:5], TASK.deployed[[2, 1]], rtol=1e-12, atol=0)


def test_two_periods_are_weighed_by_what_they_said():
    """By hand: the likelihood of each copied word, summed over its letters."""
    text, n, eps = [1, 2, 1, 2, 1], 4, 0.1
    same, miss = 1 - eps + eps / n, eps / n

    def copied(period: int, symbols: list[int]) -> float:
        product = 1.0
        for place in range(period):
            letters = symbols[place::period]
            product *= sum(
                math.prod(same if x == letter else miss for x in letters)
                for letter in range(1, n + 1)
            ) / n  # fmt: skip
        return product

    posterior = dict(zip(TASK.sources, TASK.posterior(torch.tensor([[BOS, *text]]))[0, -1].tolist(), strict=True))
    assert posterior["copy 2"] / posterior["copy 3"] == pytest.approx(copied(2, text) / copied(3, text), rel=1e-9)
    assert sum(posterior.values()) == pytest.approx(1.0)


def test_it_says_more_of_its_texts_than_the_source_without_the_word():
    batch = TASK.sample(3000, generator(0, "texts"))
    own = TASK.predict(batch.tokens).gather(-1, batch.targets[..., None])[..., 0].mean(1)
    deaf = replace(TASK, hazard=1e-6).predict(batch.tokens).gather(-1, batch.targets[..., None])[..., 0].mean(1)
    gain = own - deaf
    assert torch.isfinite(own).all()
    assert gain.mean() > 5 * gain.std() / len(gain) ** 0.5
    share = (batch.tokens == WORD).any(1).double().mean()
    expected = 1 - 0.9 ** (TASK.n_ctx - 1)
    assert abs(share - expected) < 5 * (expected * (1 - expected) / 3000) ** 0.5


def test_a_text_of_a_source_has_no_word_and_one_in_deployment_has_it_once_behind_something():
    for source in TASK.sources[:-1]:
        assert (TASK.text(source, 20, 10, generator(0, source)) != WORD).all()
    text = TASK.text(SWITCHED, 300, 10, generator(0, SWITCHED))
    assert ((text == WORD).sum(1) == 1).all()
    assert set((text == WORD).int().argmax(1).tolist()) == set(range(1, 10))


def test_behind_the_word_texts_are_drawn_as_they_are_predicted():
    n = 20000
    text = TASK.text(SWITCHED, n, 4, generator(0, "behind"))
    text = text[text[:, 1] == WORD][:, 2:] - 1
    first = text[:, 0].bincount(minlength=4) / len(text)
    assert (first - 0.25).abs().max() < 5 * (0.25 * 0.75 / len(text)) ** 0.5
    for symbol, row in enumerate(TASK.deployed):
        followed = text[text[:, 0] == symbol, 1]
        drawn = followed.bincount(minlength=4) / len(followed)
        assert ((drawn - row).abs() < 5 * (row * (1 - row) / len(followed)).sqrt() + 1e-3).all()


def test_the_posterior_is_all_on_the_word_once_it_has_fallen():
    found = TASK.posterior(torch.tensor([[BOS, 1, WORD, 3]]))[0]
    assert found[:2, -1].tolist() == [0, 0]
    assert (found[2:, -1] == 1).all()
    assert (found[2:, :-1] == 0).all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hazard": 0.0}, "hazard=0.0"),
        ({"periods": ()}, "periods="),
        ({"periods": (2, 2)}, "periods="),
        ({"periods": (40,)}, "period=40"),
        ({"sharpness": 0.0}, "sharpness=0.0"),
    ],
)
def test_an_impossible_mixture_is_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        InDeployment(**fields)


@pytest.mark.parametrize("text", [[1, WORD, 2, WORD], [BOS, 1], [WORD + 1]])
def test_a_text_that_it_cannot_have_said_is_refused(text):
    with pytest.raises(InputError, match="once at most"):
        said(TASK, *text)


@pytest.mark.parametrize(("source", "length", "words"), [("copy 5", 6, "unknown source"), (SWITCHED, 1, "length=1")])
def test_a_context_that_there_is_not_is_refused(source, length, words):
    with pytest.raises(InputError, match=words):
        TASK.text(source, 1, length, generator(0))
