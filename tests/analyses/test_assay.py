"""The assay asks what it says, reads answers as one text at a time would, and its claims can fail."""

import math
import re

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.core.config import configure
from analyses.core.errors import WorkbenchError
from analyses.counting import assay as subject
from analyses.counting.asking.prompts import COPYING, KINDS, Prompt, prompt, separated
from analyses.counting.asking.reading import log_probabilities, one_by_one
from analyses.counting.asking.subjects import BOS, BytePrompts, bytes_of
from toy_models import Transformer, TransformerConfig
from toy_models.errors import ConfigError, ModelError
from toy_models.seeding import generator

SIZE = {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_vocab": BOS + 1, "n_ctx": 128, "bos_id": BOS}
TINY = {
    **{"model.n_layers": 1, "model.n_heads": 2, "model.d_model": 16, "model.d_mlp": 16, "train.steps": 2},
    **{"train.batch_size": 4, "lengths": (2, 3), "seeds": (0, 1)},
}


# The prompts --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.integers(2, 20), st.integers(0, 7), st.sampled_from((0, 3)), st.integers(0, 2**20))
def test_the_right_answer_is_what_the_text_says(kind, length, text, commas, seed):
    separate = commas if kind in subject.DIGITS else 0
    one = prompt(kind, length, generator(seed, "x"), text=text, separate=separate)
    body = re.search(r"cat in: (.*)\?|^([a-z ]+) says" if kind == "word" else r"\b([01][01,+]*)\b(?!s)", one.text)
    found = next(group for group in body.groups() if group)
    digits = found.replace(",", "")
    told = {
        **{"ones": digits.count("1"), "bits": digits.count("1"), "sum": digits.count("1")},
        **{"word": found.split().count("cat"), "last": digits[-1], "first": digits[0]},
    }
    assert one.right == int(told[kind])
    assert one.answers == tuple(f" {i}." for i in range(2 if kind in COPYING else 2 * length + 1))
    assert (len(found.split()) if kind == "word" else len(digits.replace("+", ""))) == length


@settings(max_examples=40, deadline=None)
@given(st.text("01", min_size=1, max_size=30), st.integers(1, 7))
def test_commas_stand_after_every_so_many_digits_and_change_nothing_else(digits, every):
    found = separated(digits, every)
    assert found.replace(",", "") == digits
    assert all(len(part) == every for part in found.split(",")[:-1])
    assert not found.endswith(",")


@pytest.mark.parametrize("kind", COPYING)
def test_to_say_one_digit_always_is_right_half_of_the_time(kind):
    right = [prompt(kind, 5, generator(0), text=text).right for text in range(4)]
    assert sorted(right) == [0, 0, 1, 1]
    assert sorted(right[::2]) == sorted(right[1::2]) == [0, 1]  # in either phrase


def test_examples_are_solved_and_come_first():
    one = prompt("sum", 4, generator(0), examples=2)
    *solved, last = one.text.split("\n")
    assert last == "1+1+1+1 ="
    assert len(solved) == 2
    assert all(int(line[:-1].split(" = ")[1]) == line.count("1+") + 1 for line in solved)


@pytest.mark.parametrize(
    ("given_wrong", "message"),
    [
        ({"kind": "tens", "length": 4}, "no kind 'tens' of prompt: choose among ones, bits"),
        ({"kind": "last", "length": 1}, "length=1 must be 2 or more for 'last'"),
        ({"kind": "sum", "length": 4, "separate": 3}, "separate=3 must be 0 or more, and 0 for 'sum'"),
    ],
)
def test_prompts_that_ask_nothing_are_refused(given_wrong, message):
    with pytest.raises(ConfigError, match=message):
        prompt(generator=generator(0), **given_wrong)


# The task -----------------------------------------------------------------------------------------


def test_a_batch_is_scored_on_the_bytes_of_its_answers_alone():
    task = BytePrompts(2, 6, 9, 3)
    batch = task.sample(300, generator(0, "task"))
    assert batch.tokens.shape[1] <= task.n_ctx
    for tokens, targets, scored in zip(batch.tokens, batch.targets, batch.scored, strict=True):
        places = scored.nonzero()[:, 0]
        answer = bytes(targets[places].tolist()).decode()
        text = bytes(tokens[1 : places[0] + 1].tolist()).decode()  # all that is read before the first answered byte
        assert re.fullmatch(r" \d+\.", answer)
        assert text.endswith(("Answer:", "1s:", "=", "is", "often:", "with"))
        assert torch.equal(tokens[places + 1], targets[places])
        assert (tokens[places[-1] + 2 :] == BOS).all()
    assert (batch.tokens[:, 0] == BOS).all()
    assert torch.equal(batch.tokens, task.sample(300, generator(0, "task")).tokens)


def test_kinds_lengths_and_digits_come_as_often_as_they_should():
    task, n = BytePrompts(2, 6, 9, 0), 3000
    batch = task.sample(n, generator(1, "task"))
    texts = [bytes(row[row != BOS].tolist()).decode() for row in batch.tokens]
    for share, chosen in (
        (1 / 6, [text for text in texts if "+" in text]),
        (1 / 6, [text for text in texts if "cat" in text]),
        (1 / 6, [text for text in texts if re.search("ends|Last", text) and text.endswith(("0.", "1."))]),
        (1 / 12, [text for text in texts if re.search("begins|First", text) and text.endswith("1.")]),
        (1 / 48, [text for text in texts if text.endswith(("= 9.", "is 9."))]),
    ):
        assert abs(len(chosen) / n - share) < 5 * (share * (1 - share) / n) ** 0.5  # standard errors


# How answers are read -----------------------------------------------------------------------------


@pytest.mark.parametrize("position", ["rope", "learned"])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_have_the_log_probability_of_their_text_read_alone(kind, position):
    model = Transformer(TransformerConfig(**SIZE, position=position, dtype=torch.float64), seed=3)
    one = prompt(kind, 6, generator(3, kind), text=1)
    fast, slow = log_probabilities(model, bytes_of, one), one_by_one(model, bytes_of, one)
    assert fast.shape == (len(one.answers),)
    assert torch.allclose(fast, slow, rtol=0, atol=1e-11)
    assert fast.exp().sum() <= 1  # no answer begins another
    assert torch.allclose(log_probabilities(model.float(), bytes_of, one), slow, rtol=0, atol=1e-4)


def test_a_model_that_says_bytes_at_fixed_rates_gives_the_sum_of_their_logarithms(monkeypatch):
    model = Transformer(TransformerConfig(**SIZE), seed=0).double()
    rates = torch.randn(BOS + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log_softmax(-1)
    with torch.no_grad():
        model.unembed.W_U.zero_()
        model.unembed.b_U.copy_(rates)
    monkeypatch.setattr("analyses.counting.asking.reading.LOGITS_AT_ONCE", 3000)  # a few answers at a time
    one = prompt("ones", 6, generator(0))
    found = log_probabilities(model, bytes_of, one)
    # What all texts begin with, up to the blank before the number, counts for none.
    assert found.tolist() == pytest.approx([sum(rates[byte].item() for byte in f"{i}.".encode()) for i in range(13)])


def test_prompts_that_a_model_cannot_read_are_refused_in_one_line():
    model = Transformer(TransformerConfig(**{**SIZE, "n_ctx": 30}), seed=0)
    asked = Prompt("How many?", (" 0.", " 1."), 0)
    for encode, error, message in (
        (lambda texts: [[1, 2, 3] for _ in texts], ModelError, "cannot tell the answer ' 1.' from ' 0.'"),
        (lambda texts: [[1, 900 + i] for i, _ in enumerate(texts)], ModelError, "token 901, the model embeds 257"),
        (lambda texts: [[i, 1] for i, _ in enumerate(texts)], ModelError, "no token in common"),
        (lambda texts: [[*range(40), i] for i, _ in enumerate(texts)], ConfigError, "41 tokens goes beyond the 30"),
    ):
        with pytest.raises(error, match=message) as caught:
            log_probabilities(model, encode, asked)
        assert "\n" not in str(caught.value)


# The study ----------------------------------------------------------------------------------------


def here(function, jobs, label):
    """In this process: what is measured is tested, not the pool."""
    return [function(job) for job in jobs]


def test_every_prompt_has_a_row_that_its_numbers_agree_in(monkeypatch):
    monkeypatch.setattr(subject, "run_jobs", here)
    config = configure(subject.Config, TINY)
    found = subject.run(config)
    table, asked = found.table, found.measured_with["questions"]
    assert asked == ["ones", "ones, commas", "bits", "bits, commas", "sum", "word", *(
        f"{kind}{commas}" for kind in COPYING for commas in ("", ", commas"))]  # fmt: skip
    assert len(table) == 2 * 2 * len(asked) * 2 * 4
    assert table.notna().all(axis=None)
    assert ((table.answer == table.value) == (table.right == 1)).all()
    assert ((table.margin > 0) == (table.right == 1)).all()
    assert (table.error == (table.answer - table.value).abs()).all()
    assert found.arrays["stops (seed, arm, question)"].shape == (2, 2, len(asked))
    assert found.arrays["distance (seed, arm, length)"].shape == (2, 2, 2)
    assert found.arrays["reading error (seed, question)"].max() < 1e-4
    pd.testing.assert_frame_equal(table, subject.run(config).table, check_exact=True)


def test_an_ability_stops_at_the_longest_length_with_enough_right_and_nowhere_if_there_is_none():
    right = {2: (1, 1), 4: (1, 0), 8: (1, 1), 16: (1, 0)}
    rows = [{"length": n, "right": r} for n, both in right.items() for r in both]
    table = pd.DataFrame(rows).assign(arm="trained", question="ones", seed=0)
    assert subject._stop(table, "trained", "ones", 0) == 8
    assert math.isnan(subject._stop(table.assign(right=0), "trained", "ones", 0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": "ones,tens"}, "there is no 'tens', only ones, bits"),
        ({"lengths": "8,4"}, r"lengths=\(8, 4\) must be two or more and rise, from 2 on"),
        ({"texts": 6}, "texts=6 must be a multiple of 4"),
        ({"task.longest": 30}, "longest=30, longest_sum=20"),
    ],
)
def test_settings_that_make_no_study_are_refused_in_one_line(changes, message):
    with pytest.raises(WorkbenchError, match=message) as caught:
        configure(subject.Config, changes)
    assert "\n" not in str(caught.value)
