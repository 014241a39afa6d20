import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes import names
from probes.collapse import NORMS, collapse, critical_length, distance, identical, slope, uniform_law
from probes.errors import ProbeInputError
from probes.precision import rounded
from tests.probes.clean_and_corrupt import perturbed
from tests.probes.models import HandWritten, ours, same, text, trace
from toy_models import constructed
from toy_models.seeding import generator

INF = NORMS.index("inf")


def repeated(tokens):
    return tokens, torch.cat([tokens, tokens[:, -1:]], 1)


def middle(tokens, d_vocab: int = 9):
    changed, at = tokens.clone(), tokens.shape[1] // 2
    changed[:, at] = (tokens[:, at] + 1) % d_vocab
    return tokens, changed


def ones(n: int, prefix: int = 3) -> torch.Tensor:
    """Twos, then ones."""
    return torch.tensor([[2] * prefix + [1] * (n - prefix)])


def uniform(n_ctx: int = 32, positions: bool = False):
    """The averaging head in float64; without the one-hot positions in its stream, unless told."""
    model = constructed.uniform_head(d_vocab=6, n_ctx=n_ctx).double()
    if not positions:
        with torch.no_grad():
            model.W_pos.zero_()
    return model


def share_distance(text: list[int], norm: str) -> float:
    """Between the shares of each token in a text and in the same with its last token repeated."""
    x, y = (np.bincount(t, minlength=6) / len(t) for t in (text, [*text, text[-1]]))
    if norm == "relative":
        return 2 * np.linalg.norm(x - y) / (np.linalg.norm(x) + np.linalg.norm(y))
    return np.linalg.norm(x - y, ord=float(norm))


# The averaging head -------------------------------------------------------------------------------


def test_the_averaging_head_follows_its_closed_form_in_every_norm():
    model = uniform()

    @settings(max_examples=25)
    @given(st.lists(st.integers(0, 5), min_size=1, max_size=31))
    def check(tokens):
        for head in ("z", "result"):
            found = collapse(model, *repeated(torch.tensor([tokens])), head=head).heads[:, 0, 0, 0]
            assert found.tolist() == pytest.approx([share_distance(tokens, norm) for norm in NORMS], abs=2e-14)
        law = uniform_law(len(tokens), tokens.count(tokens[-1]))
        assert found[0].item() == pytest.approx(law, abs=2e-14)
        assert found[INF].item() == pytest.approx(law / 2, abs=2e-14)

    check()


def test_the_stream_and_the_logits_of_the_averaging_head_follow_the_same_law():
    found, law = collapse(uniform(), *repeated(ones(20))), uniform_law(20, 17)
    assert found.stream[:, 0].abs().max() == 0  # the same token enters
    assert found.stream[0, 1:, 0].tolist() == pytest.approx([law, law], abs=2e-15)
    assert found.logit_distance.item() == pytest.approx(law / 2, abs=2e-15)
    assert found.margin[:, 0].tolist() == pytest.approx([17 / 20 - 3 / 20, 18 / 21 - 3 / 21], abs=2e-15)
    assert found.same_answer.tolist() == [True]


@pytest.mark.parametrize(("limit", "prefix"), [(-2, lambda n: 3), (-1, lambda n: n // 2)])
def test_a_fixed_prefix_falls_by_two_powers_of_the_length_and_a_fixed_share_by_one(limit, prefix):
    model, lengths = uniform(n_ctx=129), [16, 32, 64, 128]
    found = slope(lengths, [collapse(model, *repeated(ones(n, prefix(n)))).heads[0].item() for n in lengths])
    assert limit < found.value < limit + 1 / 17


def test_the_critical_length_of_the_averaging_head_solves_its_closed_form():
    model, prefix, threshold = uniform(n_ctx=129), 3, 1e-3
    found = critical_length(lambda n: collapse(model, *repeated(ones(n))).heads[0].item() < threshold, 4, 128)
    root = (math.sqrt(1 + 8 * prefix / threshold) - 1) / 2  # 2 p / (n (n + 1)) = threshold
    assert found == math.floor(root) + 1


@pytest.mark.parametrize("format", ["bfloat16", "float8_e4m3fn", "int8"])
def test_the_share_of_identical_coordinates_is_that_of_the_rounded_shares(format):
    model = uniform(n_ctx=65)
    for n in (5, 20, 40, 64):
        found = collapse(model, *repeated(ones(n)), format=format)
        x, y = torch.zeros(2, model.cfg.d_model, dtype=torch.float64)  # the token, no positions, and six shares
        for stream, total in ((x, n), (y, n + 1)):
            stream[1], stream[-5], stream[-4] = 1, (total - 3) / total, 3 / total
        expected = (rounded(x, format) == rounded(y, format)).double().mean().item()
        assert found.identical[1].item() == pytest.approx(expected, abs=1e-15)
        assert found.identical[0].item() == 1


# The identity of one head -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_first_head_without_positions_moves_by_its_weight_on_the_new_key_times_what_it_lacks(seed):
    model = ours(position="none")
    first, second = repeated(text(seed))
    found = collapse(model, first, second).heads[:3, 0]
    with torch.no_grad():
        _, cache = model.run_with_cache(second)
        weight = cache[names.pattern(0)][:, :, -1, -1]
        _, cache = model.run_with_cache(first)
    lacks = cache[names.z(0)][:, -1] - cache["blocks.0.attn.hook_v"][:, -1]
    for norm, row in zip(NORMS[:3], found, strict=True):
        assert (row - weight * lacks.norm(p=float(norm), dim=-1)).abs().max() <= 1e-14


def test_positions_that_turn_every_score_break_the_identity():
    first, second = repeated(text())
    plain, turned = (collapse(ours(position=code), first, second).heads[0, 0] for code in ("none", "rope"))
    assert turned.mean() > 2 * plain.mean()


# What must fail, and the control ------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 20, 31])
def test_positions_in_the_stream_keep_the_texts_apart_while_the_head_collapses(n):
    found = collapse(uniform(positions=True), *repeated(ones(n)))
    law = uniform_law(n, n - 3)
    assert found.stream[0, :, 0].tolist() == pytest.approx([2, 2 + law, 2 + law], abs=2e-14)
    assert found.heads[0].item() == pytest.approx(law, abs=2e-14)


@pytest.mark.parametrize("n", [5, 20, 31])
def test_a_head_that_looks_by_position_never_collapses(n):
    model = constructed.previous_token_head().double()
    found = collapse(model, *repeated(torch.tensor([[*[1] * (n - 1), 2]])))
    assert found.heads[0].item() == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize("n", [4, 8, 16, 32])
def test_averaging_forgets_a_middle_token_with_the_length_and_no_faster(n):
    found = collapse(uniform(), *middle(ones(n, n - 1), 6), pair="middle").heads[:, 0, 0, 0]
    assert found[:3].tolist() == pytest.approx([2 / n, math.sqrt(2) / n, 1 / n], abs=2e-15)


# The pieces ---------------------------------------------------------------------------------------


def test_two_numbers_less_than_a_unit_apart_round_alike_with_the_rest_of_the_probability():
    x = 1 + torch.rand(40_000, generator=generator(0, "offsets"), dtype=torch.float64) / 2
    apart, unit = 2.0**-9, 2.0**-7  # of bfloat16 in [1, 2)
    share = identical(x, x + apart, "bfloat16").item()
    assert abs(share - (1 - apart / unit)) <= 4 * math.sqrt(0.25 * 0.75 / 40_000)


def test_zero_and_minus_zero_are_identical_and_between_zeros_nothing_is_relative():
    assert identical(torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]), "float16").item() == 1
    assert distance(torch.zeros(2), torch.zeros(2), "relative").isnan()


def test_what_is_relative_does_not_depend_on_the_size_of_the_stream_or_of_another_row():
    x, y = torch.randn(2, 5, 7, generator=generator(1), dtype=torch.float64)
    size = 8.0 ** torch.arange(5)[:, None]
    assert (distance(size * x, size * y, "relative") - distance(x, y, "relative")).abs().max() <= 1e-15
    assert (distance(x, -x, "relative") - 2).abs().max() <= 1e-15
    near = x + y / 100
    assert torch.equal(identical(size * x, size * near, "int8"), identical(x, near, "int8"))


def test_a_margin_above_twice_the_difference_settles_the_answer():
    settled = []
    for seed in range(12):
        found = collapse(perturbed(seed), *repeated(text(seed)), norms=["1"])
        sure = 2 * found.logit_distance < found.margin.amax(0)
        assert found.same_answer[sure].all()
        settled.append(sure)
    settled = torch.cat(settled)
    assert settled.any()
    assert not settled.all()


@given(st.integers(1, 200), st.integers(0, 200), st.integers(1, 500))
def test_bisection_finds_the_first_collapsed_length(shortest, reach, threshold):
    longest, asked = shortest + reach, []

    def collapsed(n: int) -> bool:
        asked.append(n)
        return n >= threshold

    found = critical_length(collapsed, shortest, longest)
    assert found == (None if longest < threshold else max(shortest, threshold))
    assert set(asked) <= set(range(shortest, longest + 1))
    assert len(asked) <= 2 + math.ceil(math.log2(max(1, reach)))


def test_a_power_law_has_its_exponent_as_slope_and_noise_its_error():
    n = [10, 20, 40, 80, 160]
    exact = slope(n, [3 * k**-1.5 for k in n])
    assert exact.value == pytest.approx(-1.5, abs=1e-12)
    assert exact.error <= 1e-7  # the root of a residual of rounding size
    noisy = [3 * k**-1.5 * math.exp(e) for k, e in zip(n, [0.1, -0.2, 0.1, 0.05, -0.05], strict=True)]
    (b, _), covariance = np.polyfit(np.log(n), np.log(noisy), 1, cov=True)  # scaled by RSS / (k - 2)
    found = slope(n, noisy)
    assert found.value == pytest.approx(b, rel=1e-12)
    assert found.error == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-9)


# Any model ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", ["repeated", "middle"])
def test_every_reading_is_the_difference_of_two_plain_forward_passes(any_model, pair):
    first, second = (repeated if pair == "repeated" else middle)(text())
    before = trace(any_model)
    found, result = (collapse(any_model, first, second, pair=pair, head=head) for head in ("z", "result"))
    assert same(before, trace(any_model))
    n_layers = any_model.cfg.n_layers
    with torch.no_grad():
        (x, xs), (y, ys) = (any_model.run_with_cache(t) for t in (first, second))
    for layer in range(n_layers):
        a, b = (cache[names.resid_post(layer)][:, -1] for cache in (xs, ys))
        assert (found.stream[0, layer + 1] - (a - b).abs().sum(-1)).abs().max() <= 1e-5
        a, b = (cache[names.z(layer)][:, -1] for cache in (xs, ys))
        assert (found.heads[INF, layer] - (a - b).abs().amax(-1)).abs().max() <= 1e-5
        moved = torch.einsum("bhe,hed->bhd", a - b, any_model.blocks[layer].attn.W_O.detach())
        assert (result.heads[INF, layer] - moved.abs().amax(-1)).abs().max() <= 1e-5
    assert found.stream.shape == (4, n_layers + 2, 3)
    assert (found.logit_distance - (x[:, -1] - y[:, -1]).abs().amax(-1)).abs().max() <= 1e-6
    with torch.no_grad():  # behind the final norm
        a, b = (any_model.ln_final(cache[names.resid_post(n_layers - 1)][:, -1:])[:, 0] for cache in (xs, ys))
    assert (found.stream[0, -1] - (a - b).abs().sum(-1)).abs().max() <= 1e-5
    assert not found.stream.requires_grad


def test_a_text_beside_itself_is_the_same_in_every_respect(any_model):
    found = collapse(any_model, text(), text(), pair="any")
    assert found.stream.abs().max() == found.heads.abs().max() == found.logit_distance.abs().max() == 0
    assert found.identical.min() == 1
    assert found.same_answer.all()


def test_the_order_of_the_texts_does_not_matter():
    first, second = repeated(text())
    there, back = collapse(ours(), first, second), collapse(ours(), first.flip(0), second.flip(0))
    assert (there.stream - back.stream.flip(-1)).abs().max() <= 1e-12
    assert torch.equal(there.same_answer, back.same_answer.flip(0))


def broken():
    model = ours()
    model.embed.W_E.data.fill_(math.nan)
    return model


def without_norm():
    model = HandWritten(d_vocab=9)
    del model.ln_final
    return model


A, B = torch.tensor([[1, 2, 3]]), torch.tensor([[1, 2, 3, 3]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: collapse(ours(), A, torch.tensor([[1, 4, 3, 3]])), "token 4 at position 1, not 2: .* same prefix"),
        (lambda: collapse(ours(), A, torch.tensor([[1, 2, 3, 4]])), "token 4 at position 3, not 3: .* repeat the last"),
        (lambda: collapse(ours(), A, A), "3 and 3 tokens: of a repeated pair the second is one token longer"),
        (lambda: collapse(ours(), A, B, pair="middle"), "3 and 4 tokens: of a middle pair the second is as long"),
        (lambda: collapse(ours(), A, torch.tensor([[1, 2, 4]]), pair="middle"), r"row 0 differs at positions \[2\]"),
        (lambda: collapse(ours(), A, A, pair="middle"), r"row 0 differs at positions \[\]"),
        (lambda: collapse(ours(), A, B.repeat(2, 1)), r"shapes \(1, 3\) and \(2, 4\): a pair needs as many rows"),
        (lambda: collapse(ours(), A, B, pair="twice"), "unknown pair 'twice': it must be one of repeated, middle, any"),
        (lambda: collapse(ours(), *repeated(text(n=16))), "17 tokens goes beyond n_ctx=16"),
        (lambda: collapse(ours(), A, B, norms=["3"]), "unknown norm '3': it must be one of 1, 2, inf, relative"),
        (lambda: collapse(ours(), A, B, head="v"), "unknown head 'v'"),
        (lambda: collapse(ours(), A, B, format="bf16"), "unknown number format 'bf16'"),
        (lambda: collapse(broken(), A, B), "NaN or infinity"),
        (lambda: collapse(without_norm(), A, B), "no module ln_final"),
        (lambda: uniform_law(5, 6), r"copies=6 must lie in \[1, 5\]"),
        (lambda: critical_length(bool, 9, 8), "lengths from 9 to 8"),
        (lambda: slope([1, 2, 2], [1.0, 2.0, 3.0]), "2 different lengths and 3 distances"),
        (lambda: slope([1, 2, 3], [1.0, 2.0, 0.0]), "distance 0 at length 3 has no logarithm"),
    ],
)
def test_what_is_no_pair_or_no_law_is_refused_in_one_line(call, message):
    with pytest.raises(ProbeInputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
