"""What the methods find, exactly: nothing in an empty context, and what their own equations say elsewhere."""

import inspect

import torch

from analyses.core import calibration
from analyses.currying.exact.contexts import ROUNDING, THEORY
from analyses.currying.exact.models import KINDS, asked, constant, context, differing, every, fit, random

ORTHOGONAL = 1e-9  # a sum over some hundred rows, of what a least-squares solver leaves
STACKED = 1e-10  # closed forms behind one another, layer by layer
BLIND = 1e-10  # the root of a mean square, through a direction found with damping

EMPTY, SINK, ANY, LSQ, PATH = "empty context", "sink, constant queries", "sink, any model", "lsq_o", "between W and W'"
PATCH = "token_patch"
QUERIES_DIFFER, MID = "queries that differ: logits", "behind attention"
EXACT = {"ridge": 0.0, "damping": 1e-14}
# Solved as for any context; iterative methods start from these.
CLOSED = ("sink", "lsq_o", "steer", "shared_patch")
DHERIN = "Dherin et al. 2025, arXiv:2507.16003, theorem 2.2; Goldwaser et al. 2025, arXiv:2511.17864"

QUANTITIES = {
    (EMPTY, THEORY): (
        ("any method: weights changed", "1", 0.0, "W' = W bit for bit, by all that take a context", "identity"),
        ("solved all the same: largest change", "1", STACKED, "closed forms find nothing, over W", "identity"),
        ("base model afterwards", "1", 0.0, "no closed form changes the model it is given, bit for bit", "identity"),
    ),
    (SINK, THEORY): (
        ("logits", "1", ROUNDING, "rank one is exact where all queries are the same", "identity"),
        ("entities", "1", ROUNDING, "and so is every entity, over the largest", "identity"),
        ("two contexts: logits", "1", ROUNDING, "C_{C(x1)}(x2) = C(x1 x2)", "identity"),
        ("two contexts: W' of layer 0", "1", ROUNDING, "where all read the same: W' agrees, over W", "identity"),
        ("BOS's score", "nats", ROUNDING, "it is the log-sum-exp of BOS and context"),
        ("BOS's value", "1", ROUNDING, "it is the average of BOS and context"),
        ("leakage, its root", "1", BLIND, "no other token reads the change"),
    ),
    (ANY, THEORY): (
        ("second singular value", "1", ROUNDING, "W_K and W_V change by rank one, over all heads", "identity"),
        ("u . b", "1", ROUNDING, "BOS reads exactly 1 of the edit", "identity"),
    ),
    (LSQ, THEORY): (
        ("z^T (R - z D)", "1", ORTHOGONAL, "without a ridge what is missing is orthogonal to z", "identity"),
        ("as many numbers as rows: stream", "1", ORTHOGONAL, "then the stream behind attention is the oracle's"),
    ),
    (PATH, THEORY): (
        ("alpha = 1: weights", "1", 0.0, "interpolation ends at W', bit for bit", "identity"),
        ("alpha = 0: logits", "1", ROUNDING, "and starts at W", "identity"),
    ),
    (PATCH, DHERIN): (
        ("behind every block", "1", ROUNDING, "a patch per token makes the stream the oracle's", "identity"),
        ("second singular value", "1", ROUNDING, "every patch is of rank one", "identity"),
    ),
}  # fmt: skip
DIFFERENT = {
    (SINK, QUERIES_DIFFER): "One key cannot score for queries that differ: the logits of sink",
    (PATCH, MID): "The MLPs make up for the context; behind attention the stream is another: entities over the largest",
}


@torch.no_grad()
def read(seed: int) -> calibration.Readings:
    """Every quantity of QUANTITIES and DIFFERENT at one seed."""
    parts = (_empty(seed), _sink(seed), _bos(seed), _any(seed), _lsq(seed), _path(seed), _patch(seed))
    return {key: pair for part in parts for key, pair in part.items()}


def _changed(one, other) -> int:
    """How many numbers of two models differ, bit for bit."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return sum((a != b).sum().item() for a, b in pairs)


def _over(found: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The largest difference over the largest value."""
    return (found - right).abs().max() / right.abs().max()


def _worst(found: dict[str, torch.Tensor], right: dict[str, torch.Tensor], sites: str) -> torch.Tensor:
    """The worst entity of those whose hook ends like this."""
    return torch.stack([_over(found[name], right[name]) for name in right if name.endswith(sites)]).max()


def _empty(seed: int) -> calibration.Readings:
    from probes.currying import NAMES, Oracle, curry
    from probes.currying.curried import method_called

    model, before = random(seed, "rope, RMS, gated"), random(seed, "rope, RMS, gated")
    nothing, tried = torch.tensor([], dtype=torch.long), fit(model, seed)
    changed = [_changed(curry(model, nothing, name, tried).model, model) for name in NAMES if _takes_context(name)]
    solved = []
    for name in CLOSED:
        update = method_called(name, {})(Oracle(model, nothing), tried).weight_update
        size = {key: max(model.get_parameter(key).abs().max(), torch.tensor(1.0)) for key in update}
        solved += [change.abs().max() / size[key] for key, change in update.items()]
        curry(model, context(model, seed), name, tried)
    return {
        (EMPTY, "any method: weights changed"): (changed, 0.0),
        (EMPTY, "solved all the same: largest change"): (torch.stack(solved), 0.0),
        (EMPTY, "base model afterwards"): (_changed(model, before), 0.0),
    }


def _takes_context(name: str) -> bool:
    """`finetune` takes samples instead."""
    from probes.currying.curried import method_called

    return "samples" not in inspect.signature(method_called(name, {})).parameters


def _sink(seed: int) -> calibration.Readings:
    from probes.currying import Oracle, compare, compose, curry

    model = constant(seed)
    words, more, queries, tried = (
        context(model, seed),
        context(model, seed, "second"),
        asked(model, seed),
        fit(model, seed),
    )
    oracle, curried = Oracle(model, words), curry(model, words, "sink", tried, **EXACT)
    joined = curry(model, torch.cat([words, more]), "sink", tried, **EXACT)
    twice = compose(curried, more)
    # Above, the second edit reads BOS by another of the directions that only BOS has: outputs agree, W' need not.
    lowest = [f"blocks.0.attn.W_{part}" for part in "KV"]
    apart = [(twice.weight_update[name] - joined.weight_update[name]).abs().max() for name in lowest]
    apart = [gap / model.get_parameter(name).abs().max() for gap, name in zip(apart, lowest, strict=True)]
    other = differing(seed)
    missed = curry(other, words, "sink", tried, **EXACT).logits(queries)
    return {
        (SINK, "logits"): (curried.logits(queries), oracle.logits(queries)),
        (SINK, "entities"): (_worst(curried.entities(queries), oracle.entities(queries), ""), 0.0),
        (SINK, "two contexts: logits"): (twice.logits(queries), joined.logits(queries)),
        (SINK, "two contexts: W' of layer 0"): (torch.stack(apart), 0.0),
        (SINK, "leakage, its root"): (compare(curried, oracle, queries).leakage.sqrt(), 0.0),
        (SINK, QUERIES_DIFFER): (missed, Oracle(other, words).logits(queries)),
    }


def _bos(seed: int) -> calibration.Readings:
    """Layer 0, whose input is the same in both models."""
    from probes.currying import Oracle, curry

    model = constant(seed)
    words, queries = context(model, seed), asked(model, seed)
    oracle, curried = Oracle(model, words), curry(model, words, "sink", fit(model, seed), **EXACT)
    scores, values = "blocks.0.attn.hook_attn_scores", "blocks.0.attn.hook_v"
    group = oracle.read(queries, [scores])[1][scores][..., : 1 + len(words)]
    average = torch.einsum("bhqk,khe->bqhe", group.softmax(-1), oracle.values[0][0])
    now = curried.read(queries, [scores])[1][scores][..., 0]
    _, cache = curried.model.run_with_cache(curried.reader.text(queries)[:1], names_filter=[values])
    return {
        (SINK, "BOS's score"): (now, group.logsumexp(-1)),
        (SINK, "BOS's value"): (cache[values][0, 0], average),
    }


def _any(seed: int) -> calibration.Readings:
    from probes.currying import curry
    from probes.currying.distances import spectrum
    from probes.currying.solving import reading_direction

    second, read = [], []
    for model in every(seed):
        curried = curry(model, context(model, seed), "sink", fit(model, seed))
        spectra = [spectrum(change) for change in curried.weight_update.values()]
        second += [s[1] / s[0] for s in spectra]
        text = curried.reader.text(fit(model, seed))
        stream = curried.model(text, stop_at_layer=1)
        own, others = stream[0, 0], stream[:, 1:].flatten(0, 1)
        read.append(reading_direction(own, others, 1e-3) @ own)
    return {(ANY, "second singular value"): (torch.stack(second), 0.0), (ANY, "u . b"): (torch.stack(read), 1.0)}


def _lsq(seed: int) -> calibration.Readings:
    from probes.currying import Oracle, curry

    sums = []
    for model in every(seed):
        words, tried = context(model, seed), fit(model, seed)
        names = [f"blocks.{layer}.{name}" for layer in range(model.cfg.n_layers) for name in LOOKED_AT]
        goal = Oracle(model, words).read(tried, names)[1]
        now = curry(model, words, "lsq_o", tried, ridge=0.0).read(tried, names)[1]
        for layer in range(model.cfg.n_layers):
            before, written, z = (f"blocks.{layer}.{name}" for name in LOOKED_AT)
            left = (goal[before] + goal[written] - now[before] - now[written]).flatten(0, 1)
            sums.append((now[z].flatten(0, 1).flatten(1).T @ left).abs().max())
    small = random(seed, "learned, LN", n_layers=1, n_heads=1, d_head=4)
    words, rows = context(small, seed), torch.arange(4)[:, None]
    site = "blocks.0.hook_resid_mid"
    found = curry(small, words, "lsq_o", rows, ridge=0.0).entities(rows)[site]
    return {
        (LSQ, "z^T (R - z D)"): (torch.stack(sums), 0.0),
        (LSQ, "as many numbers as rows: stream"): (found, Oracle(small, words).entities(rows)[site]),
    }


LOOKED_AT = ("hook_resid_pre", "hook_attn_out", "attn.hook_z")


def _path(seed: int) -> calibration.Readings:
    from probes.currying import curry, interpolate

    model = random(seed, "rope, RMS, gated")
    curried = curry(model, context(model, seed), "sink", fit(model, seed))
    queries = asked(model, seed)
    bare = curry(model, context(model, seed), "none").logits(queries)
    return {
        (PATH, "alpha = 1: weights"): (_changed(interpolate(curried, 1.0).model, curried.model), 0.0),
        (PATH, "alpha = 0: logits"): (interpolate(curried, 0.0).logits(queries), bare),
    }


def _patch(seed: int) -> calibration.Readings:
    """Every kind that has MLPs; where they stand beside attention, which they do not hear, no matrix changes."""
    from probes.currying import Oracle, curry
    from probes.currying.distances import spectrum
    from probes.currying.token_patch import patches

    behind, between, second = [], [], []
    for kind, options in KINDS.items():
        if options.get("d_mlp") == 0:
            continue
        model = random(seed, kind)
        words, queries = context(model, seed), asked(model, seed)
        oracle, curried = Oracle(model, words), curry(model, words, "token_patch")
        pair = curried.entities(queries), oracle.entities(queries)
        behind.append(_worst(*pair, "hook_resid_post"))
        if options.get("parallel_attn_mlp"):
            continue
        between.append(_worst(*pair, "hook_resid_mid"))
        for layer, patch in enumerate(patches(oracle, queries[:1])):
            matrices = [x for x in patch.weight_update(model, layer, 0, -1).values() if x.ndim == 2]
            second += [s[1] / s[0] for s in map(spectrum, matrices)]
    return {
        (PATCH, "behind every block"): (torch.stack(behind), 0.0),
        (PATCH, "second singular value"): (torch.stack(second), 0.0),
        (PATCH, MID): (torch.stack(between), 0.0),
    }
