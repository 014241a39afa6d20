"""The oracle: what a model does with a query behind a context, and what the context does in every head.

The model runs on [BOS, context, query] and is read at the rows of the query.  The context stands before the query and
never sees it, so its keys and values are computed once.
"""

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.reading import POSITIONS, AfterBos, AfterCache, Read, check_queries, sites
from probes.currying.stream import Stream
from probes.errors import ProbeInputError
from probes.model import check_tokens, nearest
from probes.query_dependence import QueryDependence, query_dependence
from probes.weights import head_weights

MATRICES = ("W_Q", "W_K", "W_V", "W_O")
SCORES, PATTERN = "attn.hook_attn_scores", "attn.hook_pattern"
LARGEST_GAP = 1e-5  # between a pattern and the softmax of its scores, float32 rounding included


class Oracle:
    """T_W(x, .): the model with a context x before every query.

    Args:
        context: token ids without BOS; none at all is a context that says nothing.
        positions: where a *curried* model, which sees no context, has its queries: right behind BOS ("restart"), or
            where they stood behind the context ("shift").  The oracle's own are always the latter.
        bos_id: what every text begins with; by default the config's, and nothing if that is None.

    Raises:
        ProbeInputError: a context or positions that do not fit, a model whose weights cannot be reached and set by
            name, or one that is not causal.
    """

    def __init__(
        self, model: Any, context: Int[Tensor, " context"], positions: str = "restart", *, bos_id: int | None = None
    ):
        require_weights(model)
        if positions not in POSITIONS:
            raise ProbeInputError(f"positions={positions!r} must be one of {', '.join(POSITIONS)}")
        if not getattr(model.cfg, "causal", True):
            raise ProbeInputError("the model is not causal: its context would see the query; give one with causal=True")
        self.model, self.positions = model, positions
        self.context = context.detach().clone().cpu()
        self.bos_id = getattr(model.cfg, "bos_id", None) if bos_id is None else bos_id
        self.text = torch.cat([self._bos(), self.context])[None]
        check_tokens(self.text, model.cfg.d_vocab)
        if len(self.text[0]) >= model.cfg.n_ctx:
            raise ProbeInputError(
                f"BOS and a context of {len(context)} tokens leave no room for a query in n_ctx={model.cfg.n_ctx}: "
                f"shorten the context to at most {model.cfg.n_ctx - len(self._bos()) - 1} tokens"
            )
        self.past, self.values = self._prefix()
        self._known: dict[tuple, Any] = {}

    def _bos(self) -> Tensor:
        return torch.tensor([] if self.bos_id is None else [self.bos_id], dtype=torch.long)

    @torch.no_grad()
    def _prefix(self) -> tuple[AfterCache, list[Tensor]]:
        """The cache of everything before the query, and its values per layer, (1, key, kv_head, d_head)."""
        past, values = self.model.empty_cache(), []
        numbers = 0
        if self.text.numel():
            wanted = [f"blocks.{layer}.attn.hook_v" for layer in range(self.model.cfg.n_layers)]
            _, cache = self.model.run_with_cache(self.text, past=past, names_filter=wanted)
            values = [cache[name] for name in wanted]
            numbers = 2 * sum(value.numel() for value in values)
        return AfterCache(past, self.text.shape[1], numbers), values

    @property
    def bare(self) -> AfterBos:
        """How a model is read that has the context in its weights, or not at all."""
        return AfterBos(self.bos_id, len(self.context) if self.positions == "shift" else 0)

    @cached_property
    def weights_hash(self) -> str:
        """Twelve hexadecimal digits that stand for the model's weights."""
        return digest(weight for _, weight in sorted(self.model.named_parameters()))

    def once(self, what: str, queries: Int[Tensor, "batch query"], make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for these queries: several methods are held against the same oracle.

        Args:
            what: a name for it.
        """
        key = (what, digest([queries]))
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def copy_of_model(self) -> Any:
        """A model of one's own to edit."""
        return copy.deepcopy(self.model)

    # What it says -------------------------------------------------------------------------------

    @torch.no_grad()
    def read(self, queries: Int[Tensor, "batch query"], wanted: Sequence[str] = ()) -> Read:
        """Logits, and activations by hook name, at the rows of the query.

        Raises:
            ProbeInputError: queries that do not fit.
        """
        check_queries(self.model, queries, self.text.shape[1])
        return self.past.read(self.model, queries, wanted)

    def logits(self, queries: Int[Tensor, "batch query"]) -> Float[Tensor, "batch query d_vocab"]:
        """Logits at the rows of the query."""
        return self.read(queries)[0]

    def entities(self, queries: Int[Tensor, "batch query"]) -> dict[str, Float[Tensor, "batch query d_model"]]:
        """The stream behind every attention and every block, by hook name, at the rows of the query."""
        return self.read(queries, sites(self.model))[1]

    def stream(self, queries: Int[Tensor, "batch query"]) -> Stream:
        """The queries behind the context, to be taken through the model layer by layer."""
        check_queries(self.model, queries, self.text.shape[1])
        return Stream(self.model, queries, past=lambda: self.past.past.prefix(self.past.length, len(queries)))

    def heads(self, queries: Int[Tensor, "batch query"]) -> tuple[QueryDependence, ...]:
        """Per layer, what the context does to every query in every head: gate, average, rho.

        Raises:
            ProbeInputError: an empty context, no BOS, attention that is no softmax of its scores, or a window that
                hides one part.
        """
        if not len(self.context) or self.bos_id is None:
            raise ProbeInputError("gates need a context and BOS before it: one of the two is missing")
        stream, found = self.stream(queries), []
        for layer in range(self.model.cfg.n_layers):
            seen = stream.look((SCORES, PATTERN, "attn.hook_v"))
            require_softmax(seen, layer)
            weights = head_weights(self.model, layer)
            own = seen["attn.hook_v"]
            before = self.values[layer].expand(len(own), -1, -1, -1)
            share = len(weights.W_O) // own.shape[2]
            values = torch.cat([before, own], dim=1).repeat_interleave(share, dim=2)
            inside = torch.zeros(values.shape[1], dtype=torch.bool)
            inside[1 : 1 + len(self.context)] = True
            found.append(query_dependence(seen[SCORES], values, inside, weights.W_O))
            stream.advance()
        return tuple(found)


def require_softmax(seen: dict[str, Tensor], layer: int) -> None:
    """Refuse a layer whose pattern is not the softmax of its scores over all keys.

    Raises:
        ProbeInputError: with the largest difference.
    """
    gap = (seen[SCORES].softmax(-1) - seen[PATTERN]).abs().max().item()
    if not gap <= LARGEST_GAP:
        raise ProbeInputError(
            f"layer {layer}: the pattern is off the softmax of its scores by {gap:.2g}, and gates are defined for "
            f"softmax alone: take the methods kv or lsq_o"
        )


def require_weights(model: Any) -> None:
    """Refuse a model whose attention weights cannot be set by name, or that keeps no cache of keys and values.

    Raises:
        ProbeInputError: with the name that was looked for.
    """
    remedy = "give a Transformer, such as toy_models.from_hf(directory)"
    there = dict(model.named_parameters()) if hasattr(model, "named_parameters") else {}
    wanted = [f"blocks.{layer}.attn.{name}" for layer in range(model.cfg.n_layers) for name in MATRICES]
    missing = [name for name in wanted if name not in there]
    if missing:
        raise ProbeInputError(
            f"the model has no parameter {missing[0]}; of its {len(there)} the nearest are "
            f"{nearest(missing[0], there)}: {remedy}"
        )
    if not hasattr(model, "empty_cache"):
        raise ProbeInputError(f"the model has no empty_cache() for the context's keys and values: {remedy}")


def digest(tensors: Iterable[Tensor]) -> str:
    """The first twelve hexadecimal digits of the SHA-256 of the tensors' types, shapes and bytes."""
    seen = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        seen.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        seen.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()[:12]
