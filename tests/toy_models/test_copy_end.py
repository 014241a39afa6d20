"""Copying one end of a run: texts read off by hand, and no way to the answer but the end itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from toy_models.errors import ConfigError
from toy_models.seeding import generator
from toy_models.tasks.copy_end import CopyEnd

TASKS = st.builds(
    CopyEnd,
    which=st.sampled_from(("last", "first")),
    shortest=st.just(2),
    longest=st.integers(2, 9),
    symbols=st.integers(2, 4),
    separator=st.integers(0, 4),
    alternating=st.booleans(),
    odd=st.sampled_from((None, True, False)),
)


def texts(task: CopyEnd, n: int, *words) -> list[tuple[list[int], int]]:
    """The body of every text, and its answer; everything around it is checked."""
    batch, found = task.sample(n, generator(*words)), []
    for tokens, targets, scored in zip(
        batch.tokens.tolist(), batch.targets.tolist(), batch.scored.tolist(), strict=True
    ):
        at = tokens.index(task.question)
        assert tokens[0] == 0
        assert scored == [place == at for place in range(len(tokens))]
        assert set(tokens[at + 1 :]) <= {0}
        assert not any(target for place, target in enumerate(targets) if place != at)
        found.append((tokens[1:at], targets[at]))
    return found


@given(TASKS, st.integers(0, 2**31))
@settings(max_examples=60)
def test_the_answer_is_the_end_and_the_run_is_what_it_says(task, seed):
    for body, answer in texts(task, 6, seed):
        digits = [token for token in body if token != task.question + 1]
        assert task.shortest <= len(digits) <= task.longest
        every = task.separator or len(body)
        assert body == [
            t for i, d in enumerate(digits) for t in ([task.question + 1] if i and i % every == 0 else []) + [d]
        ]
        end, *run = digits[::-1] if task.which == "last" else digits
        assert answer == end
        assert all(1 <= digit <= task.symbols for digit in digits)
        assert set(run[::2]) == {run[0]}
        if len(run) > 1:
            assert (set(run[1::2]) == {run[0]}) != task.alternating
        if task.odd is not None:
            assert (end != run[0]) == task.odd


def test_at_gives_one_length_beyond_training_in_the_same_vocabulary():
    task = CopyEnd(longest=8, separator=3)
    long = task.at(40)
    assert {len(body) for body, _ in texts(long, 8, 0)} == {40 + 39 // 3}
    assert (long.d_vocab, task.d_vocab, CopyEnd(separator=0).d_vocab) == (5, 5, 5)
    assert (task.n_ctx, long.n_ctx) == (2 + 8 + 2, 2 + 40 + 13)


@pytest.mark.parametrize("which", ["last", "first"])
@pytest.mark.parametrize("alternating", [False, True])
def test_neither_the_run_nor_the_length_tells_the_end(which, alternating):
    """The pairs (digit beside the end, end) are uniform, in short texts and in long ones."""
    task = CopyEnd(which, 2, 9, symbols=3, alternating=alternating)
    for short in (True, False):
        counts = torch.zeros(3, 3, dtype=torch.float64)
        for body, answer in texts(task, 4000, 1):
            if (len(body) < 6) == short:
                counts[(body[-2] if which == "last" else body[1]) - 1, answer - 1] += 1
        expected = counts.sum() / 9
        assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, 8)


def test_variants_of_one_stream_have_the_same_digits():
    plain, separated = (texts(CopyEnd(longest=9, separator=k), 20, 3) for k in (0, 2))
    assert [answer for _, answer in plain] == [answer for _, answer in separated]
    assert [body for body, _ in plain] == [[t for t in body if t != 4] for body, _ in separated]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"which": "middle"}, "which='middle' must be one of last, first"),
        ({"shortest": 1}, "shortest=1 and longest=32 must be whole numbers, 2 <= shortest <= longest"),
        ({"symbols": 1}, "symbols=1 must be a whole number of at least 2"),
        ({"separator": -3}, "separator=-3 must be a whole number, 0 for no separators"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(options, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        CopyEnd(**options)
    assert "\n" not in str(caught.value)
