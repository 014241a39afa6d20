"""Frequencies of rotary heads: constructed heads, a loop in float64, and Cauchy-Schwarz."""

import math

import pytest
import torch

from probes import names
from probes.errors import ProbeInputError
from probes.frequencies import frequencies, pair_norms
from tests.probes.models import ours, same, text, trace
from toy_models.constructed import diagonal_head, one_frequency_head
from toy_models.positions.rope import Rope
from toy_models.seeding import generator


def test_the_diagonal_head_uses_all_pairs_alike():
    found = frequencies(diagonal_head(12, 20).double(), text(n=12))
    torch.testing.assert_close(found.share, torch.full((1, 1, 6), 1 / 6, dtype=torch.float64))
    torch.testing.assert_close(found.query, found.key)


def test_the_one_frequency_head_uses_the_fastest_pair_alone():
    found = frequencies(one_frequency_head(9.0, 12, 20).double(), text(n=12))
    assert found.share[0, 0].tolist() == [1, 0, 0, 0, 0, 0]
    assert found.query[0, 0, 0].item() == pytest.approx(3)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_norms_are_those_of_a_loop_over_positions_and_pairs(fraction):
    model = ours(position=Rope(fraction=fraction), d_head=8, n_heads=4, n_key_value_heads=2, d_model=16)
    width, tokens = round(8 * fraction), text()
    found = frequencies(model, tokens, width)
    hooks = [f"blocks.1.attn.hook_{one}" for one in "qk"]  # before rotation: the norms are the same
    q, k = (model.run_with_cache(tokens, names_filter=hooks)[1][name].tolist() for name in hooks)
    for head in range(4):
        for pair in range(width // 2):
            for x, got, at in ((q, found.query, head), (k, found.key, head // 2)):
                norms = [math.hypot(row[at][pair], row[at][pair + width // 2]) for one in x for row in one]
                assert got[1, head, pair].item() == pytest.approx(math.fsum(norms) / len(norms), rel=1e-12)
    torch.testing.assert_close(found.share.sum(-1), torch.ones(3, 4, dtype=torch.float64))


def test_no_score_is_above_what_its_pairs_allow():
    model, tokens = ours(position="rope", d_head=8), text()
    hooks = [f"blocks.0.attn.hook_rot_{one}" for one in "qk"]
    _, cache = model.run_with_cache(tokens, names_filter=[*hooks, names.scores(0)])
    q, k = (pair_norms(cache[name]) for name in hooks)
    bound = torch.einsum("bqhc,bkhc->bhqk", q, k) / model.cfg.attn_scale
    seen = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
    ratio = (cache[names.scores(0)] / bound)[..., seen]
    assert ratio.abs().max() <= 1 + 1e-12
    assert ratio.max() > 0.5  # close enough for the bound to say something


def test_half_precision_is_reduced_in_float32():
    x = torch.full((1, 1, 1, 4), 300.0, dtype=torch.float16)  # its square is beyond float16
    assert pair_norms(x).tolist() == [[[[pytest.approx(300 * 2**0.5)] * 2]]]


def test_the_model_stays_as_it_was():
    model = ours(position="rope", d_head=8)
    before = trace(model)
    frequencies(model, text())
    assert same(before, trace(model))


@pytest.mark.parametrize("width", [3, 0, 10])
def test_a_width_that_makes_no_pairs_is_refused(width):
    x = torch.randn(1, 2, 1, 8, generator=generator(0, "x"))
    with pytest.raises(ProbeInputError, match=rf"d_rotary={width} must be even and lie in \[2, d_head=8\]"):
        pair_norms(x, width)


def test_a_model_without_rotation_is_refused_by_the_hook_that_it_lacks():
    with pytest.raises(ProbeInputError, match=r"no hook blocks.0.attn.hook_rot_q"):
        frequencies(ours(), text())
