import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toy_models import TransformerConfig
from toy_models.errors import ConfigError
from toy_models.positions.rope import Rope
from toy_models.positions.rope_scaling import LinearScaling, Llama3Scaling, YarnScaling

SIZE = {"n_layers": 1, "n_heads": 2, "d_model": 128, "d_vocab": 9, "n_ctx": 64}
LADDER = 10000.0 ** -(torch.arange(32, dtype=torch.float64) / 32)


def turned(rope: Rope, position: int) -> torch.Tensor:
    """Pairs (cos, sin) that a unit vector along each first coordinate becomes at a position."""
    rotate = rope.build(TransformerConfig(**SIZE, position=rope)).rotation(torch.tensor([[position]]))
    x = torch.cat([torch.ones(32), torch.zeros(32)]).double()[None, None, None]
    return rotate(x)[0, 0, 0].view(2, 32)


@given(factor=st.floats(1, 64), position=st.integers(0, 5000))
def test_interpolated_positions_are_positions_divided_by_the_factor(factor, position):
    angle = position / factor * LADDER
    wanted = torch.stack([angle.cos(), angle.sin()])
    torch.testing.assert_close(turned(Rope(scaling=LinearScaling(factor)), position), wanted, rtol=0, atol=1e-9)


@given(
    factor=st.floats(1, 64),
    n_ctx=st.integers(16, 100_000),
    scaling=st.sampled_from([Llama3Scaling, YarnScaling]),
)
def test_a_frequency_stays_or_falls_by_the_factor_at_most_and_the_order_is_kept(factor, n_ctx, scaling):
    found = scaling(factor, n_ctx).scaled(LADDER, 10000.0)
    assert (found <= LADDER * (1 + 1e-12)).all()
    assert (found >= LADDER / factor * (1 - 1e-12)).all()
    assert (found.diff() < 0).all()


@pytest.mark.parametrize("scaling", [Llama3Scaling(8.0, 4096), YarnScaling(8.0, 4096)])
def test_fast_pairs_stay_and_slow_pairs_are_interpolated(scaling):
    turns = 4096 * LADDER / (2 * math.pi)
    found = scaling.scaled(LADDER, 10000.0)
    fast = turns > (4 if isinstance(scaling, Llama3Scaling) else 32 * 1.4)  # YaRN rounds its ramp outwards
    slow = turns < (1 if isinstance(scaling, Llama3Scaling) else 1 / 1.4)
    assert fast.any()
    assert slow.any()
    torch.testing.assert_close(found[fast], LADDER[fast], rtol=1e-12, atol=0)
    torch.testing.assert_close(found[slow], LADDER[slow] / 8, rtol=1e-12, atol=0)


def test_llama3_at_a_frequency_in_the_middle():
    frequency = torch.tensor([2 * math.pi * 2.5 / 1000], dtype=torch.float64)  # 2.5 turns in 1000 tokens: half way
    found = Llama3Scaling(8.0, 1000).scaled(frequency, 10000.0)
    torch.testing.assert_close(found, frequency * (0.5 + 0.5 / 8), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("scaling", "amplitude"),
    [
        (YarnScaling(16.0, 64), 0.1 * math.log(16) + 1),
        (YarnScaling(1.0, 64), 1.0),
        (YarnScaling(16.0, 64, attention_factor=0.25), 0.25),
        (LinearScaling(4.0), 1.0),
        (Llama3Scaling(4.0, 64), 1.0),
    ],
)
def test_rotated_vectors_grow_by_the_amplitude(scaling, amplitude):
    lengths = turned(Rope(scaling=scaling), 37).square().sum(0).sqrt()
    torch.testing.assert_close(lengths, torch.full_like(lengths, amplitude), rtol=1e-12, atol=0)


def test_a_factor_of_one_changes_nothing():
    for scaling in (LinearScaling(1.0), Llama3Scaling(1.0, 64), YarnScaling(1.0, 64)):
        torch.testing.assert_close(turned(Rope(scaling=scaling), 37), turned(Rope(), 37), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("scaling", "told"),
    [
        (LinearScaling(0.0), "LinearScaling: factor=0.0 must be positive"),
        (LinearScaling(math.nan), "factor=nan must be a finite number"),
        (Llama3Scaling(2.0, 0), "Llama3Scaling: original_n_ctx=0 must be positive"),
        (Llama3Scaling(2.0, 64, 4.0, 4.0), "low_freq_factor=4.0 must be below high_freq_factor=4.0"),
        (YarnScaling(2.0, 64, beta_fast=1.0, beta_slow=2.0), "beta_fast=1.0 must be at least beta_slow=2.0"),
        (YarnScaling(2.0, 64, attention_factor=-1.0), "attention_factor=-1.0"),
    ],
)
def test_numbers_that_make_no_scaling_are_refused(scaling, told):
    with pytest.raises(ConfigError) as caught:
        TransformerConfig(**SIZE, position=Rope(scaling=scaling))
    assert told in str(caught.value)
