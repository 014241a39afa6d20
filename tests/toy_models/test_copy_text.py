"""Copying a text: what is read, what is asked, and that the first token asked for stands nowhere but in the text."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from toy_models.errors import ConfigError
from toy_models.seeding import generator
from toy_models.tasks.copy_text import CopyText


@given(repeated=st.booleans(), longest=st.integers(1, 9), spare=st.integers(0, 5), seed=st.integers(0, 2**31))
@settings(max_examples=60)
def test_a_text_is_asked_for_token_by_token_and_each_is_given_after_it_was_asked(repeated, longest, spare, seed):
    task = CopyText(repeated, 1, longest, max(2, longest + spare))
    batch, bar = task.sample(6, generator(seed)), task.n_symbols + 1
    for tokens, targets, scored in zip(
        batch.tokens.tolist(), batch.targets.tolist(), batch.scored.tolist(), strict=True
    ):
        at = tokens.index(bar)
        text = tokens[1:at]
        assert tokens == [0, *text, bar, *text[:-1]] + [0] * (len(tokens) - 2 * len(text) - 1)
        assert targets == [0] * at + text + [0] * (len(tokens) - at - len(text))
        assert scored == [at <= place < at + len(text) for place in range(len(tokens))]
        assert 1 <= len(text) <= longest
        assert all(1 <= token <= task.n_symbols for token in text)
        assert repeated or len(set(text)) == len(text)


def test_tokens_come_back_in_the_repeated_kind():
    tokens = CopyText(repeated=True).at(16).sample(8, generator(0)).tokens[:, 1:17]
    assert all(len(set(row)) < 16 for row in tokens.tolist())
    assert set(tokens.flatten().tolist()) == {1, 2, 3, 4}


@pytest.mark.parametrize("repeated", [False, True])
def test_a_token_tells_nothing_of_the_next_but_that_it_differs_where_all_do(repeated):
    batch = CopyText(repeated, 3, 4, symbols=5).at(4).sample(6000, generator(0))
    pairs = (batch.tokens[:, 1] - 1) * 5 + batch.tokens[:, 2] - 1
    counts = pairs.bincount(minlength=25).view(5, 5).double()
    if not repeated:
        assert (counts.diagonal() == 0).all()
        counts = counts[~torch.eye(5, dtype=torch.bool)]
    expected = counts.sum() / counts.numel()
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, counts.numel() - 1)


def test_at_gives_one_length_in_the_same_vocabulary():
    task = CopyText()
    assert (task.n_ctx, task.at(40).n_ctx, task.at(40).d_vocab) == (33, 81, task.d_vocab)
    assert task.at(40).sample(2, generator(0)).scored.sum(-1).tolist() == [40, 40]


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (lambda: CopyText().at(65), "longest=65 different tokens needs as many symbols: there are 64; raise symbols"),
        (lambda: CopyText(symbols=1, repeated=True), "symbols=1 must be a whole number of at least 2"),
        (lambda: CopyText(shortest=0), "shortest=0 and longest=16"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(made, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        made()
    assert "\n" not in str(caught.value)
