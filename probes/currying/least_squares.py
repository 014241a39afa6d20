"""`lsq_o`: W_O of every layer, by least squares, so that the stream behind attention is the oracle's.

With z the heads' outputs in the edited model, and R = (stream behind attention, oracle's) - (the same, edited model's),

    Delta W_O = argmin_D  sum |R - z D|^2 + lambda |D|^2        over all rows of all queries

solved layer by layer from below.  The sum runs over what reads `resid_pre + attn_out`, before a norm that follows it.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from probes.currying.curried import Fit
from probes.currying.oracle import Oracle
from probes.currying.solving import ridge_solve
from probes.currying.stream import Stream
from probes.errors import ProbeInputError

BEFORE, WRITTEN, Z = "hook_resid_pre", "hook_attn_out", "attn.hook_z"


@torch.no_grad()
def lsq_o(oracle: Oracle, queries: Int[Tensor, "batch query"], *, ridge: float = 1e-3) -> Fit:
    """Fit W_O of every layer in closed form.

    Args:
        ridge: lambda over the mean of diag(z^T z).

    Raises:
        ProbeInputError: fewer rows of queries than W_O has, or a norm between attention and the stream.
    """
    refuse_norm_after_attention(oracle, "lsq_o")
    model, bare = oracle.copy_of_model(), oracle.bare
    behind = oracle.stream(queries)
    ahead = Stream(model, bare.text(queries), visible=bare.visible(queries), skipped=bare.length)
    update: dict[str, Tensor] = {}
    for layer in range(model.cfg.n_layers):
        goal, now = behind.look((BEFORE, WRITTEN)), ahead.look((BEFORE, WRITTEN, Z))
        z = now[Z][:, ahead.skipped :].flatten(0, 1).flatten(1, 2)  # row head*d_head
        found = ridge_solve(z, missing(goal, now, ahead).flatten(0, 1), ridge)
        name = f"blocks.{layer}.attn.W_O"
        weight = model.get_parameter(name)
        update[name] = found.unflatten(0, weight.shape[:2]).to(weight)
        weight += update[name]
        behind.advance()
        ahead.advance(edited=True)
    tokens = queries.numel() + 2 * (queries.numel() + len(queries) * bare.length)
    stored = sum(change.numel() for change in update.values())
    return Fit(update, stored=stored, token_forwards=tokens + oracle.text.numel())


def missing(goal: dict[str, Tensor], now: dict[str, Tensor], ahead: Stream) -> Tensor:
    """What the edited model's stream lacks behind attention, (batch, query, d_model)."""
    rows = slice(ahead.skipped, None)
    return goal[BEFORE] + goal[WRITTEN] - now[BEFORE][:, rows] - now[WRITTEN][:, rows]


def refuse_norm_after_attention(oracle: Oracle, method: str) -> None:
    """Refuse a model that normalises what attention writes: the sum is then not linear in the weights.

    Raises:
        ProbeInputError: with the option's name.
    """
    if getattr(oracle.model.cfg, "use_normalization_before_and_after", False):
        raise ProbeInputError(
            f"{method} needs what attention writes to be added as it is, and use_normalization_before_and_after=True "
            f"normalises it: take sink or kv"
        )
