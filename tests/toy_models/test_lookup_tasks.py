"""Several lookups at one position, and needles in filler: answers read off the text by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toy_models.errors import ConfigError
from toy_models.seeding import generator
from toy_models.tasks.needles import Needles
from toy_models.tasks.several_lookups import SeveralLookups


@given(n_keys=st.integers(3, 9), n_values=st.integers(2, 3), most=st.integers(1, 3), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_an_answer_is_the_tuple_of_the_values_that_its_question_names(n_keys, n_values, most, seed):
    task = SeveralLookups(n_keys, n_values, 2 * most, most, asked=3, question_seed=seed)
    batch = task.sample(4, generator(seed))
    for text, targets, scored in zip(batch.tokens.tolist(), batch.targets.tolist(), batch.scored.tolist(), strict=True):
        items = dict(divmod(token - 1, n_values) for token in text[1 : 1 + n_keys])
        assert sorted(items) == list(range(n_keys))
        assert scored == [False] * (1 + n_keys) + [True] * 3
        for token, answer in zip(text[1 + n_keys :], targets[1 + n_keys :], strict=True):
            named = task.table[token - 1 - n_keys * n_values].tolist()
            digits = [items[key] for key in named if key >= 0]
            assert answer == sum(digit * n_values**slot for slot, digit in enumerate(digits))


def test_a_question_names_as_many_different_keys_as_it_says_and_every_number_is_there_equally_often():
    task = SeveralLookups()
    for row, lookups in zip(task.table.tolist(), task.lookups.tolist(), strict=True):
        named = [key for key in row if key >= 0]
        assert len(set(named)) == len(named) == lookups
        assert row[lookups:] == [-1] * (task.most - lookups)
    assert task.lookups.bincount()[1:].tolist() == [3] * 8
    assert not torch.equal(task.table, SeveralLookups(question_seed=1).table)


@given(back=st.integers(1, 6), n_keys=st.integers(1, 5), spare=st.integers(0, 20), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_a_needle_answers_by_its_key_and_the_other_question_by_its_place(back, n_keys, spare, seed):
    task = Needles(1 + n_keys + 2 * back + spare, n_keys, 3, 4, back)
    batch = task.sample(4, generator(seed))
    positional, far = task.positional(batch), task.distances(batch)
    assert (far[~batch.scored] == 0).all()
    for row, (text, targets) in enumerate(zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True)):
        needles = {(token - 1) // 3: token for token in text if 1 <= token <= 3 * n_keys}
        assert sorted(needles) == list(range(n_keys))
        for i in range(task.n_ctx - back, task.n_ctx):
            if positional[row, i]:
                assert text[i] == task.look_back
                assert targets[i] == text[i - back] > task.look_back
            else:
                assert targets[i] == needles[text[i] - 1 - 3 * n_keys]
            assert text[i - far[row, i]] == targets[i]


def test_a_longer_text_has_the_same_vocabulary_and_as_many_needles():
    short, long = Needles(), Needles().at(256)
    assert (short.d_vocab, long.n_ctx) == (long.d_vocab, 256)
    tokens = long.sample(8, generator(0)).tokens
    assert (((tokens >= 1) & (tokens <= 64)).sum(-1) == 8).all()


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (lambda: SeveralLookups(most=17, n_questions=17), "most=17 lookups need as many different keys"),
        (lambda: SeveralLookups(n_questions=25), "n_questions=25 must be a multiple of most=8"),
        (lambda: SeveralLookups(n_values=1), "n_values=1 must be a whole number of at least 2"),
        (lambda: Needles(n_ctx=24), "n_ctx=24 has no room .* at least 25"),
        (lambda: Needles(back=0), "back=0 must be a whole number of at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(made, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        made()
    assert "\n" not in str(caught.value)
