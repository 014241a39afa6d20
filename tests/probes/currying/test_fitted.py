"""Fits by descent: the objective, the order that nesting implies, ranks, penalties, costs, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.currying import Fit, Oracle, compare, curry
from probes.currying.distances import spectrum
from probes.currying.fitted import Problem, lora, lsq
from probes.currying.least_squares import lsq_o
from probes.currying.objective import Objective, descend
from probes.currying.sink import sink
from probes.errors import ProbeInputError
from tests.probes.currying.nets import context, net, queries
from tests.probes.models import same, trace
from toy_models.seeding import generator

FEW = {"steps": 12, "batch": 20}


def small(kind: str = "rope, RMS, gated", **options):
    return net(kind, n_layers=2, **options)


def reached(oracle: Oracle, fit, asked: torch.Tensor, objective: str = "entity") -> float:
    """The objective of a fit whose weights say it all."""
    problem = Problem(oracle, asked, tuple("QKVO"), objective, 0.0, 64)
    return problem.total(problem.within(fit.weight_update))


@pytest.mark.parametrize("batch", [7, 64])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_the_objectives_are_those_of_the_report_however_queries_are_batched(batch, offset):
    """Also where entities are long beside what they differ by, so that the floor counts."""
    model, asked = net(), queries(net(), 20)
    with torch.no_grad():
        model.blocks[0].attn.b_O.add_(offset)
    oracle = Oracle(model, context())
    report = compare(curry(model, context(), "none"), oracle, asked)
    entity, kl = (Objective(oracle, asked, name, batch).total(model, oracle.bare) for name in ("entity", "kl"))
    assert entity == pytest.approx(report.entity_error.square().mean().item(), rel=1e-12)
    assert kl == pytest.approx(report.kl.item(), rel=1e-12)


@pytest.mark.parametrize("objective", ["entity", "kl"])
def test_batches_add_up_to_the_gradient_that_differences_give(objective):
    model, asked = small("grouped"), queries(net(), 15)
    problems = [Problem(Oracle(model, context()), asked, ("K", "O"), objective, 0.5, batch) for batch in (4, 15)]
    at = {
        name: 0.1 * torch.randn(weight.shape, generator=generator(0, name), dtype=torch.float64)
        for name, weight in problems[0].base.items()
    }
    some, whole = (problem.gradient(at) for problem in problems)
    for name, slope in whole.items():
        torch.testing.assert_close(some[name], slope, atol=1e-12, rtol=1e-10)
        way = torch.randn(slope.shape, generator=generator(1, name)).double()
        up, down = (problems[1].total({**at, name: at[name] + sign * 1e-5 * way}) for sign in (1, -1))
        assert (up - down) / 2e-5 == pytest.approx((slope * way).sum().item(), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("objective", ["entity", "kl"])
@pytest.mark.parametrize("kind", ["grouped", "learned, LN"])
def test_more_freedom_never_does_worse_on_what_was_fitted(kind, objective):
    """none >= sink >= lora of rank 1 >= lsq, and lora's own steps are not for nothing."""
    model, fit = small(kind), queries(net(), 40)
    oracle = Oracle(model, context())
    begun = reached(oracle, sink(oracle, fit), fit, objective)
    narrow = reached(oracle, lora(oracle, fit, rank=1, objective=objective, **FEW), fit, objective)
    broad = reached(oracle, lora(oracle, fit, rank=4, objective=objective, **FEW), fit, objective)
    free = reached(oracle, lsq(oracle, fit, objective=objective, **FEW), fit, objective)
    assert narrow < begun
    assert broad < begun
    assert free <= 1.05 * min(narrow, broad)


@pytest.mark.parametrize("rank", [1, 3])
def test_lora_has_the_rank_asked_for_in_every_matrix_and_uses_it(rank):
    found = lora(Oracle(small(), context()), queries(net(), 40), rank=rank, **FEW).weight_update
    assert set(found) == {f"blocks.{layer}.attn.W_{part}" for layer in range(2) for part in "QKVO"}
    for name, change in found.items():
        s = spectrum(change, writes=name.endswith("W_O"))
        assert s[rank] < 1e-12 * s[0]
        assert s[rank - 1] > 1e-9 * s[0]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), rank=st.integers(1, 12))
def test_factors_of_rank_r_hold_the_nearest_change_and_of_full_rank_every_change(seed, rank):
    """Eckart and Young: what rank r leaves out is what lies beyond the r-th singular value; at full rank nothing."""
    oracle, fit = _one_layer()
    start = {"blocks.0.attn.W_O": torch.randn(2, 6, 12, generator=generator(seed, "W_O"), dtype=torch.float64)}
    found = _lora_from(oracle, fit, start, rank)["blocks.0.attn.W_O"]
    s = spectrum(start["blocks.0.attn.W_O"], writes=True)
    left = (found - start["blocks.0.attn.W_O"]).norm()
    assert left.item() == pytest.approx(s[rank:].square().sum().sqrt().item(), abs=1e-10)


def _one_layer():
    return Oracle(net("no positions, attention only", n_layers=1), context()), queries(net(), 10)


def _lora_from(oracle, fit, start, rank):
    """Lora without a step, begun at a change of one's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("probes.currying.fitted.lsq_o", lambda *_: Fit(start))
        return lora(oracle, fit, rank=rank, parts=("O",), start="lsq_o", steps=0).weight_update


def test_lora_of_full_rank_begins_at_the_closed_form_and_ends_where_whole_matrices_do():
    """Group 9: with r = d the columns span everything, so W_O alone, a convex problem, comes to the same value."""
    oracle, fit = _one_layer()
    begun = lsq_o(oracle, fit).weight_update["blocks.0.attn.W_O"]
    held = lora(oracle, fit, rank=12, parts=("O",), steps=0).weight_update["blocks.0.attn.W_O"]
    torch.testing.assert_close(held, begun, atol=1e-10, rtol=0)
    exact, bare = reached(oracle, lsq_o(oracle, fit, ridge=0.0), fit), reached(oracle, Fit({}), fit)
    options = {"parts": ("O",), "start": "none", "steps": 80, "lr": 0.1}
    fits = [lora(oracle, fit, rank=12, **options), lsq(oracle, fit, **options), lora(oracle, fit, rank=1, **options)]
    left = [(reached(oracle, made, fit) - exact) / (bare - exact) for made in fits]
    assert min(left) > -1e-12
    assert max(left[:2]) < 0.02
    assert left[2] > 0.2


@pytest.mark.parametrize("method", [lsq, lora])
def test_without_a_step_the_best_closed_form_is_handed_back(method):
    oracle, fit = Oracle(small(), context()), queries(net(), 40)
    forms = {"K": sink(oracle, fit, parts=("K",)), "KV": sink(oracle, fit), "O": lsq_o(oracle, fit)}
    for parts, form in forms.items():
        options = {"rank": 12} if method is lora else {}
        found = method(oracle, fit, parts=tuple(parts), steps=0, **options).weight_update
        least = min(reached(oracle, form, fit), reached(oracle, Fit({}), fit))
        assert reached(oracle, Fit(found), fit) == pytest.approx(least, rel=1e-9)


def test_a_penalty_shortens_the_update():
    oracle, fit = Oracle(small(), context()), queries(net(), 40)
    free, held = (lsq(oracle, fit, reg=reg, start="none", lr=0.03, **FEW).weight_update for reg in (0.0, 10.0))
    assert sum(c.norm() for c in held.values()) < 0.7 * sum(c.norm() for c in free.values())


def test_every_objective_is_best_served_by_the_fit_to_it():
    oracle, fit = Oracle(small(), context()), queries(net(), 40)
    made = {name: lsq(oracle, fit, objective=name, steps=40, batch=40) for name in ("entity", "kl")}
    for name, other in (("entity", "kl"), ("kl", "entity")):
        assert reached(oracle, made[name], fit, name) < reached(oracle, made[other], fit, name)


def test_costs_count_every_token_forward_and_backward():
    """40 queries of 5, BOS before each, 6 tokens and BOS of context; a look at all costs 240, a step 720."""
    oracle, fit = Oracle(small(), context()), queries(net(), 40)
    once, still = 7 + 200, 2 * 240
    found = lsq(oracle, fit, start="none", steps=0)
    assert found.token_forwards == once + still
    assert lsq(oracle, fit, start="none", steps=2).token_forwards == once + still + 2 * (720 + 240)
    assert lora(oracle, fit, start="none", steps=0).token_forwards == once + still + 720
    begun = sink(oracle, fit).token_forwards
    assert lsq(oracle, fit, start="sink", steps=0).token_forwards == once + still + begun
    assert found.stored == 2 * 4 * 12 * 12
    assert lora(oracle, fit, rank=3, start="none", steps=0).stored == 2 * 4 * 3 * (12 + 12)


@pytest.mark.parametrize("method", [lsq, lora])
def test_gradients_are_on_inside_alone(method):
    model = small()
    before = trace(model)
    with torch.no_grad():
        quiet = method(Oracle(model, context()), queries(net(), 20), steps=2).weight_update
    loud = method(Oracle(model, context()), queries(net(), 20), steps=2).weight_update
    assert all(torch.equal(change, loud[name]) and not change.requires_grad for name, change in quiet.items())
    assert same(before, trace(model))
    assert all(weight.grad is None for weight in model.parameters())


def test_descent_keeps_the_best_that_it_has_seen():
    """A step size that only makes things worse leaves everything where it was."""
    leaf = torch.full((3,), 1e-6, dtype=torch.float64)

    def loss(i: int = 0) -> torch.Tensor:
        return leaf.square().sum()

    assert descend([leaf], [1.0], loss, lambda: loss().item(), 1, 3) == pytest.approx(3e-12)
    assert (leaf == 1e-6).all()
    assert not leaf.requires_grad
    leaf += 2
    assert descend([leaf], [0.1], loss, lambda: loss().item(), 1, 60) < 1


def test_what_cannot_be_fitted_is_refused_in_one_line():
    def refused(match, model=None, method="lsq", **options):
        with pytest.raises(ProbeInputError, match=match) as caught:
            curry(model or small(), context(), method, queries(net(), 20), **options)
        assert "\n" not in str(caught.value)

    refused(r"parts=\('X',\) must be some of Q, K, V, O", parts=("X",))
    refused("objective='kll' must be one of entity, kl", objective="kll")
    refused("reg=-1.0 must be 0 or more", reg=-1.0)
    refused("steps=-1 must be 0 or more", steps=-1)
    refused("batch=0 must be at least 1", batch=0)
    refused("start='sinc' must be one of best, none, sink, lsq_o", start="sinc")
    refused(r"start='sink' changes none of parts=\('Q',\)", start="sink", parts=("Q",))
    refused(r"rank=0 must lie between 1 and 12", method="lora", rank=0)
    refused(r"rank=13 must lie between 1 and 12", method="lora", rank=13)
    refused(r"the search begins at closed forms: .*bos_id=<its token>; or give start='none'", small(bos_id=None))
    assert curry(small(bos_id=None), context(), "lsq", queries(net(), 20), start="none", steps=1).weight_update
