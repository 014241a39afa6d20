"""What a context does, exactly: cached keys and values, gates, contexts that cannot matter, copies, other bases."""

import math

import torch

from analyses.core import calibration
from analyses.currying.exact.models import (
    BOS,
    PLAIN,
    asked,
    constant,
    context,
    every,
    fit,
    hidden_context,
    in_another_basis,
    random,
    whole,
)

# Three layers of some ten products of numbers near 1, entities over the largest of them: float64 rounds by less.
ROUNDING = 1e-12
GATE = 1e-13  # one sum over keys
TURNED = 1e-10  # inverses of random bases multiply rounding by their condition
UNSEEN = math.exp(-40)  # the share that counts as none

PREFIX, GATES, COPIES, BASES = "context as a prefix", "gate and average", "copied prelude", "basis inside the heads"
THEORY, SPLIT = "probes/theory/currying.md", "probes/theory/query_dependence.md"
PETROV = "Petrov et al. 2024, arXiv:2310.19698"
HE = "He et al. 2022, arXiv:2110.04366, section 3.1"
BEHIND_PRELUDE, LENGTHS = "after it: logits as without it", "distances of W_Q to W_O"
N_ZERO, PRELUDE, COPIED = 17, (1, 4, 2, 6), 3

QUANTITIES = {
    (PREFIX, THEORY): (
        ("cached, logits", "1", ROUNDING, "cached keys and values give what the whole text gives", "identity"),
        ("cached, entities", "1", ROUNDING, "at every site, over the largest entity", "identity"),
        ("two caches joined", "1", ROUNDING, "x1, then x2, is x1 x2", "identity"),
        ("hidden, query in its place", "1", ROUNDING, "'shift' is the text with the context masked", "identity"),
    ),
    (GATES, HE): (
        ("output = n + g (c - n)", "1", GATE, "a head says its rest plus the gate times the difference", "identity"),
    ),
    (GATES, PETROV): (
        ("weights within the rest", "1", GATE, "relative to each other they are those without the context", "identity"),
    ),
    (GATES, SPLIT): (
        (f"{N_ZERO} keys at score 0: gate", "1", GATE, f"beside m others the gate is {N_ZERO} / ({N_ZERO} + m)"),
        ("hundreds of nats below: gate", "1", UNSEEN, "log Z differs by more than 40 nats: the gate is none"),
        ("hundreds of nats below: logits", "1", ROUNDING, "then T(x, y) = T(y)", "identity"),
    ),
    (COPIES, THEORY): (
        ("at its end: logits as without", "1", ROUNDING, "where all counts grow alike, nothing changes", "identity"),
        ("after it: mass per token", "1", ROUNDING, "counts add: mass ~ (n + m) exp(score)"),
    ),
    (BASES, THEORY): (
        ("oracle's logits", "1", TURNED, "a change of basis leaves the function", "identity"),
        ("distances of QK and OV", "1", TURNED, "and the distances of the products", "identity"),
        ("rho and gate", "1", TURNED, "and what the context tells each query", "identity"),
    ),
}  # fmt: skip
# What must differ, and is claimed to.
DIFFERENT = {
    (COPIES, BEHIND_PRELUDE): "Counts add and do not multiply, so behind the prelude a copied context is heard",
    (BASES, LENGTHS): "Lengths of W_Q, W_K, W_V, W_O depend on the basis: distances of the weights alone",
}


@torch.no_grad()
def read(seed: int) -> calibration.Readings:
    """Every quantity of QUANTITIES and DIFFERENT at one seed."""
    return {**_prefix(seed), **_gates(seed), **_unseen(seed), **_copies(seed), **_bases(seed)}


def _prefix(seed: int) -> calibration.Readings:
    from probes.currying import Oracle, curry

    found: dict[str, list] = {name: [] for name, *_ in QUANTITIES[PREFIX, THEORY]}
    for model in every(seed):
        words, queries = context(model, seed), asked(model, seed)
        oracle, text = Oracle(model, words), whole(model, words, queries)
        entities = oracle.entities(queries)
        logits, cache = model.run_with_cache(text, names_filter=list(entities))
        n = 1 + len(words)
        found["cached, logits"].append((oracle.logits(queries) - logits[:, n:]).abs().max())
        off = [(entity - cache[name][:, n:]).abs().max() / entity.abs().max() for name, entity in entities.items()]
        found["cached, entities"].append(max(off))
        more = context(model, seed, "second")
        joined = Oracle(model, torch.cat([words, more])).logits(queries)
        found["two caches joined"].append((_extended(oracle, more).read(model, queries)[0] - joined).abs().max())
        visible = torch.ones(text.shape, dtype=torch.bool)
        visible[:, 1:n] = False
        masked = model(text, attention_mask=visible)[:, n:]
        if not getattr(model.cfg, "smeared_keys", False):  # a smeared key hears its neighbour past any mask
            bare = curry(model, words, "none", positions="shift").logits(queries)
            found["hidden, query in its place"].append((bare - masked).abs().max())
    return {(PREFIX, name): (torch.stack(values), 0.0) for name, values in found.items()}


def _extended(oracle, more: torch.Tensor):
    """The oracle's cache, fed with more context."""
    from probes.currying.reading import AfterCache

    past = oracle.past.past.prefix(oracle.past.length, 1)
    oracle.model(more[None], past=past)
    return AfterCache(past, oracle.past.length + len(more), oracle.past.stored)


def _gates(seed: int) -> calibration.Readings:
    from probes.currying import Oracle, curry

    output, relative = [], []
    for model in every(seed):
        words, queries = context(model, seed), asked(model, seed)
        oracle, layers = Oracle(model, words), range(model.cfg.n_layers)
        z = oracle.read(queries, [f"blocks.{layer}.attn.hook_z" for layer in layers])[1]
        pairs = zip(oracle.heads(queries), z.values(), strict=True)
        output.append(torch.stack([(heads.output - right).abs().max() for heads, right in pairs]).max())
        if not getattr(model.cfg, "smeared_keys", False):
            wanted = ["blocks.0.attn.hook_pattern"]
            bare = curry(model, words, "none", positions="shift").read(queries, wanted)[1][wanted[0]]
            kept = oracle.read(queries, wanted)[1][wanted[0]]
            rest = torch.ones(kept.shape[-1], dtype=torch.bool)
            rest[1 : 1 + len(words)] = False
            kept = kept[..., rest] / kept[..., rest].sum(-1, keepdim=True)
            relative.append((kept - bare[..., rest]).abs().max())
    return {
        (GATES, "output = n + g (c - n)"): (torch.stack(output), 0.0),
        (GATES, "weights within the rest"): (torch.stack(relative), 0.0),
    }


def _unseen(seed: int) -> calibration.Readings:
    from probes.currying import Oracle, curry

    model = constant(seed)
    for block in model.blocks:
        block.attn.W_Q.zero_()
    words, queries = context(model, seed, n=N_ZERO), asked(model, seed)
    gates = torch.stack([heads.gate for heads in Oracle(model, words).heads(queries)])
    others = 1 + torch.arange(1, queries.shape[1] + 1)  # BOS, and the query's own tokens so far
    model = hidden_context(seed)
    last = model.cfg.d_vocab - 3
    far, near = last + context(model, seed) % 3, 1 + asked(model, seed) % (last - 1)
    oracle = Oracle(model, far)
    return {
        (GATES, f"{N_ZERO} keys at score 0: gate"): (gates, N_ZERO / (N_ZERO + others.double())),
        (GATES, "hundreds of nats below: gate"): (oracle.heads(near)[0].gate, 0.0),
        (GATES, "hundreds of nats below: logits"): (oracle.logits(near), curry(model, far, "none").logits(near)),
    }


def _copies(seed: int) -> calibration.Readings:
    """One layer without positions; the context is BOS and a prelude, several times over, the query continues one."""
    from probes.currying import Oracle, curry

    model = random(seed, PLAIN, n_layers=1)
    prelude = torch.tensor(PRELUDE)
    words = torch.cat([torch.tensor([BOS]), prelude]).repeat(COPIED)
    query = torch.cat([prelude, prelude[[2, 2, 0]]])[None]
    pattern, scores = "blocks.0.attn.hook_pattern", "blocks.0.attn.hook_attn_scores"
    with_it, seen = Oracle(model, words).read(query, [pattern])
    without, bare = curry(model, words, "none").read(query, [scores])
    text = torch.cat([torch.tensor([BOS]), words, query[0]])
    kinds = torch.cat([torch.tensor([BOS]), prelude])
    mass = torch.stack([seen[pattern][0, :, -1, text == kind].sum(-1) for kind in kinds], -1)
    counts = torch.stack([(text == kind).sum() for kind in kinds])
    expected = (bare[scores][0, :, -1, : len(kinds)] + counts.double().log()).softmax(-1)
    end = len(prelude) - 1
    return {
        (COPIES, "at its end: logits as without"): (with_it[:, end], without[:, end]),
        (COPIES, "after it: mass per token"): (mass, expected),
        (COPIES, BEHIND_PRELUDE): (with_it[:, -1], without[:, -1]),
    }


def _bases(seed: int) -> calibration.Readings:
    from probes.currying import Oracle, compare, curry

    models = random(seed), in_another_basis(random(seed), seed)
    words, queries, tried = context(models[0], seed), asked(models[0], seed), fit(models[0], seed)
    logits = [Oracle(model, words).logits(queries) for model in models]
    one, two = (
        compare(curry(model, words, "sink", tried, ridge=0.0), Oracle(model, words), queries) for model in models
    )
    products, heads = (
        [torch.stack([getattr(report, name) for name in names]) for report in (one, two)]
        for names in (("qk_distance", "ov_distance"), ("rho", "gate"))
    )
    return {
        (BASES, "oracle's logits"): tuple(logits),
        (BASES, "distances of QK and OV"): tuple(products),
        (BASES, "rho and gate"): tuple(heads),
        (BASES, LENGTHS): (one.weight_distance, two.weight_distance),
    }
