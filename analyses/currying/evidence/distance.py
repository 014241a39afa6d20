"""How far from Bayes's rule: the model with its context, its W', and what knows less than either."""

import torch
from jaxtyping import Float
from torch import Tensor

from analyses.currying.nets.asking import fit_and_held, own_queries
from analyses.currying.nets.contexts import Case
from probes.currying.curried import NULLS, curry
from probes.currying.oracle import Oracle

WITH, SIBLING, WRONG = "with context", "sibling", "wrong task"
EDITS = ("sink", "lsq_o")


def distances(
    model, case: Case, sizes: tuple[int, int], length: int, draw: torch.Generator, d_symbols: int | None = None
) -> dict[str, float]:
    """KL(Bayes || each) in nats, mean over held-out queries and their positions, by the name of who predicts.

    Args:
        sizes: queries to fit on, and held out, at most.
    """
    fit, held = fit_and_held(model, case.context, sizes, length, draw, d_symbols)
    oracle = Oracle(model, case.context)
    before = oracle.text.shape[1]
    exact = case.exact(torch.cat([oracle.text.expand(len(held), -1), held], 1))[:, before:]
    found = {WITH: kl_from(exact, oracle.logits(held))}
    for method in (*EDITS, *NULLS):
        found[method] = kl_from(exact, curry(model, case.context, method, fit).logits(held))
    for name, context in ((SIBLING, case.sibling), (WRONG, case.wrong)):
        other = own_queries(model, context, sizes[0], length, draw, d_symbols)
        found[name] = kl_from(exact, curry(model, context, EDITS[0], other).logits(held))
    return found


def kl_from(exact: Float[Tensor, "batch query d_vocab"], logits: Float[Tensor, "batch query d_vocab"]) -> float:
    """KL(exact || softmax(logits)), nats, mean over rows; what is impossible adds nothing."""
    off = exact.exp() * (exact - logits.double().log_softmax(-1))
    return off.where(exact > -torch.inf, 0.0).sum(-1).mean().item()
