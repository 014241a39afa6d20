"""One patch for every token: the patches condensed, their optimality, and what a single one is worth elsewhere."""

import pytest
import torch

from probes.currying import Oracle, compare, curry, interpolate
from probes.currying.distances import spectrum
from probes.currying.token_patch import patches
from probes.errors import ProbeInputError
from tests.probes.currying.nets import KINDS, context, net, queries

WITH_MLP = [kind for kind in KINDS if "attention only" not in kind]


@pytest.mark.parametrize("shared", ["lsq", "mean", "one"])
@pytest.mark.parametrize("kind", WITH_MLP)
def test_it_lives_in_weight_space_in_every_configuration(kind, shared):
    model = net(kind)
    curried = curry(model, context(), "shared_patch", queries(model, 60), shared=shared)
    assert curried.same_space
    names = {name.rsplit(".", 1)[1] for name in curried.weight_update}
    matrices = {"W_in", "W_gate"} if model.cfg.gated_mlp else {"W_in"}
    assert names == matrices | {"b_out"} | ({"b_in"} if shared == "lsq" and not model.cfg.gated_mlp else set())
    report = compare(interpolate(curried, 1.0), Oracle(model, context()), queries(model, seed=1))
    assert report.kl.isfinite()


def test_one_and_mean_are_made_of_the_tokens_own_patches():
    model, fit = net("learned, LN"), queries(net("learned, LN"), 60)
    first = patches(Oracle(model, context()), fit)[0]
    one, mean = (
        curry(model, context(), "shared_patch", fit, shared=shared).weight_update for shared in ("one", "mean")
    )
    for name, change in first.weight_update(model, 0, 0, fit.shape[1] - 1).items():
        torch.testing.assert_close(one[name], change, atol=1e-12, rtol=0)
        rows = [first.weight_update(model, 0, row, i)[name] for row in range(len(fit)) for i in range(fit.shape[1])]
        torch.testing.assert_close(mean[name], torch.stack(rows).mean(0), atol=1e-12, rtol=0)
    s = spectrum(one["blocks.1.mlp.W_in"])
    assert s[1] / s[0] < 1e-12


@pytest.mark.parametrize("positions", ["restart", "shift"])
@pytest.mark.parametrize("kind", WITH_MLP)
def test_least_squares_leave_nothing_that_an_affine_map_could_still_say(kind, positions):
    """In every layer, behind the edits below: what is missing before the MLP is orthogonal to what it reads, and to 1
    where there is a bias; what is missing behind it has mean zero."""
    model, fit = net(kind), queries(net(kind), 60)
    curried = curry(model, context(), "shared_patch", fit, positions=positions, ridge=0.0)
    oracle = Oracle(model, context(), positions)
    before = [f"blocks.{layer}.mlp" for layer in range(3)]
    goal, now = mlp_traffic(oracle.model, oracle.past, fit), mlp_traffic(curried.model, curried.reader, fit)
    for layer, name in enumerate(before):
        (a_context, wide), (a, base) = goal[layer], now[layer]
        old, new = model.get_parameter(f"{name}.W_in"), curried.model.get_parameter(f"{name}.W_in")
        moved = curried.model.get_parameter(f"{name}.b_in") - model.get_parameter(f"{name}.b_in")
        left = (a_context @ old - a @ new - (0 if model.cfg.gated_mlp else moved)).flatten(0, 1)
        assert (a.flatten(0, 1).T @ left).abs().max() < 1e-8
        if not model.cfg.gated_mlp:
            assert left.sum(0).abs().max() < 1e-8
        assert model.cfg.parallel_attn_mlp or left.abs().max() > 1e-3  # there the first MLP reads what it read
        assert (wide - base).mean((0, 1)).abs().max() < 1e-12


@torch.no_grad()
def mlp_traffic(model, reader, asked):
    """Per layer what the MLP reads, and the stream that it leaves before any norm, at the query's rows."""
    seen = []

    def keep(module, given, written):
        seen.append((given[0][:, -asked.shape[1] :], written[:, -asked.shape[1] :]))

    handles = [block.mlp.register_forward_hook(keep) for block in model.blocks]
    names = [f"blocks.{layer}.hook_{site}" for layer in range(3) for site in ("resid_pre", "attn_out", "resid_mid")]
    _, cache = reader.read(model, asked, [name for name in names if name in model.hook_dict])
    for handle in handles:
        handle.remove()
    found = []
    for layer, (read, written) in enumerate(seen):
        mid = cache.get(f"blocks.{layer}.hook_resid_mid")
        if mid is None:
            mid = cache[f"blocks.{layer}.hook_resid_pre"] + cache[f"blocks.{layer}.hook_attn_out"]
        found.append((read, mid + written))
    return found


def test_with_as_many_rows_as_free_numbers_every_hidden_unit_is_the_oracles():
    """Thirteen rows, twelve coordinates and a bias: nothing is left on what was fitted, and something beyond."""
    model = net("learned, LN", n_layers=1, normalization_type=None)
    fit, asked, hidden = queries(model, 1, 13), queries(model, 1, 13, seed=1), "blocks.0.mlp.hook_pre"
    curried, oracle = curry(model, context(), "shared_patch", fit, ridge=0.0), Oracle(model, context())

    def gap(rows):
        return (curried.read(rows, [hidden])[1][hidden] - oracle.read(rows, [hidden])[1][hidden]).abs().max()

    assert gap(fit) < 1e-9
    assert gap(asked) > 1e-3


def test_the_fitted_map_is_nearer_on_what_it_was_fitted_to_than_one_tokens_patch():
    model, fit = net("learned, LN"), queries(net("learned, LN"), 60)
    oracle, gap = Oracle(model, context()), {}
    for shared in ("lsq", "mean", "one"):
        curried = curry(model, context(), "shared_patch", fit, shared=shared)
        name = "blocks.0.hook_resid_post"
        gap[shared] = (curried.read(fit, [name])[1][name] - oracle.read(fit, [name])[1][name]).norm()
    assert gap["lsq"] < gap["mean"] < gap["one"]


def test_what_is_kept_is_counted():
    model, fit = net("learned, LN"), queries(net("learned, LN"), 60)
    d, bytes_each = model.cfg.d_model, 8
    kept = {"lsq": d * d + 2 * d, "mean": d * d + d, "one": 3 * d}
    for shared, numbers in kept.items():
        curried = curry(model, context(), "shared_patch", fit, shared=shared)
        assert curried.stored_bytes == 3 * numbers * bytes_each
        passes = 3 if shared == "lsq" else 2
        assert curried.token_forwards == 7 + 60 * 5 + passes * 60 * 6


def test_unknown_ways_and_too_few_rows_are_refused_in_one_line():
    model = net("learned, LN")
    with pytest.raises(ProbeInputError, match="shared='all' must be one of lsq, mean, one"):
        curry(model, context(), "shared_patch", queries(model, 60), shared="all")
    with pytest.raises(ProbeInputError, match="10 query rows cannot fix 13 numbers per target"):
        curry(model, context(), "shared_patch", queries(model, 5, 2))
