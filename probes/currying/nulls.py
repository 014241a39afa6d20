"""Nulls: what a context would be if it were no more than a shift of the output.

    none           nothing
    bias           one logit vector for every query and position, by KL                      d_vocab numbers
    steer          one vector per layer behind attention and behind the MLP: the mean of what is missing there
    bigram_shift   one logit vector per current token: the mean log-ratio of oracle to model  d_vocab per token seen

A method says something about a context only by what it does beyond the best of these, and beyond the W' of another
context of the same task.  `bias` and `steer` live in weight space, in b_U, b_O and b_out.

Sources: steering by mean differences, Turner et al. 2023, arXiv:2308.10248; the others are baselines of ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.curried import Fit
from probes.currying.least_squares import BEFORE, WRITTEN, missing, refuse_norm_after_attention
from probes.currying.oracle import Oracle
from probes.currying.reading import Read, Reader
from probes.currying.stream import Stream
from probes.errors import ProbeInputError

BEHIND = "hook_resid_post"


def none(oracle: Oracle, queries: Int[Tensor, "batch query"] | None = None) -> Fit:
    """Leave the context out.  Needs no queries."""
    return Fit({})


def bias(oracle: Oracle, queries: Int[Tensor, "batch query"], *, steps: int = 100) -> Fit:
    """The logit vector with the least mean KL from the oracle, added to b_U.

    Args:
        steps: of L-BFGS, on a convex loss.

    Raises:
        ProbeInputError: the logits pass through a cap, or the model has no b_U.
    """
    model = oracle.model
    if getattr(model.cfg, "output_logits_soft_cap", None) is not None:
        raise ProbeInputError("bias adds to the logits, and output_logits_soft_cap bends them: take bigram_shift")
    if "unembed.b_U" not in dict(model.named_parameters()):
        raise ProbeInputError("bias is added to unembed.b_U, and the model has no such parameter: take bigram_shift")
    now = _bare_logits(oracle, queries).double().flatten(0, 1)
    wanted = oracle.logits(queries).double().softmax(-1).mean((0, 1))
    shift = torch.zeros(now.shape[-1], dtype=torch.float64, device=now.device, requires_grad=True)
    search = torch.optim.LBFGS([shift], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        # The mean KL, less what does not depend on the shift.
        value = (now + shift).logsumexp(-1).mean() - wanted @ shift
        value.backward()
        return value

    with torch.enable_grad():
        search.step(loss)
    update = {"unembed.b_U": shift.detach().to(model.cfg.dtype)}
    return Fit(update, stored=shift.numel(), token_forwards=_two_passes(oracle, queries))


@torch.no_grad()
def steer(oracle: Oracle, queries: Int[Tensor, "batch query"]) -> Fit:
    """The mean of what the stream lacks, added to b_O and b_out, layer by layer from below.

    Raises:
        ProbeInputError: a norm between attention and the stream, or behind it.
    """
    refuse_norm_after_attention(oracle, "steer")
    if getattr(oracle.model.cfg, "norm_position", "pre") == "post":
        raise ProbeInputError("steer adds to the stream, and norm_position='post' normalises it then: take bias")
    model, bare = oracle.copy_of_model(), oracle.bare
    behind = oracle.stream(queries)
    ahead = Stream(model, bare.text(queries), visible=bare.visible(queries), skipped=bare.length)
    update: dict[str, Tensor] = {}
    for layer in range(model.cfg.n_layers):
        goal, now = behind.look((BEFORE, WRITTEN, BEHIND)), ahead.look((BEFORE, WRITTEN))
        _add_mean(model, update, f"blocks.{layer}.attn.b_O", missing(goal, now, ahead))
        if not model.cfg.attn_only:
            after = ahead.look((BEHIND,))[BEHIND][:, ahead.skipped :]
            _add_mean(model, update, f"blocks.{layer}.mlp.b_out", goal[BEHIND] - after)
        behind.advance()
        ahead.advance(edited=True)
    stored = sum(change.numel() for change in update.values())
    return Fit(update, stored=stored, token_forwards=_two_passes(oracle, queries))


@torch.no_grad()
def bigram_shift(oracle: Oracle, queries: Int[Tensor, "batch query"]) -> Fit:
    """The mean of log p_oracle - log p over the rows whose token is t, added to the logits wherever t stands.

    Tokens that the queries lack get no shift.  The table has a row per token seen: no weight of the model holds it.
    """
    change = oracle.logits(queries).double().log_softmax(-1) - _bare_logits(oracle, queries).double().log_softmax(-1)
    tokens, row = queries.flatten().unique(return_inverse=True)
    table = torch.zeros(len(tokens), change.shape[-1], dtype=torch.float64, device=change.device)
    table.index_add_(0, row.to(change.device), change.flatten(0, 1))
    count = row.bincount(minlength=len(tokens)).to(table)
    shift = table / count[:, None]
    reader = Shifted(oracle.bare, tokens, shift.to(oracle.model.cfg.dtype))
    return Fit({}, reader=reader, stored=reader.stored, token_forwards=_two_passes(oracle, queries), same_space=False)


@dataclass(frozen=True, eq=False)
class Shifted:
    """Another reader, with logits shifted by what the current token is."""

    behind: Reader
    tokens: Int[Tensor, " token"]
    shift: Float[Tensor, "token d_vocab"]

    @property
    def length(self) -> int:
        """How many positions come before the query."""
        return self.behind.length

    @property
    def stored(self) -> int:
        """The table."""
        return self.shift.numel() + self.behind.stored

    def read(self, model: Any, queries: Int[Tensor, "batch query"], wanted: Sequence[str] = ()) -> Read:
        """Logits and activations of the query's rows."""
        logits, found = self.behind.read(model, queries, wanted)
        row = torch.searchsorted(self.tokens, queries.to(self.tokens)).clamp(max=len(self.tokens) - 1)
        known = (self.tokens[row] == queries.to(self.tokens)).to(logits)
        return logits + known[..., None] * self.shift[row.to(self.shift.device)], found


def _add_mean(model: Any, update: dict[str, Tensor], name: str, gap: Tensor) -> None:
    parameter = model.get_parameter(name)
    update[name] = gap.mean((0, 1)).to(parameter)
    parameter += update[name]


@torch.no_grad()
def _bare_logits(oracle: Oracle, queries: Tensor) -> Tensor:
    return oracle.bare.read(oracle.model, queries)[0]


def _two_passes(oracle: Oracle, queries: Tensor) -> int:
    """The context once, the queries behind it, and behind BOS alone."""
    return oracle.text.numel() + 2 * queries.numel() + len(queries) * oracle.bare.length
