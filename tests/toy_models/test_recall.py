"""Recall: the answer is the neighbour on the asked-for side, and all tokens are equally likely to be it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from toy_models.errors import ConfigError
from toy_models.seeding import generator
from toy_models.tasks.recall import Recall


@given(
    direction=st.sampled_from(("after", "before")),
    longest=st.integers(2, 12),
    spare=st.integers(0, 6),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_the_answer_stands_on_the_asked_for_side_of_the_token_that_came_once(direction, longest, spare, seed):
    task = Recall(direction, 2, longest, longest + spare)
    batch, mark = task.sample(6, generator(seed)), task.symbols + 1
    for tokens, targets, scored in zip(
        batch.tokens.tolist(), batch.targets.tolist(), batch.scored.tolist(), strict=True
    ):
        at = tokens.index(mark)
        text, known, padding = tokens[1:at], tokens[at + 1], tokens[at + 2 :]
        assert tokens[0] == 0
        assert set(padding) <= {0}
        assert 2 <= len(text) <= longest
        assert len(set(text)) == len(text)
        assert all(1 <= token <= task.symbols for token in text)
        assert scored == [place == at + 1 for place in range(len(tokens))]
        neighbour = text.index(known) + (1 if direction == "after" else -1)
        assert neighbour >= 0
        assert targets == [text[neighbour] if place == at + 1 else 0 for place in range(len(tokens))]


@pytest.mark.parametrize("direction", ["after", "before"])
def test_every_place_and_every_token_is_asked_for_equally_often(direction):
    task, n = Recall(direction, 5, 5, symbols=6), 6000
    batch = task.sample(n, generator(0))
    answers = batch.targets[batch.scored]
    place = (batch.tokens[:, 1:6] == answers[:, None]).long().argmax(-1)
    assert set(place.tolist()) == ({1, 2, 3, 4} if direction == "after" else {0, 1, 2, 3})
    for counts in (answers.bincount(minlength=7)[1:], place.bincount(minlength=5)[place.min() : place.max() + 1]):
        expected = n / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, len(counts) - 1)


def test_at_gives_one_length_in_the_same_vocabulary():
    task = Recall()
    assert (task.n_ctx, task.at(40).n_ctx, task.at(40).d_vocab) == (19, 43, task.d_vocab)
    assert torch.equal(task.at(40).sample(3, generator(0)).scored.nonzero()[:, 1], torch.tensor([42] * 3))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"direction": "between"}, "direction='between' must be one of after, before"),
        ({"symbols": 12}, "symbols=12 must be a whole number of at least longest=16: tokens differ"),
        ({"shortest": 1}, "shortest=1 and longest=16 must be whole numbers, 2 <= shortest <= longest"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(options, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        Recall(**options)
    assert "\n" not in str(caught.value)
