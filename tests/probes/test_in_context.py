import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.errors import ProbeInputError
from probes.in_context import in_context
from probes.model import token_losses
from toy_models import constructed
from toy_models.seeding import generator
from toy_models.tasks.repeated_blocks import RepeatedBlocks

NUMBERS = st.floats(-10, 10, allow_nan=False)


def random_losses(batch: int, n: int, dtype=torch.float64) -> torch.Tensor:
    return torch.rand(batch, n, generator=generator(0, "losses"), dtype=torch.float64).to(dtype)


# Closed forms -------------------------------------------------------------------------------------


def test_a_loss_that_falls_by_a_line_scores_its_slope_times_the_distance():
    falling = 5 - 0.01 * torch.arange(512, dtype=torch.float64)
    found = in_context(falling.repeat(3, 1))
    assert found.per_sequence.tolist() == pytest.approx([-0.01 * 450] * 3, abs=1e-12)
    assert found.mean.item() == pytest.approx(-4.5, abs=1e-12)
    assert found.standard_error.item() == pytest.approx(0, abs=1e-12)


def test_the_defaults_are_the_50th_and_the_500th_prediction_counted_from_zero():
    losses = torch.zeros(2, 500)
    losses[0, 49], losses[1, 499] = 1.0, 10.0
    assert in_context(losses).per_sequence.tolist() == [-1.0, 10.0]


def test_two_texts_have_half_their_difference_as_standard_error():
    losses = torch.tensor([[2.0, 1.0], [2.0, -2.0]])
    found = in_context(losses, early=0, late=1)
    assert found.mean.item() == pytest.approx(-2.5)
    assert found.standard_error.item() == pytest.approx(1.5)


def test_the_induction_circuit_goes_from_chance_to_certainty_once_the_block_repeats():
    """Its logits are sharpness times the share of each token in what layer 1 attends to: at a repeat the one
    answer has the share 1, and at BOS, which attends to itself, the one wrong token has it."""
    model, period = constructed.induction_circuit(d_vocab=16, n_ctx=32), 7
    batch = RepeatedBlocks(d_vocab=16, n_ctx=32, shortest=period, longest=period, held_out=()).sample(
        6, generator(0, "text")
    )
    with torch.no_grad():
        losses = token_losses(model(batch.tokens), batch.tokens)
    found = in_context(losses, early=0, late=29)
    early = 20 + math.log1p(15 * math.exp(-20))  # BOS has logit 20, the 15 others 0
    late = math.log1p(15 * math.exp(-20))
    assert found.per_sequence.tolist() == pytest.approx([late - early] * 6, abs=1e-3)


def test_a_head_that_predicts_from_no_context_gains_nothing():
    """The uniform head's answer at a position is the share of tokens seen: with one token in the whole text
    it is the same at every position, so late and early cost the same."""
    model, tokens = constructed.uniform_head().double(), torch.full((3, 30), 5)
    with torch.no_grad():
        losses = token_losses(model(tokens), tokens)
    assert losses[:, 4].tolist() == pytest.approx([math.log(math.e + 15) - 1] * 3, abs=1e-12)
    assert in_context(losses, early=4, late=25).mean.abs().item() <= 1e-12


# Laws ---------------------------------------------------------------------------------------------


@given(rows=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=12), shift=NUMBERS)
@settings(max_examples=40)
def test_mean_and_standard_error_follow_their_definitions(rows, shift):
    gains = [late - early for early, late in rows]
    mean = math.fsum(gains) / len(gains)
    variance = math.fsum((gain - mean) ** 2 for gain in gains) / (len(gains) - 1)
    found = in_context(torch.tensor(rows, dtype=torch.float64) + shift, early=0, late=1)
    assert found.per_sequence.tolist() == pytest.approx(gains, abs=1e-12)
    assert found.mean.item() == pytest.approx(mean, abs=1e-12)
    assert found.standard_error.item() == pytest.approx(math.sqrt(variance / len(gains)), abs=1e-12)


def test_swapping_what_early_and_late_hold_changes_the_sign():
    losses = random_losses(5, 40)
    there, back = in_context(losses, early=3, late=30), in_context(losses.flip(1), early=39 - 30, late=39 - 3)
    assert torch.equal(there.mean, -back.mean)
    assert torch.equal(there.standard_error, back.standard_error)


def test_16_bit_losses_are_subtracted_in_float32():
    losses = random_losses(64, 12, torch.bfloat16)
    found = in_context(losses, early=2, late=9)
    exact = losses[:, 9].double() - losses[:, 2].double()
    assert found.mean.dtype == torch.float32
    assert found.mean.item() == pytest.approx(exact.mean().item(), abs=1e-6)


def test_it_does_not_write_into_the_losses():
    losses = random_losses(3, 12)
    before = losses.clone()
    in_context(losses, early=2, late=9)
    assert torch.equal(losses, before)


def test_token_losses_are_those_the_model_gives_itself():
    model, tokens = constructed.induction_circuit(), torch.arange(1, 6).repeat(2, 3)
    with torch.no_grad():
        expected = model(tokens, return_type="loss", loss_per_token=True)
        found = token_losses(model(tokens), tokens)
    assert torch.allclose(found, expected, atol=1e-6)


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("early", "late"), [(5, 5), (6, 5), (-1, 5), (0, 12)])
def test_positions_out_of_order_or_range_are_refused_with_their_values(early, late):
    with pytest.raises(ProbeInputError, match=rf"early={early} and late={late} must keep 0 <= early < late < 12"):
        in_context(random_losses(2, 12), early, late)


def test_a_text_shorter_than_the_defaults_is_refused():
    with pytest.raises(ProbeInputError, match=r"late=499 .* < 128, the losses per text"):
        in_context(random_losses(2, 128))


def test_a_single_text_is_refused():
    with pytest.raises(ProbeInputError, match="1 text has no standard error"):
        in_context(random_losses(1, 12), 0, 5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused_where_it_is_read(bad):
    losses = random_losses(3, 12)
    losses[1, 7] = bad
    in_context(losses, early=0, late=5)
    with pytest.raises(ProbeInputError, match=f"position 0 or 7 is {bad}"):
        in_context(losses, early=0, late=7)


def test_a_token_without_a_logit_is_refused_by_its_value():
    with pytest.raises(ProbeInputError, match=r"token 9 must lie in \[0, 4\)"):
        token_losses(torch.zeros(1, 3, 4), torch.tensor([[0, 9, 1]]))
    with pytest.raises(ProbeInputError, match="1 token has no next one"):
        token_losses(torch.zeros(1, 1, 4), torch.tensor([[0]]))
