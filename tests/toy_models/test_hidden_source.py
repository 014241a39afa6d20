"""Hidden sources: what is drawn is what is said, and the predictor is Bayes's rule, enumerated word by word."""

from itertools import pairwise, product
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toy_models.errors import ConfigError, InputError
from toy_models.seeding import generator
from toy_models.tasks.hidden_source import BIASED, BOS, COPY, FAIR, HiddenSource

TINY = HiddenSource(n_symbols=3, n_ctx=7, n_chains=2, period=2, noise=0.2)


def chances(task: HiddenSource, text: list[int]) -> dict[str, float]:
    """p(symbols | source), by the definitions: every word of a copy is tried."""
    symbols, n = [token - 1 for token in text], task.n_symbols
    found = {}
    for k, rows in enumerate(task.chains.tolist()):
        found[f"chain {k}"] = (1 / n) if symbols else 1.0
        for one, other in pairwise(symbols):
            found[f"chain {k}"] *= rows[one][other]
    for name, die in zip((FAIR, BIASED), task.dice.tolist(), strict=True):
        found[name] = prod(die[s] for s in symbols)
    found[COPY] = 0.0
    for word in product(range(n), repeat=task.period):
        chance = n**-task.period
        for t, s in enumerate(symbols):
            chance *= task.noise / n + (1 - task.noise) * (s == word[t % task.period])
        found[COPY] += chance
    return found


def enumerated(task: HiddenSource, text: list[int]) -> list[float]:
    """p(next | text) as a ratio of chances of whole texts."""
    prior = dict(zip(task.sources, task.prior.tolist(), strict=True))

    def chance(some: list[int]) -> float:
        return sum(prior[name] * value for name, value in chances(task, some).items())

    return [chance([*text, s]) / chance(text) for s in range(1, task.d_vocab)]


@given(st.lists(st.integers(1, 3), max_size=6), st.integers(0, 5), st.sampled_from([0.0, 0.2]))
def test_the_predictor_is_bayes_s_rule_over_every_source_and_word(text, seed, noise):
    task = HiddenSource(n_symbols=3, n_ctx=7, n_chains=2, period=2, noise=noise, source_seed=seed)
    found = task.predict(torch.tensor([[BOS, *text]]))[0].exp()
    assert (found[:, BOS] == 0).all()
    for seen in range(len(text) + 1):
        assert found[seen, 1:].tolist() == pytest.approx(enumerated(task, text[:seen]), abs=1e-12)


def test_a_prediction_is_a_distribution_and_does_not_see_what_comes():
    task = HiddenSource()
    tokens = task.sample(16, generator(0, "data")).tokens
    told = task.predict(tokens)
    assert (told.exp().sum(-1) - 1).abs().max() < 1e-12
    changed = tokens.clone()
    changed[:, 20:] = changed[:, 20:] % task.n_symbols + 1
    assert torch.equal(task.predict(changed)[:, :20], told[:, :20])
    assert not torch.equal(task.predict(changed)[:, 20:], told[:, 20:])


def test_what_is_sampled_comes_as_often_as_predicted():
    """Seen less predicted is a martingale difference: its mean is 0 within standard errors."""
    task = HiddenSource(n_ctx=24)
    batch = task.sample(600, generator(0, "calibration"))
    gap = torch.nn.functional.one_hot(batch.targets, task.d_vocab) - task.predict(batch.tokens).exp()
    for position in (0, 1, 6, 23):
        error = gap[:, position].std(0) / 600**0.5
        assert (gap[:, position].mean(0).abs() <= 5 * error + 1e-12).all()
    surprise = -task.predict(batch.tokens).gather(-1, batch.targets[..., None])[..., 0]
    entropy = torch.special.entr(task.predict(batch.tokens).exp()).sum(-1)
    differences = (surprise - entropy).mean(1)
    assert differences.mean().abs() <= 5 * differences.std() / 600**0.5


@pytest.mark.parametrize("source", ["chain 0", "chain 3", FAIR, BIASED])
def test_a_source_draws_its_own_transitions(source):
    task, n, length = HiddenSource(), 300, 40
    text = task.text(source, n, length, generator(0, "text", source)) - 1
    pairs = torch.zeros(task.n_symbols, task.n_symbols).double()
    pairs.index_put_((text[:, :-1].flatten(), text[:, 1:].flatten()), torch.ones(1).double(), accumulate=True)
    rows = task.dice[int(source == BIASED)].expand(12, -1) if "die" in source else task.chains[int(source[-1])]
    visits = pairs.sum(1, keepdim=True)
    error = (rows * (1 - rows) / visits).sqrt()
    often = (visits[:, 0] > 100).nonzero()[:, 0]
    assert len(often) >= 6
    assert ((pairs / visits - rows).abs() <= 5 * error)[often].all()


def test_a_copy_repeats_its_word_but_for_the_noise():
    task, n, length = HiddenSource(noise=0.1), 400, 30
    text = task.text(COPY, n, length, generator(0, "text"))
    same = (text[:, 5:] == text[:, :-5]).double()
    kept = 1 - 0.1 + 0.1 / 12
    expected = kept**2 + 11 * (0.1 / 12) ** 2  # both clean, or both the same other symbol
    per_text = same.mean(1)
    assert (per_text.mean() - expected).abs() <= 5 * per_text.std() / n**0.5
    clean = HiddenSource(noise=0.0).text(COPY, 20, 15, generator(0, "text"))
    assert torch.equal(clean[:, 5:], clean[:, :-5])
    assert len({tuple(row) for row in clean[:, :5].tolist()}) == 20


def test_the_kinds_are_equally_likely_and_another_seed_has_other_sources():
    task = HiddenSource()
    assert task.prior[:4].sum().item() == pytest.approx(1 / 3)
    assert task.prior[4:6].sum().item() == pytest.approx(1 / 3)
    assert task.prior.sum().item() == pytest.approx(1)
    assert not torch.equal(task.chains, HiddenSource(source_seed=1).chains)
    assert torch.equal(task.chains, HiddenSource(n_ctx=9).chains)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"n_symbols": 1}, "n_symbols=1 and n_ctx=33 must be at least 2"),
        ({"n_chains": 0}, "n_chains=0 1"),
        ({"period": 33}, r"period=33 must lie in \[1, n_ctx=33\)"),
        ({"noise": 1.0}, r"noise=1.0 must lie in \[0, 1\)"),
        ({"sharpness": 0.0}, "sharpness=0.0 be positive"),
    ],
)
def test_a_mixture_that_cannot_be_told_apart_is_refused(options, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        HiddenSource(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [[[1, 2]], [[0, 0]], [[0, 4]]])
def test_what_is_no_text_of_the_task_is_refused(text):
    with pytest.raises(InputError, match="0 first and then symbols 1 to 3"):
        TINY.predict(torch.tensor(text))


def test_an_unknown_source_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="unknown source 'coin': choose one of chain 0, chain 1, fair die"):
        TINY.text("coin", 1, 4, generator(0))
