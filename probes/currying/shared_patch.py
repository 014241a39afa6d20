"""`shared_patch`: the patches of `token_patch` condensed into one W', a matrix and a vector per block for every token.

    W_in <- (1 + D) W_in,   W_gate <- (1 + D) W_gate,   b_in <- b_in + d W_in,   b_out <- b_out + e

    "one"    the patch of one token, the last of the first query: D of rank one, e = h_C - h, d = 0
    "mean"   the mean of all tokens' patches
    "lsq"    argmin  sum |a_C - a - a D - d|^2 + lambda (|D|^2 + |d|^2),  then e the mean of what is missing behind the
             block; d = 0 in a gated MLP, whose arms have no bias

with a and h what the MLP reads and adds to without the context, a_C and h_C with it.  Blocks from below, each behind
the edits of the ones before.

Source: Mazzawi et al. 2025, arXiv:2510.08734, thought vectors and thought matrices; the patches are those of Dherin et
al. 2025, arXiv:2507.16003.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.curried import Fit
from probes.currying.oracle import Oracle
from probes.currying.solving import ridge_solve
from probes.currying.stream import Stream
from probes.currying.token_patch import TokenPatch, around_mlp, mlp_input, mlp_skip, reading_matrices, refuse_models
from probes.errors import ProbeInputError

SHARED = ("lsq", "mean", "one")
ADDED = "hook_mlp_out"


@torch.no_grad()
def shared_patch(
    oracle: Oracle, queries: Int[Tensor, "batch query"], *, shared: str = "lsq", ridge: float = 1e-3
) -> Fit:
    """One patch per block for every token: W', in the model's own space.

    Args:
        shared: "lsq", "mean" or "one".
        ridge: of "lsq", lambda over the mean square of what the MLP reads, summed over rows.

    Raises:
        ProbeInputError: a model that `token_patch` refuses, an unknown `shared`, or too few queries for "lsq".
    """
    refuse_models(oracle, "shared_patch")
    if shared not in SHARED:
        raise ProbeInputError(f"shared={shared!r} must be one of {', '.join(SHARED)}")
    model, bare = oracle.copy_of_model(), oracle.bare
    behind = oracle.stream(queries)
    ahead = Stream(model, bare.text(queries), visible=bare.visible(queries), skipped=bare.length)
    update: dict[str, Tensor] = {}
    stored = 0
    for layer, block in enumerate(model.blocks):
        wanted = (*around_mlp(block), ADDED)
        goal, now = behind.look(wanted), {name: x[:, bare.length :] for name, x in ahead.look(wanted).items()}
        read, skip = mlp_input(block, now), mlp_skip(block, now)
        patch = TokenPatch(read, mlp_input(block, goal) - read, mlp_skip(block, goal) - skip)
        matrix, vector = _affine_map(patch, shared, ridge, biased=block.mlp.W_gate is None)
        _write(model, layer, matrix, vector, update)
        shift = patch.skipped.flatten(0, 1)
        if shared == "lsq":
            shift = shift + (goal[ADDED] - ahead.look((ADDED,))[ADDED][:, bare.length :]).flatten(0, 1)
        shift = patch.skipped[0, -1] if shared == "one" else shift.mean(0)
        _add(model, f"blocks.{layer}.mlp.b_out", shift, update)
        stored += 3 * len(shift) if shared == "one" else matrix.numel() + vector.numel() + shift.numel()
        behind.advance()
        ahead.advance(edited=True)
    passes = 3 if shared == "lsq" else 2
    tokens = queries.numel() + passes * (queries.numel() + len(queries) * bare.length)
    return Fit(update, stored=stored, token_forwards=tokens + oracle.text.numel())


def _affine_map(
    patch: TokenPatch, shared: str, ridge: float, *, biased: bool
) -> tuple[Float[Tensor, "d_model d_model"], Float[Tensor, " bias"]]:
    """D and d, in float64; d is empty where there is none."""
    read, change = (x.flatten(0, 1).double().cpu() for x in (patch.read, patch.change))
    direction = patch.direction.double().cpu()
    if shared == "one":
        return torch.outer(direction[0, -1], patch.change[0, -1].double().cpu()), read.new_empty(0)
    if shared == "mean":
        return direction.flatten(0, 1).T @ change / len(change), read.new_empty(0)
    features = torch.cat([read, read.new_ones(len(read), 1)], dim=1) if biased else read
    found = ridge_solve(features, change, ridge)
    return found[: read.shape[1]], found[read.shape[1] :].flatten()


def _write(model: Any, layer: int, matrix: Tensor, vector: Tensor, update: dict[str, Tensor]) -> None:
    mlp = model.blocks[layer].mlp
    if vector.numel():  # before W_in itself changes
        _add(model, f"blocks.{layer}.mlp.b_in", vector @ mlp.W_in.double().cpu(), update)
    for name in reading_matrices(mlp):
        _add(model, f"blocks.{layer}.mlp.{name}", matrix @ getattr(mlp, name).double().cpu(), update)


def _add(model: Any, name: str, change: Tensor, update: dict[str, Tensor]) -> None:
    parameter = model.get_parameter(name)
    update[name] = change.to(parameter)
    parameter += update[name]
