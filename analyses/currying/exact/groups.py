"""Contexts shared out: to the keys of the query's own tokens, and to register tokens behind BOS."""

import torch

from analyses.core import calibration
from analyses.currying.exact.contexts import ROUNDING, THEORY
from analyses.currying.exact.models import constant, random
from toy_models.seeding import generator

SOLVED = 1e-10  # linear systems, and closed forms behind one another
GROUPS, SLOTS = "key_grouping", "sink_r"
COUNTS, FEWER = "repeated or missing: logits", "one slot fewer: logits"
# Six tokens of three types; the query has each once by its fourth token, and repeats one at its eighth.
WORDS, ONCE = (0, 2, 2, 4, 2, 0), (1, 2, 0, 4, 3, 1, 3, 2, 1)
COMPLETE = slice(3, 7)
COPIES, REGISTERS, LEAST = (
    (1, 2, 3, 1, 2, 1, 3),
    (9, 10, 11),
    9,
)  # context, registers, and the first token kept for them
LOUD = 5.0  # scores then differ by about 1
EXACT = {"ridge": 0.0, "damping": 1e-14}

QUANTITIES = {
    (GROUPS, THEORY): (
        ("scores", "nats", SOLVED, "m copies in the context add log(1 + m) to every score of their type"),
        ("second singular value", "1", ROUNDING, "by one edit of rank one", "identity"),
        ("every type once: logits", "1", SOLVED, "where the query has each type once, T' = T(x, y)", "identity"),
        ("elsewhere: mass per type", "1", SOLVED, "every copy takes the whole group: n (1 + m), not n + m"),
    ),
    (SLOTS, THEORY): (
        ("a slot per type: logits", "1", SOLVED, "copies share a slot: BOS and three registers are exact", "identity"),
        ("a slot per type: entities", "1", SOLVED, "and so is every entity, over the largest", "identity"),
    ),
}  # fmt: skip
DIFFERENT = {
    (GROUPS, COUNTS): "Where a type is repeated or missing grouped keys are not the context: logits",
    (SLOTS, FEWER): "With one slot fewer than types of token something is lost: logits",
}


@torch.no_grad()
def read(seed: int) -> calibration.Readings:
    """Every quantity of QUANTITIES and DIFFERENT at one seed."""
    return {**_grouped(seed), **_slots(seed)}


def _grouped(seed: int) -> calibration.Readings:
    """Queries of five types, which the coordinates of a head can tell apart."""
    from probes.currying import Oracle, curry
    from probes.currying.distances import spectrum

    model, words, once = random(seed, n_layers=1), torch.tensor(WORDS), torch.tensor([ONCE])
    five = torch.randint(5, (60, 6), generator=generator(seed, "exact", "five types"))
    tried, queries = five[:40], five[40:]
    curried, bare = (curry(model, words, name, tried) for name in ("key_grouping", "none"))
    scores, pattern = "blocks.0.attn.hook_attn_scores", "blocks.0.attn.hook_pattern"
    before, after = bare.read(queries, [scores, pattern])[1], curried.read(queries, [scores, pattern])[1]
    kinds = torch.nn.functional.one_hot(bare.reader.text(queries), model.cfg.d_vocab).double()  # batch key type
    m = torch.bincount(words, minlength=model.cfg.d_vocab).double()
    expected = before[scores] + (kinds @ m.log1p())[:, None, None]
    seen = expected.isfinite()
    mass = before[pattern] @ kinds[:, None] * (1 + m)
    s = spectrum(curried.weight_update["blocks.0.attn.W_K"])
    right, found = Oracle(model, words).logits(once), curried.logits(once)
    elsewhere = torch.tensor([row for row in range(len(ONCE)) if row not in range(COMPLETE.start, COMPLETE.stop)])
    return {
        (GROUPS, "scores"): (after[scores][seen], expected[seen]),
        (GROUPS, "second singular value"): (s[1] / s[0], 0.0),
        (GROUPS, "every type once: logits"): (found[:, COMPLETE], right[:, COMPLETE]),
        (GROUPS, "elsewhere: mass per type"): (after[pattern] @ kinds[:, None], mass / mass.sum(-1, keepdim=True)),
        (GROUPS, COUNTS): (found[:, elsewhere], right[:, elsewhere]),
    }


def _slots(seed: int) -> calibration.Readings:
    """One layer, above which copies differ; queries that differ, one coordinate constant; each token a direction."""
    from probes.currying import Oracle, curry

    model, words = constant(seed, n_layers=1), torch.tensor(COPIES)
    for layer, block in enumerate(model.blocks):
        same = block.attn.W_Q[:, 0, 0].clone()
        block.attn.W_Q.normal_(generator=generator(seed, "exact", "queries", layer))
        block.attn.W_Q[:, :, 0], block.attn.b_Q[:, 0] = 0.0, 0.0
        block.attn.W_Q[:, 0, 0] = same
        block.attn.W_K *= LOUD
    drawn = torch.randint(1, LEAST, (80, 5), generator=generator(seed, "exact", "few tokens"))
    tried, queries = drawn[:60], drawn[60:]
    oracle = Oracle(model, words)
    found, fewer = (curry(model, words, "sink_r", tried, registers=REGISTERS[:r], **EXACT) for r in (3, 2))
    right, entities = oracle.entities(queries), found.entities(queries)
    off = [(entities[name] - entity).abs().max() / entity.abs().max() for name, entity in right.items()]
    return {
        (SLOTS, "a slot per type: logits"): (found.logits(queries), oracle.logits(queries)),
        (SLOTS, "a slot per type: entities"): (torch.stack(off), 0.0),
        (SLOTS, FEWER): (fewer.logits(queries), oracle.logits(queries)),
    }
