"""`token_patch`: the context in the MLPs, exactly, by weights of its own for every token.

Behind the context a block's MLP reads a_C and adds to a stream h_C; without it, it reads a and adds to h.  With

    D = a^T (a_C - a) / |a|^2        W_in <- (1 + D) W_in,  W_gate <- (1 + D) W_gate,  b_out <- b_out + h_C - h

it reads a and writes what it wrote behind the context, and the skip is made up for: rank one in every matrix, one
vector, and the stream behind the block is the oracle's.  Then the next block, whose attention saw exact tokens, if not
the context.  The stream behind attention is not the oracle's.  D, and so W', differs from token to token.

Sources: Dherin et al. 2025, arXiv:2507.16003, theorem 2.2 (one block); Goldwaser et al. 2025, arXiv:2511.17864 (gates,
norms, many blocks).
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.curried import Fit
from probes.currying.oracle import Oracle
from probes.currying.reading import Read
from probes.currying.stream import Stream
from probes.errors import ProbeInputError

BEFORE, WRITTEN, MID = "hook_resid_pre", "hook_attn_out", "hook_resid_mid"


@dataclass(frozen=True)
class TokenPatch:
    """One layer's patches, one for each token of each query.

    Args:
        read: a, what the MLP reads without the context.
        change: a_C - a.
        skipped: h_C - h.
    """

    read: Float[Tensor, "batch query d_model"]
    change: Float[Tensor, "batch query d_model"]
    skipped: Float[Tensor, "batch query d_model"]

    @property
    def direction(self) -> Float[Tensor, "batch query d_model"]:
        """a / |a|^2, by which a patched matrix recognises its token."""
        return self.read / self.read.square().sum(-1, keepdim=True)

    def weight_update(self, model: Any, layer: int, row: int, token: int) -> dict[str, Tensor]:
        """W' - W of this layer for one token of one query, by parameter name."""
        mlp, at = model.blocks[layer].mlp, f"blocks.{layer}.mlp"
        update = {f"{at}.b_out": self.skipped[row, token]}
        for name in reading_matrices(mlp):
            written = self.change[row, token] @ getattr(mlp, name).detach()
            update[f"{at}.{name}"] = torch.outer(self.direction[row, token], written)
        return update


def token_patch(oracle: Oracle, queries: Int[Tensor, "batch query"] | None = None) -> Fit:
    """Patch the MLPs for each token of whatever query is read.  Needs no queries.

    A patch is made from its own query behind the context: the context's keys and values are kept to make it, and
    reading takes three passes more.

    Raises:
        ProbeInputError: a model without MLPs, or with a norm between them and the stream.
    """
    refuse_models(oracle, "token_patch")
    reader = PerToken(oracle)
    return Fit({}, reader=reader, stored=reader.stored, token_forwards=oracle.text.numel(), same_space=False)


@dataclass(frozen=True, eq=False)
class PerToken:
    """The query behind BOS alone, each of its tokens with MLPs of its own."""

    oracle: Oracle

    @property
    def length(self) -> int:
        """How many positions come before the query."""
        return self.oracle.bare.length

    @property
    def stored(self) -> int:
        """The context's keys and values, from which the patches are made."""
        return self.oracle.past.stored

    def read(self, model: Any, queries: Int[Tensor, "batch query"], wanted: Sequence[str] = ()) -> Read:
        """Logits and activations of the query's rows; hooks on what the MLPs read fire before the patch."""
        made = patches(self.oracle, queries)
        with ExitStack() as stack:
            for layer, patch in enumerate(made):
                stack.enter_context(patched(model, layer, patch, self.length))
            return self.oracle.bare.read(model, queries, wanted)


@torch.no_grad()
def patches(oracle: Oracle, queries: Int[Tensor, "batch query"]) -> tuple[TokenPatch, ...]:
    """Per layer, the patch of every token, each behind the patches of the layers below.

    Raises:
        ProbeInputError: queries that do not fit, or an MLP that reads zeros: no weight can then change what it does.
    """
    behind, bare = oracle.stream(queries), oracle.bare
    ahead = Stream(oracle.model, bare.text(queries), visible=bare.visible(queries), skipped=bare.length)
    found = []
    for layer, block in enumerate(oracle.model.blocks):
        goal, now = behind.look(around_mlp(block)), ahead.look(around_mlp(block))
        h_context, h = mlp_skip(block, goal), mlp_skip(block, now)[:, ahead.skipped :]
        read = mlp_input(block, now)[:, ahead.skipped :]
        if not read.square().sum(-1).all():
            raise ProbeInputError(f"layer {layer}: an MLP reads zeros from a token, and no weight can change that")
        patch = TokenPatch(read, mlp_input(block, goal) - read, h_context - h)
        with patched(oracle.model, layer, patch, ahead.skipped):
            ahead.advance(edited=True)
        behind.advance()
        found.append(patch)
    return tuple(found)


@contextmanager
def patched(model: Any, layer: int, patch: TokenPatch, length: int) -> Iterator[None]:
    """The layer with its patches on, from row `length` on; off again behind the `with`.

    a (1 + D) W is the MLP's matrix on another input, so the input is what is changed.
    """
    mlp = model.blocks[layer].mlp

    def before(module: Any, given: tuple[Tensor]) -> tuple[Tensor]:
        (read,) = given
        size = (read[:, length:] * patch.direction).sum(-1, keepdim=True)
        return (torch.cat([read[:, :length], read[:, length:] + size * patch.change], dim=1),)

    def after(module: Any, given: tuple[Tensor], written: Tensor) -> Tensor:
        return torch.cat([written[:, :length], written[:, length:] + patch.skipped], dim=1)

    handles = mlp.register_forward_pre_hook(before), mlp.register_forward_hook(after)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# What a block reads, adds and skips ---------------------------------------------------------------


def around_mlp(block: Any) -> tuple[str, ...]:
    """The hooks, by what follows "blocks.3.", that `mlp_input` and `mlp_skip` need."""
    return (BEFORE, WRITTEN) if block.parallel else (BEFORE, WRITTEN, MID)


def mlp_input(block: Any, seen: dict[str, Tensor]) -> Float[Tensor, "batch pos d_model"]:
    """What the block's MLP is multiplied with, behind its norm."""
    stream = seen[BEFORE] if block.parallel else seen[MID]
    return stream if block.post_norm else block.ln2(stream)


def mlp_skip(block: Any, seen: dict[str, Tensor]) -> Float[Tensor, "batch pos d_model"]:
    """The stream that the MLP adds to."""
    return seen[BEFORE] + seen[WRITTEN] if block.parallel else seen[MID]


def reading_matrices(mlp: Any) -> tuple[str, ...]:
    """Names of the matrices that read the MLP's input."""
    return ("W_in",) if mlp.W_gate is None else ("W_in", "W_gate")


def refuse_models(oracle: Oracle, method: str) -> None:
    """Refuse a model without MLPs, or one that normalises what they write before it is added.

    Raises:
        ProbeInputError: with the reason and the method's name.
    """
    if any(getattr(block, "mlp", None) is None for block in oracle.model.blocks):
        raise ProbeInputError(f"{method} patches MLPs, and the model has none (d_mlp=0): take sink, lsq_o or kv")
    if getattr(oracle.model.cfg, "use_normalization_before_and_after", False):
        raise ProbeInputError(
            f"{method} needs what an MLP writes to be added as it is, and use_normalization_before_and_after=True "
            f"normalises it: take sink or kv"
        )
