"""Counting tasks: counts read off the texts by hand, balanced labels, and nothing told before it is asked."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from toy_models.errors import ConfigError
from toy_models.seeding import generator
from toy_models.tasks.count_query import CountQuery
from toy_models.tasks.count_symbols import (
    BERNOULLI,
    KINDS,
    ONE,
    ONES,
    SUM,
    WORD,
    CountSymbols,
    round_numbers,
    uniform,
    zipf,
)


def texts(task, n=64, seed=0):
    """Per text: its tokens up to the question, without BOS and separators, and what is read and asked from there on."""
    batch = task.sample(n, generator(seed, "data"))
    for tokens, targets, scored in zip(*(part.tolist() for part in vars(batch).values()), strict=True):
        asked = tokens.index(task.question)
        body = [token for token in tokens[1:asked] if token != task.separator_token]
        answers = [target for target, counts in zip(targets, scored, strict=True) if counts]
        assert scored.index(True) == asked
        assert scored == [asked <= at < asked + len(answers) for at in range(len(tokens))]
        yield body, tokens, tokens[asked + 1 :], answers


@given(
    kind=st.sampled_from(KINDS),
    shortest=st.integers(1, 6),
    more=st.integers(0, 6),
    separator=st.integers(0, 4),
    scratchpad=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_the_answer_is_the_count_and_the_scratchpad_counts_up_to_it(kind, shortest, more, separator, scratchpad, seed):
    task = CountSymbols(kind, shortest, shortest + more, fillers=3, separator=separator, scratchpad=scratchpad)
    for body, tokens, behind, answers in texts(task, 8, seed):
        length = (len(body) + 1) // 2 if kind == SUM else len(body)
        assert shortest <= length <= shortest + more
        running = [task.first_count + body[: i + 1].count(ONE) for i in range(len(body))]
        assert answers == (running if scratchpad else running[-1:])
        assert behind[: len(answers) - 1] == answers[:-1]
        assert not any(behind[len(answers) - 1 :])
        if separator:
            apart = [at for at, token in enumerate(tokens[1:], 1) if token == task.separator_token]
            assert apart == [i * (separator + 1) for i in range(1, len(body) // separator + 1)]


def test_each_kind_is_written_as_the_source_writes_it():
    for body, *_ in texts(CountSymbols(ONES, 1, 9)):
        assert set(body) == {ONE}
    for body, *_ in texts(CountSymbols(SUM, 1, 9)):
        assert body[0::2] == [ONE] * len(body[0::2])
        assert body[1::2] == [2] * (len(body) // 2)
    assert {token for body, *_ in texts(CountSymbols(BERNOULLI, 9, 9)) for token in body} == {ONE, 2}
    assert {token for body, *_ in texts(CountSymbols(WORD, 9, 9, fillers=4)) for token in body} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("task", [CountSymbols(BERNOULLI, 40, 40), CountSymbols(WORD, 40, 40, p=0.2)])
def test_ones_come_as_often_as_p_says_at_every_place(task):
    n = 4000
    ones = (task.sample(n, generator(0, "rate")).tokens[:, 1:-1] == ONE).double()
    error = (task.p * (1 - task.p)) ** 0.5
    assert abs(ones.mean() - task.p) < 5 * error / (n * 40) ** 0.5
    assert (ones.mean(0) - task.p).abs().max() < 5 * error / n**0.5


@pytest.mark.parametrize("length", [12, 60])
@pytest.mark.parametrize("prior", [uniform, zipf, round_numbers], ids=lambda one: one.__name__)
def test_counts_follow_the_prior_whatever_the_length(prior, length):
    """Label balance, and no leak: the counts of texts of any length that holds them all have one distribution."""
    chances, n = torch.tensor(prior(12), dtype=torch.float64), 6000
    task = CountSymbols(BERNOULLI, 12, 24, most=12, prior=tuple(chances.tolist())).at(length)
    batch = task.sample(n, generator(0, "prior", length))
    found = task.count(batch).bincount(minlength=13)
    assert ((found - n * chances) ** 2 / (n * chances)).sum() < chi2.ppf(1 - 1e-6, 12)
    where = (batch.tokens[:, 1:-1] == ONE).double().mean(0)
    assert (where - where.mean()).abs().max() < 5 * (0.25 / n) ** 0.5  # ones stand anywhere


def test_counts_that_do_not_fit_into_a_short_text_are_not_drawn():
    task = CountSymbols(BERNOULLI, 1, 8, most=8, prior=uniform(8))
    counts = [(len(body), body.count(ONE)) for body, *_ in texts(task, 2000)]
    assert {count for length, count in counts if length == 3} == {0, 1, 2, 3}


def test_nothing_read_before_the_answer_tells_it_but_the_text():
    """No future leak: two texts that are the same up to the question read the same before it, whatever follows."""
    task = CountSymbols(BERNOULLI, 6, 6, scratchpad=True)
    batch = task.sample(400, generator(0, "leak"))
    counts = batch.tokens[:, task.n_ctx - 5 :]
    assert (batch.tokens[:, : task.n_ctx - 5] < task.first_count).all()  # no count before the question is answered
    assert torch.equal(counts, batch.targets[:, task.n_ctx - 6 : -1])  # and none is read before it was asked
    assert (batch.tokens[:, -1] != batch.targets[:, -1]).any()  # the answer itself is never read


def test_priors_are_probabilities_and_say_what_they_are_called():
    assert uniform(3) == (0.25,) * 4
    assert zipf(3) == pytest.approx([12 / 25, 6 / 25, 4 / 25, 3 / 25])
    plain, peaked = zipf(40), round_numbers(40, favour=8.0)
    assert sum(peaked) == pytest.approx(1)
    ratio = [b / a / (peaked[1] / plain[1]) for a, b in zip(plain, peaked, strict=True)]
    assert ratio == pytest.approx([8.0 if c in (10, 20, 30, 40) else 1.0 for c in range(41)])


def test_a_longer_text_keeps_the_vocabulary():
    task = CountSymbols(BERNOULLI, 1, 24, prior=uniform(24))
    assert (task.at(240).d_vocab, task.at(240).n_ctx) == (task.d_vocab, 242)
    assert (CountSymbols(ONES, 1, 24, most=48).at(48).d_vocab) == CountSymbols(ONES, 1, 24, most=48).d_vocab
    assert (CountQuery(4, 8, 16).at(32).d_vocab, CountQuery(4, 8, 16).at(32).n_ctx) == (1 + 4 + 17, 34)


@given(vocabulary=st.integers(2, 9), shortest=st.integers(1, 20), most=st.integers(1, 6), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_a_query_is_answered_by_how_often_it_stood_before(vocabulary, shortest, most, seed):
    task = CountQuery(vocabulary, shortest, 20, most)
    batch = task.sample(8, generator(seed))
    for tokens, targets, scored in zip(*(part.tolist() for part in vars(batch).values()), strict=True):
        asked = scored.index(True)
        assert sum(scored) == 1
        assert targets[asked] == task.first_count + min(most, tokens[1:asked].count(tokens[asked]))
        assert shortest <= asked - 1 <= 20
        assert all(1 <= token <= vocabulary for token in tokens[1 : asked + 1])
        assert not any(tokens[asked + 1 :])


def test_counts_of_a_query_are_alike_in_every_vocabulary_and_at_every_query():
    """Binomial(4 m, 1 / m), and no token of the vocabulary is another's better guess."""
    n = 8000
    for m in (4, 32):
        task = CountQuery(m, 4 * m, 4 * m, most=15)
        batch = task.sample(n, generator(0, "balance", m))
        counts = (batch.targets[:, -1] - task.first_count).double()
        error = (4 * (1 - 1 / m) / n) ** 0.5
        assert abs(counts.mean() - 4) < 5 * error
        by_query = torch.stack([counts[batch.tokens[:, -1] == token].mean() for token in range(1, m + 1)])
        assert (by_query - 4).abs().max() < 5 * error * m**0.5


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (lambda: CountSymbols("twos"), "kind='twos' must be one of 'ones', 'sum', 'bernoulli', 'word'"),
        (lambda: CountSymbols(longest=24, most=20), "longest=24 may hold more ones .* raise most=20, or give a prior"),
        (lambda: CountSymbols(ONES, prior=uniform(24)), "kind='ones' takes no prior"),
        (lambda: CountSymbols(prior=uniform(23)), "prior has 24 probabilities: .* from 0 to most=24"),
        (lambda: CountSymbols(longest=1, prior=(0.5, 0.6)), r"they sum to 1\.1"),
        (lambda: CountSymbols(longest=2, prior=(0.0, 0.0, 1.0)), "no count that fits into shortest=1"),
        (lambda: CountSymbols(p=1.0), r"p=1\.0 must lie between 0 and 1"),
        (lambda: CountSymbols(separator=-1), "separator=-1 must be a whole number of at least 0"),
        (lambda: CountSymbols().at(48), "longest=48 may hold more ones"),
        (lambda: CountSymbols(shortest=0), "shortest=0 and longest=24 must be whole numbers"),
        (lambda: CountQuery(1), "vocabulary=1 must be a whole number of at least 2"),
        (lambda: CountQuery(most=0), "most=0 must be a whole number of at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(made, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        made()
    assert "\n" not in str(caught.value)
