"""Texts of a language with a question behind them: answers read off by hand, balance, nothing told too early."""

import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from toy_models.errors import ConfigError
from toy_models.seeding import generator
from toy_models.tasks import an_bn, dyck, even_pairs, majority, parity
from toy_models.tasks.an_bn import AnBn
from toy_models.tasks.dyck import Dyck1
from toy_models.tasks.even_pairs import EvenPairs
from toy_models.tasks.majority import Majority
from toy_models.tasks.modular_addition import ModularAddition
from toy_models.tasks.parity import Parity

DECIDING = (Parity, EvenPairs, Dyck1, Majority, ModularAddition)
lengths = st.tuples(st.integers(1, 12), st.integers(0, 12)).map(lambda pair: (2 * pair[0], 2 * (pair[0] + pair[1])))
seeds = st.integers(0, 2**31)


def answer(task, text: list[int]) -> int:
    """By the definition, one text without BOS and question."""
    bits = [token - 1 for token in text]
    if isinstance(task, Parity):
        return parity.ODD if sum(bits) % 2 else parity.EVEN
    if isinstance(task, EvenPairs):
        pairs = sum(a != b for a, b in pairwise(bits))
        return even_pairs.NO if pairs % 2 else even_pairs.YES
    if isinstance(task, Majority):
        assert 2 * sum(bits) != len(bits)
        return majority.YES if 2 * sum(bits) > len(bits) else majority.NO
    if isinstance(task, ModularAddition):
        return task.first_answer + sum(bits) % task.modulus
    return dyck.YES if min(depths(text)) >= 0 and depths(text)[-1] == 0 else dyck.NO


def depths(text: list[int]) -> list[int]:
    found = [0]
    for token in text:
        found.append(found[-1] + (1 if token == dyck.OPEN else -1))
    return found


def parts(task, batch):
    """(text, target at the question) of every row; checks BOS, the question, the padding and what is scored."""
    question = task.question if isinstance(task, ModularAddition) else 3
    for tokens, targets, scored in zip(*(x.tolist() for x in (batch.tokens, batch.targets, batch.scored)), strict=True):
        at = tokens.index(question)
        assert tokens[0] == 0
        assert 0 not in tokens[1:at]
        assert set(tokens[at + 1 :]) <= {0}
        assert [i for i, told in enumerate(scored) if told] == [at]
        assert {target for i, target in enumerate(targets) if i != at} <= {0}
        yield tokens[1:at], targets[at]


@pytest.mark.parametrize("kind", DECIDING)
@given(span=lengths, seed=seeds)
@settings(max_examples=30)
def test_the_answer_at_the_question_is_that_of_the_definition(kind, span, seed):
    task = kind(*span)
    for text, target in parts(task, task.sample(6, generator(seed))):
        assert span[0] <= len(text) <= span[1]
        assert target == answer(task, text)
        assert target not in text  # what is said is never read


@pytest.mark.parametrize("kind", DECIDING)
@pytest.mark.parametrize("length", [2, 6, 40])
def test_all_answers_are_equally_likely_at_every_length(kind, length):
    task, n = kind().at(length), 4000
    counts = Counter(target for _, target in parts(task, task.sample(n, generator(0, length))))
    classes = 5 if kind is ModularAddition else 2
    assert len(counts) == classes
    off = sum((count - n / classes) ** 2 / (n / classes) for count in counts.values())
    assert off < chi2.ppf(1 - 1e-6, classes - 1)


@pytest.mark.parametrize("kind", [*DECIDING, AnBn])
def test_every_length_is_drawn_equally_often_and_at_gives_one(kind):
    task, n = kind(2, 12), 4000
    batch = task.sample(n, generator(0))
    found = Counter((batch.tokens != 0).sum(-1).tolist())
    of = 6 if kind is Dyck1 else 11
    assert len(found) == of
    assert sum((count - n / of) ** 2 / (n / of) for count in found.values()) < chi2.ppf(1 - 1e-6, of - 1)
    longer = kind().at(60)
    assert longer.d_vocab == kind().d_vocab
    assert set((longer.sample(9, generator(0)).tokens != 0).sum(-1).tolist()) == {120 if kind is AnBn else 61}
    assert longer.n_ctx == longer.sample(9, generator(0)).tokens.shape[1]


@pytest.mark.parametrize("kind", [Parity, ModularAddition])
@pytest.mark.parametrize("place", [1, 4, 8])
def test_one_symbol_of_a_sum_tells_nothing_of_the_answer(kind, place):
    task, n = kind().at(8), 6000
    batch = task.sample(n, generator(0, "leak"))
    pairs = Counter(zip(batch.tokens[:, place].tolist(), batch.targets[:, -1].tolist(), strict=True))
    cells = 4 if kind is Parity else 25
    assert len(pairs) == cells
    assert sum((count - n / cells) ** 2 / (n / cells) for count in pairs.values()) < chi2.ppf(1 - 1e-6, cells - 1)


@given(span=st.tuples(st.integers(1, 9), st.integers(0, 9)).map(lambda pair: (pair[0], sum(pair))), seed=seeds)
def test_behind_the_first_b_an_bn_asks_for_as_many_bs_and_the_end(span, seed):
    batch = AnBn(*span).sample(5, generator(seed))
    for text, targets, scored in zip(*(x.tolist() for x in (batch.tokens, batch.targets, batch.scored)), strict=True):
        n = text.count(an_bn.A)
        assert span[0] <= n <= span[1]
        assert text == [0] + [an_bn.A] * n + [an_bn.B] * n + [0] * 2 * (span[1] - n)
        assert [i for i, told in enumerate(scored) if told] == list(range(n + 1, 2 * n + 1))
        assert targets[n + 1 : 2 * n + 1] == [an_bn.B] * (n - 1) + [an_bn.END]


@given(span=st.tuples(st.integers(1, 9), st.integers(0, 9)).map(lambda pair: (pair[0], sum(pair))), seed=seeds)
def test_a_scratchpad_writes_the_parity_behind_each_bit_and_reads_it_only_after_it_was_asked_for(span, seed):
    task = Parity(*span, scratchpad=True)
    batch = task.sample(5, generator(seed))
    assert batch.tokens.shape[1] == task.n_ctx
    for text, targets, scored in zip(*(x.tolist() for x in (batch.tokens, batch.targets, batch.scored)), strict=True):
        at = text.index(parity.QUESTION)
        bits = [token - parity.ZERO for token in text[1:at]]
        so_far = [parity.EVEN + sum(bits[: i + 1]) % 2 for i in range(len(bits))]
        assert [i for i, told in enumerate(scored) if told] == list(range(at, at + len(bits)))
        assert targets[at : at + len(bits)] == so_far
        assert text[at + 1 : at + len(bits)] == so_far[:-1]
        assert set(text[at + len(bits) :]) <= {0}


def test_balanced_texts_are_uniform_over_the_catalan_many():
    texts = Counter(tuple(text) for text, target in parts(Dyck1(), Dyck1().at(8).sample(16000, generator(0)))
                    if target == dyck.YES)  # fmt: skip
    n, catalan = sum(texts.values()), math.comb(8, 4) // 5
    assert len(texts) == catalan == 14
    assert sum((count - n / 14) ** 2 / (n / 14) for count in texts.values()) < chi2.ppf(1 - 1e-6, 13)


def test_near_misses_are_one_step_from_balanced_and_of_two_kinds_equally_often():
    kinds, n = Counter(), 4000
    for text, target in parts(Dyck1(), Dyck1().at(12).sample(n, generator(0))):
        ends, lowest = depths(text)[-1], min(depths(text))
        if target == dyck.NO:
            assert (abs(ends), lowest) == (0, -1) or (abs(ends) == 2 and lowest >= -2)
            kinds[ends] += 1
    assert abs(kinds[0] - n / 4) < 5 * math.sqrt(n * 3 / 16)
    assert abs(kinds[2] - kinds[-2]) < 5 * math.sqrt(n / 4)


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (lambda: AnBn(0, 3), "shortest=0 and longest=3 must be whole numbers, 1 <= shortest"),
        (lambda: Parity(4, 3), "shortest=4 and longest=3"),
        (lambda: EvenPairs(1, 5), "2 <= shortest"),
        (lambda: Majority(-2, 5), "shortest=-2 and longest=5"),
        (lambda: Dyck1(2, 5), "shortest=2 and longest=5 must be even"),
        (lambda: Dyck1().at(7), "shortest=7 and longest=7 must be even"),
        (lambda: ModularAddition(modulus=1), "modulus=1 must be a whole number of at least 2"),
    ],
)
def test_lengths_that_no_text_has_are_refused_in_one_line(made, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        made()
    assert "\n" not in str(caught.value)
