import math
from functools import partial

import pytest
import torch

from probes.contrast import check_texts, ends, logit_difference, recovered, score
from probes.errors import ProbeInputError

LOGITS = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_logit_difference_is_the_log_of_the_odds():
    p = LOGITS.softmax(-1)
    found = logit_difference(LOGITS, torch.tensor([3, 1]), 2, position=1)
    assert found.tolist() == pytest.approx([math.log(p[0, 1, 3] / p[0, 1, 2]), math.log(p[1, 1, 1] / p[1, 1, 2])])


def test_it_reads_the_last_position_unless_told_otherwise_and_one_token_serves_all_texts():
    assert torch.equal(logit_difference(LOGITS, 3, 2), LOGITS[:, -1, 3] - LOGITS[:, -1, 2])
    assert torch.equal(logit_difference(LOGITS, 3, 2, -5), logit_difference(LOGITS, torch.tensor([3, 3]), 2, 0))


def test_it_does_not_see_what_raises_both_answers_alike():
    torch.testing.assert_close(logit_difference(LOGITS + 5, 3, 2), logit_difference(LOGITS, 3, 2))


def test_16_bit_logits_are_compared_in_float32():
    low = LOGITS.bfloat16()
    found = logit_difference(low, 3, 2)
    assert found.dtype == torch.float32
    assert torch.equal(found, low[:, -1, 3].float() - low[:, -1, 2].float())
    assert score(lambda logits: logits[:, 0, 0], low).dtype == torch.float32


def test_recovery_is_zero_at_the_corrupt_end_one_at_the_clean_end_and_linear_between():
    clean, corrupt = torch.tensor([3.0, 5.0]), torch.tensor([1.0, -1.0])
    effects = torch.stack([corrupt, clean, (clean + corrupt) / 2, 2 * clean - corrupt], 1)
    assert recovered(effects, clean, corrupt).tolist() == [0, 1, 0.5, 2]


def test_texts_may_differ_in_opposite_directions_as_long_as_their_means_do():
    corrupt = LOGITS.clone()
    corrupt[0, -1, 3], corrupt[1, -1, 3] = LOGITS[0, -1, 3] + 1, LOGITS[1, -1, 3] - 3
    clean_end, corrupt_end = ends(partial(logit_difference, correct=3, wrong=2), LOGITS, corrupt)
    assert (clean_end - corrupt_end).tolist() == pytest.approx([-1, 3])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [((7, 0), "token 7 .* \\[0, 7\\)"), ((0, -1), "token -1"), ((1, 0, 5), "position 5"), ((1, 0, -6), "\\[-5, 5\\)")],
)
def test_tokens_and_positions_that_the_logits_lack_are_refused(arguments, told):
    with pytest.raises(ProbeInputError, match=told):
        logit_difference(LOGITS, *arguments)


@pytest.mark.parametrize("value", [2.0, math.nan, math.inf])
def test_ends_that_the_metric_does_not_tell_apart_are_refused(value):
    with pytest.raises(ProbeInputError, match="recovery needs texts that it tells apart"):
        ends(lambda logits: torch.full((2,), value), LOGITS, LOGITS)


@pytest.mark.parametrize("shape", [(2, 5), (1, 6)])
def test_texts_of_different_shape_are_refused(shape):
    with pytest.raises(ProbeInputError, match=r"clean has shape \(2, 6\) and corrupt \(\d, \d\): .* by position"):
        check_texts(torch.zeros(2, 6, dtype=torch.long), torch.zeros(*shape, dtype=torch.long))
