"""The report against plain formulas, its invariance under a change of basis inside a head, and refusals."""

import math

import pytest
import torch

from probes.currying import NAMES, Oracle, compare, curry
from probes.currying.directions import directions
from probes.currying.distances import participation, spectrum, stable_rank
from probes.errors import ProbeInputError
from tests.probes.currying.nets import brief, context, home, net, queries
from tests.probes.models import same, trace
from toy_models.seeding import generator


def report_of(method, model=None, sibling=None, **options):
    model = net() if model is None else model
    curried = curry(model, context(), method, queries(model, 60), **options)
    return curried, compare(curried, Oracle(model, context()), queries(model, seed=1), sibling=sibling)


def test_the_exact_prefix_has_nothing_left_and_none_has_everything():
    _, exact = report_of("kv")
    assert exact.kl.abs() < 1e-12
    assert exact.top1 == 1
    assert exact.entity_error.max() < 1e-12
    assert exact.share_removed == pytest.approx(1, abs=1e-10)
    assert exact.stored_bytes == 2 * 3 * 7 * 12 * 8  # layers, positions, d_model, bytes of a float64
    _, nothing = report_of("none")
    assert nothing.share_removed == 0
    assert torch.equal(nothing.kl, nothing.baseline_kl)
    assert torch.equal(nothing.entity_error, nothing.baseline_entity_error)
    assert not nothing.weight_distance.any()
    assert nothing.qk_distance.max() < 1e-14
    assert nothing.stable_rank.isnan().all()


def test_divergences_and_entity_errors_are_those_of_the_formulas():
    model, asked = net(), queries(net(), seed=1)
    curried, report = report_of("sink")
    oracle = Oracle(model, context())
    p, q = oracle.logits(asked).log_softmax(-1), curried.logits(asked).log_softmax(-1)
    divergence = (p.exp() * (p - q)).sum(-1)
    torch.testing.assert_close(report.kl, divergence.mean(), atol=1e-13, rtol=0)
    torch.testing.assert_close(report.kl_per_position, divergence.mean(0), atol=1e-13, rtol=0)
    torch.testing.assert_close(report.top1, (p.argmax(-1) == q.argmax(-1)).double().mean())
    for name, error in zip(report.sites, report.entity_error, strict=True):
        right, found = oracle.entities(asked)[name], curried.entities(asked)[name]
        expected = (found - right).norm() / (right - right.mean((0, 1))).norm()
        torch.testing.assert_close(error, expected, atol=1e-10, rtol=0)


def test_an_exact_predictor_stands_beside_the_oracle_the_curried_model_and_none():
    model, asked = net(), queries(net(), seed=1)
    curried, oracle = curry(model, context(), "sink", queries(model, 60)), Oracle(net(), context())
    before = oracle.text.shape[1]

    def exact(text):
        """Even over all tokens but BOS, which cannot come."""
        assert torch.equal(text[:, before:], asked)
        assert torch.equal(text[:, :before], oracle.text.expand(len(asked), -1))
        log_p = torch.full((*text.shape, model.cfg.d_vocab), -math.log(model.cfg.d_vocab - 1), dtype=torch.float64)
        log_p[..., 0] = -torch.inf
        return log_p

    found = compare(curried, oracle, asked, exact=exact).exact_kl
    even, said = 1 / (model.cfg.d_vocab - 1), (oracle.logits(asked), curried.logits(asked))
    for value, logits in zip(found, (*said, oracle.bare.read(model, asked)[0]), strict=True):
        q = logits.double().log_softmax(-1)[..., 1:]
        torch.testing.assert_close(value, (even * (math.log(even) - q)).sum(-1).mean(), atol=1e-12, rtol=0)
    assert compare(curried, oracle, asked).exact_kl is None


def test_with_a_gradient_the_report_has_the_directions():
    model, asked = net(), queries(net(), seed=1)
    curried, oracle = curry(model, context(), "sink", queries(model, 60)), Oracle(net(), context())
    gradient = {name: -change for name, change in curried.weight_update.items()}
    found = compare(curried, oracle, asked, gradient=gradient).directions
    assert found.cosine == pytest.approx(1, abs=1e-12)
    assert torch.equal(found.within.share, directions(curried, oracle, asked, gradient).within.share)
    assert compare(curried, oracle, asked).directions is None


def test_chunks_add_up_to_the_whole(monkeypatch):
    _, whole = report_of("sink")
    monkeypatch.setattr("probes.currying.report.CHUNK", 5 * 9 * 7)
    _, parts = report_of("sink")
    torch.testing.assert_close(parts.kl_per_position, whole.kl_per_position, atol=1e-13, rtol=0)
    torch.testing.assert_close(parts.entity_error, whole.entity_error, atol=1e-10, rtol=0)


def test_one_oracle_for_several_reports_gives_what_a_new_one_gives_for_each():
    model = net()
    shared, fit = Oracle(model, context()), queries(model, 60)
    for method, positions, seed in (("sink", "restart", 1), ("none", "shift", 1), ("steer", "restart", 2)):
        curried, held = curry(model, context(), method, fit, positions=positions), queries(model, seed=seed)
        for _ in range(2):
            again, anew = (compare(curried, oracle, held) for oracle in (shared, Oracle(model, context())))
            for name in ("kl", "baseline_kl", "baseline_entity_error", "rho", "gate"):
                assert torch.equal(getattr(again, name), getattr(anew, name))


def test_entities_that_hardly_differ_are_measured_by_their_size():
    model = net("no positions, attention only", n_layers=1)
    with torch.no_grad():
        model.W_E[:] = 100 * model.W_E[0] / model.W_E[0].norm()
    _, report = report_of("none", model)
    right = Oracle(model, context()).entities(queries(model, seed=1))["blocks.0.hook_resid_post"]
    found = curry(model, context(), "none").entities(queries(model, seed=1))["blocks.0.hook_resid_post"]
    torch.testing.assert_close(report.entity_error[0], (found - right).norm() / (0.03 * right.norm()))


def test_ranks_of_a_matrix_with_known_singular_values():
    s = spectrum(torch.diag(torch.tensor([4.0, 2.0, 2.0])))
    torch.testing.assert_close(s, torch.tensor([4.0, 2.0, 2.0], dtype=torch.float64))
    assert stable_rank(s).item() == pytest.approx(24 / 16)
    assert participation(s).item() == pytest.approx(24**2 / (256 + 16 + 16))
    assert spectrum(torch.tensor([3.0, 4.0])).tolist() == [5.0]


@pytest.mark.parametrize(("shape", "writes", "expected"), [((2, 5, 7), False, (5, 14)), ((2, 5, 7), True, (10, 7))])
def test_heads_stand_side_by_side_in_a_spectrum(shape, writes, expected):
    weight = torch.randn(shape, generator=generator(0, "spectrum"), dtype=torch.float64)
    flat = weight.flatten(0, 1) if writes else weight.transpose(0, 1).flatten(1)
    assert flat.shape == expected
    torch.testing.assert_close(spectrum(weight, writes), torch.linalg.svdvals(flat))


def in_another_basis(model):
    """The same function: queries and keys, values and outputs of every head in other coordinates."""
    with torch.no_grad():
        for layer, block in enumerate(model.blocks):
            attn = block.attn
            a, b = torch.randn(2, *attn.W_Q.shape[:1], 6, 6, generator=generator(layer, "basis"), dtype=torch.float64)
            back_a, back_b = torch.linalg.inv(a), torch.linalg.inv(b)
            attn.W_Q.copy_(attn.W_Q @ back_a.transpose(1, 2))
            attn.b_Q.copy_((attn.b_Q[:, None] @ back_a.transpose(1, 2))[:, 0])
            attn.W_K.copy_(attn.W_K @ a)
            attn.b_K.copy_((attn.b_K[:, None] @ a)[:, 0])
            attn.W_V.copy_(attn.W_V @ b)
            attn.b_V.copy_((attn.b_V[:, None] @ b)[:, 0])
            attn.W_O.copy_(back_b @ attn.W_O)
    return model


def test_a_change_of_basis_inside_the_heads_leaves_oracle_and_gauge_free_distances_alone():
    plain, turned = net("no positions, attention only"), in_another_basis(net("no positions, attention only"))
    asked = queries(plain, seed=1)
    gap = Oracle(plain, context()).logits(asked) - Oracle(turned, context()).logits(asked)
    assert gap.abs().max() < 1e-10
    one, two = (report_of("sink", model, ridge=0.0)[1] for model in (plain, turned))
    for name in ("kl", "qk_distance", "ov_distance", "rho", "gate", "entity_error"):
        torch.testing.assert_close(getattr(two, name), getattr(one, name), atol=1e-10, rtol=1e-9)
    assert (two.weight_distance - one.weight_distance).abs().max() > 1e-3


def test_gauge_free_distances_are_those_of_the_products_written_out():
    curried, report = report_of("sink")
    base, new = net().blocks[1].attn, curried.model.blocks[1].attn

    def product(attn):
        q = torch.cat([attn.W_Q, attn.b_Q[:, None]], dim=1)
        k = torch.cat([attn.W_K, attn.b_K[:, None]], dim=1)
        return q @ k.transpose(1, 2)

    expected = (product(new) - product(base)).norm(dim=(1, 2)) / product(base).norm(dim=(1, 2))
    torch.testing.assert_close(report.qk_distance[1], expected.detach(), atol=1e-10, rtol=0)


def test_a_sibling_as_good_as_the_curried_model_leaves_no_context_share():
    model = net()
    twin = curry(model, context(), "sink", queries(model, 60))
    _, report = report_of("sink", sibling=twin)
    assert abs(report.context_share) < 1e-12
    far = curry(model, context(seed=7), "sink", queries(model, 60))
    other = report_of("sink", sibling=far)[1]
    left = compare(far, Oracle(model, context()), queries(model, seed=1)).kl
    assert other.context_share == pytest.approx(1 - (other.kl / left).item(), abs=1e-12)


def test_a_share_of_nothing_is_undefined():
    model = net()
    report = compare(curry(model, context(0), "none"), Oracle(model, context(0)), queries(model))
    assert report.share_removed is None
    assert report.rho.isnan().all()


@pytest.mark.parametrize("method", NAMES)
def test_the_report_leaves_both_models_as_they_were(method):
    model = home(method)
    curried = curry(model, context(), method, queries(model, 60), **brief(method))
    before = trace(model), trace(curried.model)
    compare(curried, Oracle(model, context()), queries(model, seed=1))
    assert same(before[0], trace(model))
    assert same(before[1], trace(curried.model))


def test_every_method_reports_finite_numbers_and_its_cost():
    for method in NAMES:
        curried, report = report_of(method, home(method), **brief(method))
        numbers = (report.kl, report.entity_error, report.weight_distance, report.qk_distance, report.ov_distance)
        assert all(value.isfinite().all() for value in numbers)
        assert math.isfinite(report.share_removed)
        assert report.token_forwards == curried.token_forwards
        assert (report.stored_bytes == 0) == (method == "none")


def test_queries_that_were_fitted_on_and_oracles_of_other_weights_are_refused():
    model = net()
    fit = queries(model, 60)
    curried = curry(model, context(), "sink", fit)
    mixed = torch.cat([queries(model, seed=1), fit[:3]])
    with pytest.raises(ProbeInputError, match="3 of 27 queries were fitted on"):
        compare(curried, Oracle(model, context()), mixed)
    other = net("learned, LN")
    with pytest.raises(ProbeInputError, match="make both from the same model"):
        compare(curried, Oracle(other, context()), queries(other, seed=1))
