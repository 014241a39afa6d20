import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toy_models import Transformer, TransformerConfig
from toy_models.errors import ConfigError
from toy_models.seeding import generator
from toy_models.tasks.lengths import BOS, answered, check, draw

QUESTION, ANSWERS = 9, torch.tensor([3, 4])


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(6, 8))
@settings(max_examples=30, deadline=None)
def test_each_text_stands_between_bos_and_the_question_and_only_padding_follows(lengths, longest):
    texts = torch.arange(len(lengths) * longest).reshape(len(lengths), longest) % 8 + 1
    answers = torch.arange(len(lengths))
    batch = answered(texts, torch.tensor(lengths), answers, QUESTION)
    assert batch.tokens.shape == (len(lengths), max(lengths) + 2)
    for row, length in enumerate(lengths):
        told = batch.tokens[row].tolist()
        assert told[: length + 2] == [BOS, *texts[row, :length].tolist(), QUESTION]
        assert not any(told[length + 2 :])
        assert batch.scored[row].nonzero().flatten().tolist() == [length + 1]
        assert batch.targets[row, length + 1] == answers[row]


def test_no_answer_is_told_beside_a_scored_position():
    batch = answered(torch.ones(2, 4, dtype=torch.long), torch.tensor([4, 2]), ANSWERS, QUESTION)
    assert not batch.targets[~batch.scored].any()


def test_padding_changes_no_answer_of_a_causal_model():
    texts = torch.randint(1, 9, (2, 5), generator=generator(0, "texts"))
    model = Transformer(TransformerConfig(n_layers=2, n_heads=2, d_model=8, d_vocab=10, n_ctx=8)).double()
    together = answered(texts, torch.tensor([5, 2]), ANSWERS, QUESTION)
    alone = answered(texts[1:], torch.tensor([2]), ANSWERS[1:], QUESTION)
    assert alone.tokens.shape[1] == 4 < together.tokens.shape[1]
    torch.testing.assert_close(model(together.tokens)[1, :4], model(alone.tokens)[0], rtol=0, atol=1e-13)


def test_every_length_is_equally_likely():
    n, counts = 6000, torch.zeros(7)
    counts += torch.bincount(draw(2, 6, n, generator(0, "lengths")), minlength=7)
    assert counts[:2].sum() == 0
    expected, sd = n / 5, (n * 0.2 * 0.8) ** 0.5
    assert (counts[2:] - expected).abs().max() < 5 * sd


@pytest.mark.parametrize(("shortest", "longest"), [(0, 3), (4, 3), (1, 2.0)])
def test_a_range_that_no_text_has_is_refused_with_its_ends(shortest, longest):
    with pytest.raises(ConfigError, match=f"shortest={shortest} and longest={longest}"):
        check(shortest, longest)
