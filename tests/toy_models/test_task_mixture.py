import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from toy_models.errors import ConfigError
from toy_models.seeding import generator
from toy_models.tasks.repeated_blocks import BOS
from toy_models.tasks.task_mixture import TaskMixture, shuffled

TINY = TaskMixture(n_functions=3, n_symbols=6, n_ctx=8, shortest=2, longest=4, held_out=(3,))


def few_shot_rows(tokens: torch.Tensor, n_symbols: int) -> torch.Tensor:
    """True for texts that go input, output, input, ... after BOS, none twice; blocks repeat."""
    position = torch.arange(tokens.shape[1])
    alternates = ((tokens <= n_symbols) == (position % 2 == 1) | (position == 0)).all(-1)
    return alternates & torch.tensor([len(set(text)) == len(text) for text in tokens.tolist()])


@st.composite
def options(draw) -> dict:
    """Of a task that fits."""
    n_symbols = draw(st.integers(4, 12))
    n_functions, half = draw(st.integers(2, n_symbols)), draw(st.integers(2, n_symbols))
    longest = draw(st.integers(1, 2 * half - 2))
    names = ("n_functions", "n_symbols", "n_ctx", "shortest", "longest", "held_out", "function_seed")
    values = (n_functions, n_symbols, 2 * half, 1, longest, (), draw(st.integers(0, 99)))
    return dict(zip(names, values, strict=True))


# Functions ----------------------------------------------------------------------------------------


@given(chosen=options())
@settings(max_examples=40)
def test_functions_are_one_to_one_onto_the_outputs_and_no_two_agree_anywhere(chosen):
    task = TaskMixture(**chosen)
    outputs = list(range(1 + task.n_symbols, task.d_vocab))
    assert task.functions.shape == (task.n_functions, task.n_symbols)
    assert all(sorted(row) == outputs for row in task.functions.tolist())
    assert all(not (one == other).any() for one, other in combinations(task.functions, 2))


def test_another_seed_gives_other_functions_and_the_same_one_the_same():
    assert torch.equal(TaskMixture().functions, TaskMixture().functions)
    assert not torch.equal(TaskMixture().functions, TaskMixture(function_seed=1).functions)


# Few-shot texts -----------------------------------------------------------------------------------


@given(chosen=options(), seed=st.integers(0, 2**31))
@settings(max_examples=40)
def test_a_few_shot_text_applies_one_function_and_no_answer_stands_before_it_is_asked(chosen, seed):
    task = TaskMixture(**chosen)
    batch = task.few_shot(4, generator(seed))
    table = task.functions.tolist()
    for text, targets, scored in zip(batch.tokens.tolist(), batch.targets.tolist(), batch.scored.tolist(), strict=True):
        assert text[0] == BOS
        assert targets[:-1] == text[1:]
        inputs, answers = text[1::2], targets[1::2]
        assert len(set(inputs)) == len(inputs) == task.n_examples + 1
        assert [[row[x - 1] for x in inputs] for row in table].count(answers) == 1  # of one function, and no other
        for i in range(1, len(text), 2):
            assert targets[i] not in text[: i + 1]
        assert [i for i, counts in enumerate(scored) if counts] == list(range(3, len(text), 2))


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20)
def test_one_example_tells_which_function_it_is(seed):
    text = TINY.few_shot(1, generator(seed)).tokens[0].tolist()
    fits = [row for row in TINY.functions.tolist() if row[text[1] - 1] == text[2]]
    assert len(fits) == 1


def test_without_the_function_every_candidate_answer_is_equally_likely():
    """No leak: given the last input, the right answer is uniform over the functions' answers."""
    batch = TINY.few_shot(6000, generator(0, "leak"))
    candidates = TINY.functions[:, batch.tokens[:, -1] - 1]  # (function, text)
    right = (candidates == batch.targets[:, -1]).long().argmax(0)
    counts = right.bincount(minlength=3).double()
    assert ((counts - 2000) ** 2 / 2000).sum() < chi2.ppf(1 - 1e-6, 2)


@pytest.mark.parametrize("task", [TINY, TaskMixture()])
def test_guessing_among_unseen_answers_is_right_as_often_as_the_formula_says(task):
    n = 4000
    batch = task.few_shot(n, generator(0, "elimination"))
    chances = []
    for text in batch.tokens.tolist():
        candidates = task.functions[:, text[-1] - 1].tolist()
        chances.append(1 / len([c for c in candidates if c not in text]))
    error = torch.tensor(chances).std().item() / math.sqrt(n)
    assert math.fsum(chances) / n == pytest.approx(task.elimination, abs=5 * error)
    assert 1 / task.n_functions < task.elimination < 1


def test_all_texts_are_of_the_function_that_was_asked_for():
    for f in range(3):
        batch = TINY.few_shot(20, generator(0), f)
        assert torch.equal(batch.targets[:, 1::2], TINY.functions[f][batch.tokens[:, 1::2] - 1])
    with pytest.raises(ConfigError, match=r"function=3 must lie in \[0, n_functions=3\)"):
        TINY.few_shot(1, generator(0), 3)


# The mixture --------------------------------------------------------------------------------------


def test_a_batch_holds_both_kinds_in_their_share():
    n, share = 4000, 0.3
    task = TaskMixture(share=share)
    few = few_shot_rows(task.sample(n, generator(0)).tokens, task.n_symbols)
    assert few.double().mean().item() == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / n))


def test_texts_that_are_not_few_shot_are_blocks_of_the_trained_periods_and_scored_throughout():
    task = TaskMixture()
    batch = task.sample(400, generator(0))
    few = few_shot_rows(batch.tokens, task.n_symbols)
    assert batch.scored[~few].all()
    periods = set()
    for text in batch.tokens[~few].tolist():
        content = text[1:]
        periods.add(next(p for p in range(1, len(content)) if content[p:] == content[:-p]))
    assert periods == {3, 4, 6, 7, 9, 10} == set(task.blocks.periods)
    expected = torch.arange(task.n_ctx) % 2 == 1
    expected[1] = False
    assert torch.equal(batch.scored[few], expected.expand(int(few.sum()), -1))
    assert torch.equal(batch.targets[:, :-1], batch.tokens[:, 1:])


# Shuffled examples --------------------------------------------------------------------------------


@given(chosen=options().filter(lambda chosen: chosen["n_ctx"] >= 6), seed=st.integers(0, 2**31))
@settings(max_examples=40)
def test_shuffling_moves_every_answer_and_nothing_else(chosen, seed):
    task = TaskMixture(**chosen)
    tokens = task.few_shot(5, generator(seed, "text")).tokens
    copy = tokens.clone()
    mixed = shuffled(tokens, generator(seed, "shuffled"))
    assert torch.equal(tokens, copy)
    assert torch.equal(mixed[:, 1::2], tokens[:, 1::2])
    assert (mixed[:, 0] == BOS).all()
    before, after = tokens[:, 2::2], mixed[:, 2::2]
    assert (before != after).all()
    assert torch.equal(before.sort(-1).values, after.sort(-1).values)


def test_shuffling_reaches_every_cycle_equally_often():
    n = 6000
    tokens = TINY.few_shot(1, generator(0)).tokens.expand(n, -1)  # 3 examples: two cycles
    first = shuffled(tokens, generator(0, "cycles"))[:, 2]
    share = (first == tokens[0, 4]).double().mean().item()
    assert share == pytest.approx(0.5, abs=5 * math.sqrt(0.25 / n))


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"n_functions": 1}, r"n_functions=1 must lie in \[2, n_symbols=32\]"),
        ({"n_functions": 33}, "n_functions=33 must lie in"),
        ({"n_ctx": 23}, r"n_ctx=23 must be even and lie in \[4, 64\]"),
        ({"n_ctx": 66}, "n_ctx=66 must be even"),
        ({"share": 1.0}, "share=1.0 must lie between 0 and 1"),
        ({"longest": 23}, "a period of 23 leaves nothing to predict in n_ctx=24"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_the_values(options, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        TaskMixture(**options)
    assert "\n" not in str(caught.value)


def test_a_text_with_one_example_cannot_be_shuffled():
    task = TaskMixture(n_ctx=4, longest=2, shortest=1, held_out=())
    with pytest.raises(ConfigError, match="a text of 4 tokens has 1 examples"):
        shuffled(task.few_shot(2, generator(0)).tokens, generator(1))
