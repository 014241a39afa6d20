"""`compare`: how close a curried model comes to its oracle, how far it went, and what it cost.

    kl              KL(oracle || curried), nats, mean over queries and positions, and per position
    share removed   1 - kl / kl of `none` at the same positions; undefined (None) where that is below 1e-3 nats
    context share   1 - kl / kl of a sibling: W' made from another context of the same task, read on this oracle
    entity error    |e' - e|_F / max(|e - mean e|_F, 0.03 |e|_F) per site; the mean is over all rows
    exact kl        KL(exact || oracle), of curried and of `none`, where somebody knows what Bayes's rule says

The floor keeps a site whose entities hardly differ from making much of nothing.  Outputs may agree where entities do
not: read both.  A sibling, or a W' of another task, is `curry` of that context, given here as `sibling`.

Source: ours; theory/currying.md has the derivations.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.comparable import ENTITY_FLOOR, SMALLEST_BASELINE, require_comparable
from probes.currying.curried import Curried
from probes.currying.directions import Directions, directions
from probes.currying.distances import MATRICES, gauge_free, participation, spectrum, stable_rank
from probes.currying.oracle import Oracle
from probes.currying.reading import AfterBos, Reader, check_queries, sites
from probes.currying.solving import kl
from probes.currying.stream import Stream

CHUNK = 2**24  # logits held at once


@dataclass(frozen=True)
class CurryReport:
    """One curried model beside its oracle, on held-out queries.

    Per matrix: W_Q, W_K, W_V, W_O of layer 0, of layer 1, ..., then every other parameter that was changed, as
    `matrices` lists them.  Stable rank and participation are NaN where nothing changed.  `leakage` is how much of the
    change of W_K and W_V other tokens read, |x Delta|^2 / |b Delta|^2 with x a token's and b BOS's input, mean over
    tokens; NaN where they did not change, or without BOS.  `rho` and `gate` are the oracle's and NaN where it has none.
    """

    kl: Float[Tensor, ""] = field(metadata={"unit": "nats"})
    kl_per_position: Float[Tensor, " query"] = field(metadata={"unit": "nats"})
    baseline_kl: Float[Tensor, ""] = field(metadata={"unit": "nats"})
    top1: Float[Tensor, ""] = field(metadata={"unit": "share"})
    share_removed: float | None
    context_share: float | None
    sites: tuple[str, ...]
    entity_error: Float[Tensor, " site"]
    baseline_entity_error: Float[Tensor, " site"]
    matrices: tuple[str, ...]
    weight_distance: Float[Tensor, " matrix"]
    stable_rank: Float[Tensor, " matrix"]
    participation: Float[Tensor, " matrix"]
    qk_distance: Float[Tensor, "layer head"]
    ov_distance: Float[Tensor, "layer head"]
    leakage: Float[Tensor, "layer part"]
    rho: Float[Tensor, "layer head"] = field(metadata={"unit": "share"})
    gate: Float[Tensor, "layer head"] = field(metadata={"unit": "share"})
    stored_bytes: int = field(metadata={"unit": "bytes"})
    token_forwards: int
    exact_kl: Float[Tensor, "oracle_curried_none"] | None = field(default=None, metadata={"unit": "nats"})
    directions: Directions | None = None


def compare(
    curried: Curried,
    oracle: Oracle,
    queries: Int[Tensor, "batch query"],
    *,
    sibling: Curried | None = None,
    exact: Callable[[Tensor], Tensor] | None = None,
    gradient: dict[str, Tensor] | None = None,
) -> CurryReport:
    """Measure a curried model on queries that it was not fitted on.

    Args:
        oracle: of the same weights; of another context it shows what W' is worth there.
        sibling: W' of another context, by the same method, for `context_share`.
        exact: from texts (batch, pos), BOS first, to the log probabilities (batch, pos, d_vocab) that Bayes's rule
            gives the next token, for `exact_kl`; such as a task's `predict`.
        gradient: of a loss, for `directions`: cosines, and the share within an angle, which costs a search.

    Raises:
        ProbeInputError: queries that the fit has seen, an oracle of other weights, or queries that do not fit; with a
            gradient what `directions` refuses.
    """
    require_comparable(curried, oracle, queries)
    bare = AfterBos(oracle.bos_id, len(curried.context) if curried.provenance.positions == "shift" else 0)
    readings = {"curried": (curried.model, curried.reader)}
    if sibling is not None:
        require_comparable(sibling, oracle, queries)
        readings["sibling"] = (sibling.model, sibling.reader)
    for model, reader in ((oracle.model, bare), *readings.values()):
        check_queries(model, queries, reader.length)
    found = _readings(oracle, queries, readings)
    nothing = {"none": (oracle.model, bare)}
    found |= oracle.once(f"none {bare.length}", queries, lambda: _readings(oracle, queries, nothing))
    mean = {name: one.kl.mean() / len(queries) for name, one in found.items()}
    far = mean["none"].item() >= SMALLEST_BASELINE
    weights = _weights(curried, oracle)
    qk, ov = gauge_free(oracle.model, curried.model)
    rho, gate = oracle.once("heads", queries, lambda: _heads(oracle, queries))
    return CurryReport(
        kl=mean["curried"],
        kl_per_position=found["curried"].kl / len(queries),
        baseline_kl=mean["none"],
        top1=found["curried"].agreed / queries.numel(),
        share_removed=1 - (mean["curried"] / mean["none"]).item() if far else None,
        context_share=1 - (mean["curried"] / mean["sibling"]).item() if sibling is not None else None,
        sites=sites(oracle.model),
        entity_error=found["curried"].error(),
        baseline_entity_error=found["none"].error(),
        matrices=tuple(weights),
        weight_distance=torch.stack([row[0] for row in weights.values()]),
        stable_rank=torch.stack([row[1] for row in weights.values()]),
        participation=torch.stack([row[2] for row in weights.values()]),
        qk_distance=qk,
        ov_distance=ov,
        leakage=leakage(curried, queries),
        rho=rho,
        gate=gate,
        stored_bytes=curried.stored_bytes,
        token_forwards=curried.token_forwards,
        exact_kl=None if exact is None else _from_exact(exact, oracle, queries, (readings["curried"], nothing["none"])),
        directions=None if gradient is None else directions(curried, oracle, queries, gradient),
    )


@dataclass
class _Sums:
    """Running sums over chunks of queries, in float64; sites in the order of `sites`."""

    kl: Tensor  # query
    agreed: Tensor  # ()
    off: Tensor  # site: sum of |e' - e|^2
    total: Tensor  # site d_model: sum of e
    square: Tensor  # site: sum of |e|^2
    rows: int

    @classmethod
    def empty(cls, model: Any, queries: Tensor) -> "_Sums":
        n, like = len(sites(model)), {"dtype": torch.float64}
        return cls(
            kl=torch.zeros(queries.shape[1], **like),
            agreed=torch.zeros((), **like),
            off=torch.zeros(n, **like),
            total=torch.zeros(n, model.cfg.d_model, **like),
            square=torch.zeros(n, **like),
            rows=queries.numel(),
        )

    def add(self, target: tuple[Tensor, dict[str, Tensor]], read: tuple[Tensor, dict[str, Tensor]]) -> None:
        self.kl += kl(target[0], read[0]).sum(0).cpu()
        self.agreed += (target[0].argmax(-1) == read[0].argmax(-1)).sum().cpu()
        for i, (entity, other) in enumerate(zip(target[1].values(), read[1].values(), strict=True)):
            wide = entity.double().cpu()
            self.off[i] += (other.double().cpu() - wide).square().sum()
            self.total[i] += wide.sum((0, 1))
            self.square[i] += wide.square().sum()

    def error(self) -> Float[Tensor, " site"]:
        spread = (self.square - self.total.square().sum(-1) / self.rows).clamp(min=0)
        return (self.off / torch.maximum(spread, ENTITY_FLOOR**2 * self.square)).sqrt()


@torch.no_grad()
def _readings(oracle: Oracle, queries: Tensor, readings: dict[str, tuple[Any, Reader]]) -> dict[str, _Sums]:
    """Every reading beside the oracle, some queries at a time."""
    wanted = sites(oracle.model)
    found = {name: _Sums.empty(oracle.model, queries) for name in readings}
    for some in _chunks(oracle, queries):
        target = _ordered(oracle.read(some, wanted), wanted)
        for name, (model, reader) in readings.items():
            found[name].add(target, _ordered(reader.read(model, some, wanted), wanted))
    return found


@torch.no_grad()
def _from_exact(
    exact: Callable[[Tensor], Tensor], oracle: Oracle, queries: Tensor, readings: tuple[tuple[Any, Reader], ...]
) -> Float[Tensor, "oracle_curried_none"]:
    """KL(exact || each), mean over queries and positions; what is impossible adds nothing."""
    total, before = torch.zeros(1 + len(readings), dtype=torch.float64), oracle.text.shape[1]
    for some in _chunks(oracle, queries):
        said = (oracle.logits(some), *(reader.read(model, some)[0] for model, reader in readings))
        wanted = exact(torch.cat([oracle.text.expand(len(some), -1), some], 1))[:, before:].double().cpu()
        for i, logits in enumerate(said):
            off = wanted.exp() * (wanted - logits.double().cpu().log_softmax(-1))
            total[i] += off.where(wanted > -torch.inf, 0.0).sum()
    return total / queries.numel()


def _ordered(read: tuple[Tensor, dict[str, Tensor]], wanted: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    return read[0], {name: read[1][name] for name in wanted}


def _chunks(oracle: Oracle, queries: Tensor) -> Iterator[Tensor]:
    per_row = queries.shape[1] * max(oracle.model.cfg.d_vocab, oracle.text.shape[1])
    yield from queries.split(max(1, CHUNK // per_row))


def _weights(curried: Curried, oracle: Oracle) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """By parameter: relative distance, stable rank, participation."""
    layers = range(oracle.model.cfg.n_layers)
    listed = [f"blocks.{layer}.attn.{name}" for layer in layers for name in MATRICES]
    listed += [name for name in curried.weight_update if name not in listed]
    rows = {}
    for name in listed:
        base = oracle.model.get_parameter(name).detach()
        s = spectrum(curried.weight_update.get(name, torch.zeros_like(base)), writes=name.endswith("W_O"))
        rows[name] = (s.square().sum().sqrt() / base.double().norm().cpu(), stable_rank(s), participation(s))
    return rows


def _heads(oracle: Oracle, queries: Tensor) -> tuple[Tensor, Tensor]:
    """rho and mean gate, (layer, head); NaN where the oracle has no gates: no context, no BOS, or no softmax."""
    cfg = oracle.model.cfg
    softmax = type(getattr(cfg, "normaliser", None)).__name__ in ("NoneType", "Softmax")
    if not (len(oracle.context) and oracle.bos_id is not None and softmax):
        return torch.full((2, cfg.n_layers, cfg.n_heads), torch.nan).unbind()
    heads = oracle.heads(queries)
    rho = torch.stack([one.rho.double().cpu() for one in heads])
    return rho, torch.stack([one.gate.double().mean((0, 2)).cpu() for one in heads])


@torch.no_grad()
def leakage(curried: Curried, queries: Int[Tensor, "batch query"]) -> Float[Tensor, "layer part"]:
    """Of what the changes of W_K and W_V do to BOS, the share that they do to another token: 0 or more, NaN where
    they are not changed or the curried model is not read behind BOS."""
    model, reader = curried.model, curried.reader
    found = torch.full((model.cfg.n_layers, 2), torch.nan, dtype=torch.float64)
    if not isinstance(reader, AfterBos) or reader.bos_id is None:
        return found
    stream = Stream(model, reader.text(queries), visible=reader.visible(queries))
    for layer in range(model.cfg.n_layers):
        read = stream.look(())
        for part, (letter, given) in enumerate((("K", "key_input"), ("V", "value_input"))):
            change = curried.weight_update.get(f"blocks.{layer}.attn.W_{letter}")
            if change is not None and change.any():
                size = torch.einsum("bpd,hde->bphe", read[given].double(), change.double()).square().sum((2, 3))
                found[layer, part] = (size[:, reader.length :].mean() / size[0, 0]).cpu()
        stream.advance()
    return found
