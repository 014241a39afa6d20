"""`curry`: a context as effective weights, W' with T_{W'}(y) close to T_W(x, y), by one of several methods.

A method is a function `(oracle, queries, **options) -> Fit` in a file of its own, and a line in NAMES.  Queries are
what it may try the context on; a method that needs none has `queries=None` in its signature.
"""

import copy
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.oracle import Oracle, digest
from probes.currying.reading import Read, Reader, check_queries, sites, uniform_queries
from probes.errors import ProbeInputError
from probes.model import nearest

# One line per method.
NAMES = {
    "kv": "probes.currying.prefix:kv",
    "sink": "probes.currying.sink:sink",
    "lsq_o": "probes.currying.least_squares:lsq_o",
    "sink_r": "probes.currying.registers:sink_r",
    "key_grouping": "probes.currying.key_grouping:key_grouping",
    "token_patch": "probes.currying.token_patch:token_patch",
    "shared_patch": "probes.currying.shared_patch:shared_patch",
    "none": "probes.currying.nulls:none",
    "bias": "probes.currying.nulls:bias",
    "steer": "probes.currying.nulls:steer",
    "bigram_shift": "probes.currying.nulls:bigram_shift",
    "lsq": "probes.currying.fitted:lsq",
    "lora": "probes.currying.fitted:lora",
    "kv_r": "probes.currying.pairs:kv_r",
    "attention_matching": "probes.currying.matching:attention_matching",
    "gradient": "probes.currying.gradients:gradient",
    "distill_gradient": "probes.currying.gradients:distill_gradient",
    "finetune": "probes.currying.gradients:finetune",
}
# What a method has to beat: they know the context only as a shift of the output, or not at all.
NULLS = ("none", "bias", "steer", "bigram_shift")


@dataclass(frozen=True, eq=False)
class Fit:
    """What a method found.

    Args:
        weight_update: W' - W by parameter name; what is not named stays.
        reader: how the model is read, if not behind BOS alone.
        stored: how many numbers have to be kept beside W.
        token_forwards: build cost; one token through the model forward is 1, backward 2.
        same_space: whether W' alone says it all: the same class, the same parameters, nothing beside them.
        chosen: what the method settled by itself, such as a step size, by name.
    """

    weight_update: dict[str, Tensor]
    reader: Reader | None = None
    stored: int = 0
    token_forwards: int = 0
    same_space: bool = True
    chosen: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Provenance:
    """What a curried model was made from; hashes are twelve hexadecimal digits of a SHA-256, `chosen` is Fit's."""

    method: str
    options: dict[str, Any]
    chosen: dict[str, Any]
    context_hash: str
    weights_hash: str
    query_hash: str | None
    positions: str
    bos_id: int | None


@dataclass(frozen=True, eq=False)
class Curried:
    """A model that has a context in its weights: it takes the query alone.

    Args:
        model: a copy of the base model with W'.
        weight_update: W' - W by parameter name.
        reader: what is put before a query, and how its rows are read.
        context: the tokens absorbed, without BOS.
        fit_queries: what the method was tried on; None if it needed none.
        stored, token_forwards, same_space: see Fit.
    """

    model: Any = field(repr=False)
    weight_update: dict[str, Tensor] = field(repr=False)
    reader: Reader = field(repr=False)
    context: Int[Tensor, " context"]
    fit_queries: Int[Tensor, "batch query"] | None = field(repr=False)
    stored: int
    token_forwards: int
    same_space: bool
    provenance: Provenance

    def read(self, queries: Int[Tensor, "batch query"], wanted: Sequence[str] = ()) -> Read:
        """Logits, and activations by hook name, at the rows of the query.

        Raises:
            ProbeInputError: queries that do not fit.
        """
        check_queries(self.model, queries, self.reader.length)
        with torch.no_grad():
            return self.reader.read(self.model, queries, wanted)

    def logits(self, queries: Int[Tensor, "batch query"]) -> Float[Tensor, "batch query d_vocab"]:
        """Logits at the rows of the query."""
        return self.read(queries)[0]

    def entities(self, queries: Int[Tensor, "batch query"]) -> dict[str, Float[Tensor, "batch query d_model"]]:
        """The stream behind every attention and every block, by hook name, at the rows of the query."""
        return self.read(queries, sites(self.model))[1]

    @property
    def stored_bytes(self) -> int:
        """What has to be kept beside W, at the size of the model's own numbers."""
        return self.stored * next(iter(self.model.parameters())).element_size()


def curry(
    model: Any,
    context: Int[Tensor, " context"],
    method: str = "sink",
    queries: Int[Tensor, "batch query"] | None = None,
    *,
    positions: str = "restart",
    bos_id: int | None = None,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Curried:
    """Put a context into the weights of a copy of the model, which itself stays as it is.

    An empty context gives back W, bit for bit, whatever the method.

    Args:
        context: token ids without BOS.
        method: one of NAMES.
        queries: what the method may try the context on, token ids without BOS; None draws 256 of 12 uniform tokens
            (fewer where they do not fit) from `generator`.
        positions: "restart" puts a query right behind BOS, "shift" where it stood behind the context.
        bos_id: what every text begins with; by default the config's.
        options: of the method.

    Raises:
        ProbeInputError: an unknown method or option, queries that are missing or do not fit, and what the Oracle or
            the method refuses.
    """
    function = method_called(method, options)
    oracle = Oracle(model, context, positions, bos_id=bos_id)
    if inspect.signature(function).parameters["queries"].default is inspect.Parameter.empty:
        queries = _queries(oracle, queries, generator)
        check_queries(model, queries, oracle.text.shape[1])
        queries = queries.detach().clone().cpu()
    else:
        queries = None
    fit = function(oracle, queries, **options) if len(oracle.context) else Fit({})
    provenance = Provenance(
        method=method,
        options=dict(options),
        chosen=dict(fit.chosen),
        context_hash=digest([oracle.context]),
        weights_hash=oracle.weights_hash,
        query_hash=None if queries is None else digest([queries]),
        positions=positions,
        bos_id=oracle.bos_id,
    )
    return Curried(
        model=updated(model, fit.weight_update),
        weight_update=fit.weight_update,
        reader=fit.reader or oracle.bare,
        context=oracle.context,
        fit_queries=queries,
        stored=fit.stored,
        token_forwards=fit.token_forwards,
        same_space=fit.same_space,
        provenance=provenance,
    )


def interpolate(curried: Curried, alpha: float) -> Curried:
    """W + alpha (W' - W): the base model at 0, the curried one at 1, beyond it above.

    Raises:
        ProbeInputError: a method that is not in weight space.
    """
    require_same_space(curried, "interpolate")
    update = {name: alpha * change for name, change in curried.weight_update.items()}
    moved = {name: (alpha - 1) * change for name, change in curried.weight_update.items()}
    return replace(curried, model=updated(curried.model, moved), weight_update=update)


def compose(
    curried: Curried, more_context: Int[Tensor, " context"], queries: Int[Tensor, "batch query"] | None = None
) -> Curried:
    """C_{C_W(x1)}(x2): the curried model given more context, and curried again by the same method and options.

    The update is that from W, so that it compares with that of the joined context in one go.  `kv` extends its cache:
    the same as joining.  Elsewhere the second context stands where a query would: right behind BOS, or shifted.

    Args:
        queries: None takes those of the first.

    Raises:
        ProbeInputError: a method that is neither `kv` nor in weight space, and what `curry` refuses.
    """
    told, first = curried.provenance, curried
    joined = torch.cat([first.context, more_context.to(first.context)])
    again = {"method": told.method, "positions": told.positions, "bos_id": told.bos_id, **told.options}
    if told.method == "kv":
        return curry(first.model, joined, **again)
    require_same_space(first, "compose")
    if told.positions == "shift":
        raise ProbeInputError("compose needs positions='restart': under 'shift' two contexts would stand in one place")
    queries = first.fit_queries if queries is None else queries
    second = curry(first.model, more_context, queries=queries, **again)
    names = {**first.weight_update, **second.weight_update}
    parts = [made.weight_update for made in (first, second)]
    update = {name: sum(part[name] for part in parts if name in part) for name in names}
    return replace(
        second,
        weight_update=update,
        context=joined,
        stored=first.stored + second.stored,
        token_forwards=first.token_forwards + second.token_forwards,
        provenance=replace(second.provenance, weights_hash=told.weights_hash, context_hash=digest([joined])),
    )


def method_called(method: str, options: dict[str, Any]) -> Callable[..., Fit]:
    """The function behind a name.

    Raises:
        ProbeInputError: no such method, or an option that it does not have.
    """
    if method not in NAMES:
        raise ProbeInputError(f"unknown method {method!r}: choose one of {', '.join(NAMES)}")
    function = pkgutil.resolve_name(NAMES[method])
    known = [name for name in inspect.signature(function).parameters if name not in ("oracle", "queries")]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ProbeInputError(
            f"{method} has no option {unknown[0]!r}: it has {', '.join(known) or 'none'}, "
            f"nearest {nearest(unknown[0], known)}"
        )
    return function


def require_same_space(curried: Curried, what: str) -> None:
    """Refuse a curried model that is more than W'.

    Raises:
        ProbeInputError: with its method.
    """
    if not curried.same_space:
        raise ProbeInputError(
            f"{what} needs weights in the same space, and {curried.provenance.method} keeps something beside them: "
            f"curry with sink or lsq_o"
        )


@torch.no_grad()
def updated(model: Any, update: dict[str, Tensor]) -> Any:
    """A copy of the model with these changes added to its parameters."""
    new = copy.deepcopy(model)
    for name, change in update.items():
        new.get_parameter(name).add_(change)
    return new


def _queries(oracle: Oracle, queries: Tensor | None, generator: torch.Generator | None) -> Tensor:
    if queries is not None:
        return queries
    if generator is None:
        raise ProbeInputError(
            "the method tries the context on queries: give them, or generator=torch.Generator().manual_seed(0) for "
            "uniform tokens"
        )
    length = min(12, oracle.model.cfg.n_ctx - oracle.text.shape[1])
    return uniform_queries(oracle.model, 256, length, generator, oracle.bos_id)
