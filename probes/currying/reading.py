"""How a model is read on a query: what stands before it, and where its rows are.

A query is (batch, query) tokens without BOS.  A reader puts something before it, runs the model, and gives the rows
of the query alone: logits, and activations by hook name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from probes import names
from probes.errors import ProbeInputError
from probes.model import check_tokens

POSITIONS = ("restart", "shift")
Read = tuple[Tensor, dict[str, Tensor]]


@runtime_checkable
class Reader(Protocol):
    """`length` counts the positions before a query, `stored` the numbers kept beside the model's weights."""

    @property
    def length(self) -> int: ...

    @property
    def stored(self) -> int: ...

    def read(self, model: Any, queries: Int[Tensor, "batch query"], wanted: Sequence[str] = ()) -> Read: ...


@dataclass(frozen=True)
class AfterBos:
    """The query behind BOS alone, in one forward pass through which gradients flow.

    `skipped` positions lie empty between the two, hidden from everybody: with the context's length the query stands
    where it stood behind the context ("shift"), with 0 it follows BOS ("restart").
    """

    bos_id: int | None
    skipped: int = 0

    @property
    def stored(self) -> int:
        """Nothing beside the weights."""
        return 0

    @property
    def length(self) -> int:
        """How many positions come before the query."""
        return self.skipped + (self.bos_id is not None)

    def text(self, queries: Int[Tensor, "batch query"]) -> Int[Tensor, "batch pos"]:
        """BOS, the empty positions, the query."""
        first = queries.new_zeros(len(queries), self.length)
        if self.bos_id is not None:
            first[:, 0] = self.bos_id
        return torch.cat([first, queries], dim=1)

    def visible(self, queries: Int[Tensor, "batch query"]) -> Bool[Tensor, "batch pos"] | None:
        """False at the empty positions; None where there are none."""
        if not self.skipped:
            return None
        seen = torch.ones(len(queries), self.length + queries.shape[1], dtype=torch.bool)
        seen[:, self.length - self.skipped : self.length] = False
        return seen

    def read(self, model: Any, queries: Int[Tensor, "batch query"], wanted: Sequence[str] = ()) -> Read:
        """Logits and activations of the query's rows."""
        given = {"attention_mask": self.visible(queries)}
        logits, cache = _run(model, self.text(queries), wanted, given)
        return logits[:, self.length :], {name: _from(self.length, name, value) for name, value in cache.items()}


@dataclass(frozen=True, eq=False)
class AfterCache:
    """The query behind keys and values that were computed before.

    `past` is what the model's `empty_cache()` makes, filled: `prefix(length, copies)` gives a copy to run with.
    """

    past: Any
    length: int
    numbers: int

    @property
    def stored(self) -> int:
        """The keys and values."""
        return self.numbers

    def read(self, model: Any, queries: Int[Tensor, "batch query"], wanted: Sequence[str] = ()) -> Read:
        """Logits and activations of the query's rows."""
        return _run(model, queries, wanted, {"past": self.past.prefix(self.length, len(queries))})


def _run(model: Any, tokens: Tensor, wanted: Sequence[str], given: dict[str, Any]) -> Read:
    found: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: Any) -> None:
        found[hook.name] = value

    with model.hooks(fwd_hooks=[(name, keep) for name in wanted]):
        logits = model(tokens, **given)
    return logits, found


def _from(row: int, name: str, value: Tensor) -> Tensor:
    """The rows of an activation from `row` on; scores and patterns have a head axis before theirs."""
    return value[:, :, row:] if name.endswith(("_scores", "_pattern")) else value[:, row:]


def sites(model: Any) -> tuple[str, ...]:
    """The hooks at which entities are compared: the stream behind every attention, where it has a name, and block."""
    there = model.hook_dict
    layers = range(model.cfg.n_layers)
    both = [name for layer in layers for name in (f"blocks.{layer}.hook_resid_mid", names.resid_post(layer))]
    return tuple(name for name in both if name in there)


def check_queries(model: Any, queries: Int[Tensor, "batch query"], before: int) -> None:
    """Refuse queries that are no batch of token ids, or do not fit behind `before` positions.

    Raises:
        ProbeInputError: shape or type, a token outside the vocabulary, or too many positions.
    """
    if queries.ndim != 2 or not queries.numel() or queries.is_floating_point() or queries.dtype == torch.bool:
        raise ProbeInputError(
            f"queries are {queries.dtype} of shape {tuple(queries.shape)}: give token ids (batch, query), without BOS"
        )
    check_tokens(queries, model.cfg.d_vocab)
    if (needed := before + queries.shape[1]) > model.cfg.n_ctx:
        raise ProbeInputError(
            f"{before} positions before queries of {queries.shape[1]} make {needed}, beyond n_ctx={model.cfg.n_ctx}: "
            f"shorten the context or the queries"
        )


def uniform_queries(
    model: Any, n: int, length: int, generator: torch.Generator, bos_id: int | None = None
) -> Int[Tensor, "n length"]:
    """Random tokens, every one but BOS as likely as any other: queries that know nothing of a task.

    Args:
        bos_id: the token to leave out; by default the config's.
    """
    bos_id = getattr(model.cfg, "bos_id", None) if bos_id is None else bos_id
    d_vocab = model.cfg.d_vocab
    drawn = torch.randint(d_vocab - (bos_id is not None), (n, length), generator=generator)
    return drawn if bos_id is None else drawn + (drawn >= bos_id)


def rows_in_common(a: Int[Tensor, "rows_a query_a"], b: Int[Tensor, "rows_b query_b"]) -> int:
    """How many rows of `a` are rows of `b`."""
    known = set(map(tuple, b.tolist()))
    return sum(tuple(row) in known for row in a.tolist())
