"""The cell that was set by hand counts, as its formula says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toy_models.counter import counted, counting_cell
from toy_models.errors import ConfigError
from toy_models.recurrent import Recurrent
from toy_models.seeding import generator
from toy_models.tasks.an_bn import A, AnBn, B


def cell(model: Recurrent, tokens: torch.Tensor) -> torch.Tensor:
    """The cell at every position of one text."""
    return model.run_with_cache(tokens)[1]["blocks.0.hook_cell"][0, :, 0]


def test_the_cell_is_the_count_bit_for_bit_up_to_a_thousand():
    task = AnBn().at(1000)
    text = task.sample(1, generator(0)).tokens
    up = torch.arange(1001, dtype=torch.float64)
    assert torch.equal(cell(counting_cell(1000), text), torch.cat([up, up[:-1].flip(0)]))


@pytest.mark.parametrize("n", [1, 2, 1000])
def test_the_end_is_said_behind_the_last_b_and_nowhere_before(n):
    batch = AnBn().at(n).sample(1, generator(0))
    logits = counting_cell(1000)(batch.tokens)
    assert torch.equal(logits.argmax(-1)[batch.scored], batch.targets[batch.scored])
    best = logits.topk(2).values[batch.scored]
    assert (best[:, 0] - best[:, 1]).min() > 12.9  # nats: 20 (tanh(1) / tanh(1/2) - 1) = 12.96 at one; 20 at the end


@given(n=st.integers(1, 30), m=st.integers(0, 40), saturation=st.floats(2.0, 30.0))
@settings(max_examples=40)
def test_an_unsaturated_cell_falls_short_as_the_formula_says(n, m, saturation):
    text = torch.tensor([[0] + [A] * n + [B] * m])
    found = cell(counting_cell(40, saturation), text)[-1].item()
    assert found == pytest.approx(counted(n, m, saturation), rel=1e-9, abs=1e-9)


def test_float32_counts_too():
    text = AnBn().at(500).sample(1, generator(0)).tokens
    assert cell(counting_cell(500, saturation=20.0).float(), text)[500].item() == 500.0


@pytest.mark.parametrize("option", ["saturation", "sharpness"])
def test_what_is_not_positive_is_refused(option):
    with pytest.raises(ConfigError, match=f"{option}=-1.0 must be positive and finite"):
        counting_cell(**{option: -1.0})
