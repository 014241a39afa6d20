"""Who did what to whom: what a sentence tells, what it does not, and heads set by hand that answer it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from toy_models.constructed import answering_heads
from toy_models.errors import ConfigError
from toy_models.seeding import generator
from toy_models.tasks.who_did_what import BOS, DID, ENTITY_ROLES, FIRST_ENTITY, NEAR, QUESTION, WHO, WHOM, WhoDidWhat

MARKERS = {WHO: "who", WHOM: "whom", NEAR: "near", DID: "did"}


def read(sentence: list[int]) -> dict[str, int]:
    """Role -> the token behind its marker, without looking at how sentences are made."""
    assert (sentence[0], sentence[-1]) == (BOS, QUESTION)
    return {MARKERS[marker]: filler for marker, filler in zip(sentence[1:-1:2], sentence[2:-1:2], strict=True)}


@given(
    n_entities=st.integers(3, 9),
    n_verbs=st.integers(1, 4),
    asked=st.permutations(ENTITY_ROLES).flatmap(lambda roles: st.integers(1, 3).map(lambda n: tuple(roles[:n]))),
)
def test_the_answer_names_the_fillers_behind_the_asked_markers(n_entities, n_verbs, asked):
    task = WhoDidWhat(n_entities, n_verbs, asked)
    batch = task.sample(5, generator(0, "data"))
    for sentence, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        said = read(sentence)
        assert len({said[role] for role in ENTITY_ROLES}) == 3
        assert all(FIRST_ENTITY <= said[role] < FIRST_ENTITY + n_entities for role in ENTITY_ROLES)
        assert task.first_verb <= said["did"] < task.first_answer
        place = 0
        for role in asked:
            place = place * n_entities + said[role] - FIRST_ENTITY
        assert targets[-1] == task.first_answer + place < task.d_vocab
        assert targets[:-1] == sentence[1:]
    assert batch.scored.sum(-1).tolist() == [1] * 5
    assert batch.scored[:, -1].all()


@given(st.integers(3, 9), st.integers(1, 3), st.data())
def test_named_takes_back_what_answer_says(n_entities, n_asked, data):
    task = WhoDidWhat(n_entities, asked=ENTITY_ROLES[:n_asked])
    fillers = torch.tensor(data.draw(st.lists(st.integers(0, n_entities - 1), min_size=n_asked, max_size=n_asked)))
    assert task.named(task.answer(fillers)).tolist() == fillers.tolist()


def test_neither_the_place_of_a_phrase_nor_its_filler_tells_of_another():
    task, n = WhoDidWhat(n_entities=4, n_verbs=1), 6000
    tokens = task.sample(n, generator(0, "leak")).tokens
    orders = (tokens[:, 1:-1:2] * torch.tensor([125, 25, 5, 1])).sum(-1).unique(return_counts=True)[1]
    assert len(orders) == 24
    pairs = torch.tensor([[read(one)[role] - FIRST_ENTITY for role in ("who", "whom")] for one in tokens.tolist()])
    counts = (4 * pairs[:, 0] + pairs[:, 1]).bincount(minlength=16)
    for found in (orders, counts[counts > 0]):
        expected = n / len(found)
        assert ((found - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, len(found) - 1)
    assert (counts > 0).sum() == 12


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"n_entities": 2}, "n_entities=2 and n_verbs=4"),
        ({"n_verbs": 0}, "n_entities=8 and n_verbs=0"),
        ({"asked": ()}, r"asked=\(\) must name some of who, whom, near"),
        ({"asked": ("who", "who")}, "each once at most"),
        ({"asked": ("when",)}, "must name some of who, whom, near"),
    ],
)
def test_sentences_that_cannot_be_are_refused_with_the_values(options, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        WhoDidWhat(**options)
    assert "\n" not in str(caught.value)


# Heads that answer --------------------------------------------------------------------------------


@torch.no_grad()
def leads(task: WhoDidWhat, shares, batch) -> torch.Tensor:
    """How far the right answer is above every other one, (sentence, answer), in float64; itself left out."""
    logits = answering_heads(task, shares).double()(batch.tokens)[:, -1]
    lead = logits.gather(-1, batch.targets[:, -1:]) - logits
    return lead.scatter(-1, batch.targets[:, -1:], torch.inf)


@given(st.floats(0.5, 0.999), st.integers(3, 6))
def test_one_head_leads_by_the_smaller_of_two_squares(w, n_entities):
    task = WhoDidWhat(n_entities, 2)
    batch = task.sample(40, generator(0, "answers"))
    found = leads(task, ((w, 1 - w, 0.0),), batch)
    swapped = task.answer(task.named(batch.targets[:, -1]).flip(-1))
    assert found.gather(-1, swapped[:, None]).flatten().tolist() == pytest.approx([(2 * w - 1) ** 2] * 40, abs=1e-6)
    assert found.min().item() == pytest.approx(min((2 * w - 1) ** 2, (1 - w) ** 2), abs=1e-6)


def test_two_heads_of_one_role_each_lead_by_one_in_any_order_of_phrases():
    task = WhoDidWhat()
    found = leads(task, ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), task.sample(200, generator(0, "answers")))
    assert found.min().item() == pytest.approx(1, abs=1e-6)


def test_at_equal_shares_the_right_answer_and_its_swap_are_level():
    task = WhoDidWhat()
    batch = task.sample(50, generator(0, "answers"))
    swapped = task.answer(task.named(batch.targets[:, -1]).flip(-1))
    level = leads(task, ((0.5, 0.5, 0.0),), batch).gather(-1, swapped[:, None])
    assert level.abs().max() < 1e-12


def test_heads_answer_three_roles_as_well():
    task = WhoDidWhat(n_entities=4, asked=("near", "who", "whom"))
    batch = task.sample(50, generator(0, "answers"))
    assert leads(task, ((1 / 2, 1 / 3, 1 / 6),), batch).min() > 0.02  # 1/36 by the largest of the least leads
    assert leads(task, ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), batch).min() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.6, 0.0), (1.5, -0.5, 0.0)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ConfigError, match="give three of 0 or more that sum to 1"):
        answering_heads(WhoDidWhat(), (shares,))
