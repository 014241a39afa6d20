"""Running parity: each answer is the parity of the bits so far, and stands in no input before it is asked for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toy_models.errors import ConfigError
from toy_models.seeding import generator
from toy_models.tasks.parity import Parity
from toy_models.tasks.running_parity import EVEN, ODD, ONE, ZERO, RunningParity


@settings(deadline=None, max_examples=40)
@given(shortest=st.integers(1, 6), more=st.integers(0, 6), seed=st.integers(0, 99))
def test_every_bit_is_answered_by_the_parity_so_far_and_the_next_token_is_that_parity(shortest, more, seed):
    batch = RunningParity(shortest, shortest + more).sample(5, generator(seed, "data"))
    for text, targets, scored in zip(batch.tokens.tolist(), batch.targets.tolist(), batch.scored.tolist(), strict=True):
        asked = [i for i, one in enumerate(scored) if one]
        assert asked == list(range(1, 2 * len(asked), 2))  # every second token, from the first on
        assert shortest <= len(asked) <= shortest + more
        ones = 0
        for i in asked:
            ones += text[i] == ONE
            assert text[i] in (ZERO, ONE)
            assert targets[i] == (ODD if ones % 2 else EVEN)
        assert text[2::2][: len(asked) - 1] == [targets[i] for i in asked[:-1]]
        assert text[0] == 0
        assert not any(text[2 * len(asked) :])
        assert not any(target for target, one in zip(targets, scored, strict=True) if not one)


def test_no_target_can_be_read_from_its_place_or_from_the_parity_before():
    """Odd and even are equally likely at every place, whatever the parity before: 5 standard errors of 4000 texts."""
    batch = RunningParity().at(8).sample(4000, generator(0, "data"))
    odd = (batch.targets[:, 1::2] == ODD).double()
    assert (odd.mean(0) - 0.5).abs().max() < 5 * 0.5 / 4000**0.5
    same = (odd[:, 1:] == odd[:, :-1]).double().mean(0)
    assert (same - 0.5).abs().max() < 5 * 0.5 / 4000**0.5


def test_it_asks_what_the_scratchpad_behind_the_text_asks():
    """Both draw the same bits from the same stream, and both want their parities, in order."""
    between = RunningParity(7, 7).sample(32, generator(3, "data"))
    behind = Parity(7, 7, scratchpad=True).sample(32, generator(3, "data"))
    odd = behind.targets[behind.scored].view(32, 7) - behind.targets[behind.scored].min()
    assert torch.equal(between.targets[:, 1::2] - EVEN, odd)


def test_a_range_of_lengths_that_no_text_has_is_refused():
    with pytest.raises(ConfigError, match="shortest=3 and longest=2 must be whole numbers"):
        RunningParity(3, 2)
