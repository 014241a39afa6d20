"""Many contexts and every method: which null explains a task's contexts, and which method says the rest?

A model that learned chains, dice, copied words and the word "in deployment" gets some contexts of each.  Every method
puts each context into weights, or keeps what it must beside them, and is held against the model with the context on
queries that no fit has seen.  Three numbers: the share of the KL that W' removes; the share that is this context's own,
beyond what the W' of another context of the same source removes by the same method; and the error of the entities.

Nulls say what a context is where they suffice.  `bias` is a marginal: one shift of the logits.  `steer` is a vector per
layer.  `bigram_shift` is a bigram law: one shift per current token.  The sibling's W' is the task's identity, without
anything of this very context.  `wrong task` is the W' of another source's context.

The model's own samples behind a context tell what the context told.  `sink, uniform queries` is fitted on tokens that
nothing told, so that no data of the task leaks into the fit.

Source: the study is this project's; nulls, siblings and methods: theory/currying.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from analyses.currying.every_method.measuring import measure
from analyses.currying.every_method.methods import UNIFORM
from analyses.currying.nets.seeds import table_by_seed
from analyses.currying.nets.trained import Mixture
from toy_models.errors import ConfigError
from toy_models.tasks.in_deployment import SWITCHED

CHAIN, DIE, COPIED = "chain 0", "biased die", "copy 4"


@dataclass(frozen=True)
class Config:
    """Args: net: what is trained;  sources: of its task;  contexts: of each source, 2 or more, since the next of them
    is a context's sibling;  context_length: tokens;  fit, held_out, query_length: how many queries a method is fitted
    on and held against, and their tokens;  steps: of descent, for every method that descends."""

    net: Mixture = field(default_factory=Mixture)
    sources: tuple[str, ...] = (CHAIN, DIE, COPIED, SWITCHED)
    contexts: int = 3
    context_length: int = 20
    fit: int = 48
    held_out: int = 64
    query_length: int = 12
    steps: int = 6
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14, 15, 16, 17)
    device: str = "cpu"

    def __post_init__(self):
        odd = sorted(set(self.sources) - set(self.net.task.sources))
        if odd or not self.sources:
            raise ConfigError(f"sources={self.sources} must be some of {', '.join(self.net.task.sources)}")
        if self.contexts < 2:
            raise ConfigError(f"contexts={self.contexts} must be 2 or more: a context's sibling is the next of them")
        if min(self.fit, self.held_out, self.query_length, self.context_length) < 2 or self.steps < 0:
            raise ConfigError(
                f"context_length={self.context_length}, query_length={self.query_length}, fit={self.fit} and "
                f"held_out={self.held_out} must be 2 or more and steps={self.steps} 0 or more"
            )
        room = 1 + self.context_length + self.query_length
        if room > self.net.model.n_ctx:
            raise ConfigError(
                f"BOS, context_length={self.context_length} and query_length={self.query_length} make {room} "
                f"positions, beyond net.model.n_ctx={self.net.model.n_ctx}: shorten one"
            )


QUICK = {"contexts": 2, "fit": 32, "held_out": 48, "steps": 2, "seeds": (0,)}

COLUMNS = {
    "source": "what the context is a text of",
    "index": "which context of the source",
    "seed": "of training, contexts and queries",
    "method": "name, and r where the method is tried at several; wrong task: sink's W' of another source's context",
    "family": "null, exact, closed form, descent, learned pairs or gradient",
    "r": "rank of the edit or number of pairs; 0 where the method has neither",
    "kl": "KL(oracle || curried), mean over held-out queries and positions (nats)",
    "baseline_kl": "the same without the context (nats)",
    "share": "1 - kl / baseline_kl; nan where that is below 1e-3 nats",
    "sibling_share": "the same for the W' of the source's next context, by the same method; nan where none is made",
    "context_share": "1 - kl / kl of that W': what is this context's own; nan where none is made",
    "entity_error": "|e' - e| / |e - mean e|, mean over the sites behind every attention and block",
    "fit_error": "mean square of the entity error on the queries of the fit; nan where it was fitted on others",
    "bytes": "kept beside the weights W",
    "token_forwards": "build cost; a token through the model forward 1, backward 2",
    "posterior": "exact probability of the source given the context (0 to 1)",
    "queries": "held-out queries that no fit has seen",
}


def run(config: Config) -> Result:
    """Train every seed or find its checkpoint, and curry its contexts by every method."""
    return Result(table_by_seed(_seed, config, COLUMNS), {}, {"device": config.device})


def _seed(job: tuple[Config, int]) -> list[dict]:
    """All rows of a seed."""
    config, seed = job
    model, task = config.net.trained(seed).model.to(config.device), config.net.task_of(seed)
    return [row for source in config.sources for row in measure(model, task, source, config, seed)]


# Claims -------------------------------------------------------------------------------------------

NULLS = ("none", "bias", "steer", "bigram_shift")
# Whoever comes later has every W', or every set of pairs, of the one before, and starts there or better.
NESTED = (("sink", "lora 1"), ("sink", "lsq"), ("lsq_o", "lsq"), ("kv_r 1", "kv_r 2"), ("kv_r 2", "kv_r 5"))
PROTOTYPE = "this project, on a prototype"
BIGRAM = "this project: behind the word a known chain speaks, which is a bigram law"


def _of(source: str, method: str, column: str = "share") -> Callable[[Result], list[float]]:
    """The mean over the source's contexts, one per seed."""

    def measured(result: Result) -> list[float]:
        table = result.table[(result.table.source == source) & (result.table.method == method)]
        return table.groupby("seed")[column].mean().tolist()

    return measured


def _wide(result: Result, column: str) -> pd.DataFrame:
    """Rows (source, seed, index), a column per method."""
    return result.table.pivot(index=["source", "seed", "index"], columns="method", values=column)


def _ahead(result: Result) -> list[float]:
    """On chains, sink's share less that of the best null of each context, mean over contexts, one per seed."""
    wide = _wide(result, "share").loc[CHAIN]
    return (wide["sink"] - wide[list(NULLS)].max(axis=1)).groupby("seed").mean().tolist()


def _query_source(result: Result) -> list[float]:
    """Share of sink on own queries less that on uniform ones, the source with the largest, one per seed."""
    wide = _wide(result, "share")
    lost = (wide["sink"] - wide[UNIFORM]).groupby(["source", "seed"]).mean()
    return lost.groupby("seed").max().tolist()


def _rises(pairs: tuple[tuple[str, str], ...]) -> Callable[[Result], list[float]]:
    """Largest rise of the fit error from a method to one that contains it, over all contexts, one per seed."""

    def measured(result: Result) -> list[float]:
        wide = _wide(result, "fit_error")
        rises = pd.concat([wide[more] - wide[less] for less, more in pairs], axis=1).max(axis=1)
        return rises.groupby("seed").max().tolist()

    return measured


CLAIMS = (
    Claim(
        "Cached keys and values are the context: share of the KL removed, least of all contexts", "calibration",
        "causal attention; float32 rounding", Bound(low=0.99999),
        lambda result: _wide(result, "share")["kv"].groupby("seed").min().tolist(),
    ),
    Claim("Whoever contains a method and starts there is never worse on the queries of the fit: largest rise of the "
          "squared entity error", "identity", "theory/currying.md, nesting; float32 rounding", Bound(high=1e-5),
          _rises(NESTED)),
    Claim("One learned pair is no worse than sink, where it begins but for leakage, on the queries of the fit: largest "
          "rise of the squared entity error", "calibration", "theory/currying.md, nesting", Bound(high=0.0),
          _rises((("sink", "kv_r 1"),))),
    Claim("Sink beats every null on chains, with four chains: its share less that of the best null", "finding",
          f"{PROTOTYPE}: .43", Bound(low=0.2), _ahead, every=False),
    Claim("On a die the sibling explains it: KL removed by a sibling's W' (sink)", "finding", f"{PROTOTYPE}: .96",
          Bound(low=0.9), _of(DIE, "sink", "sibling_share"), every=False),
    Claim("On chains it does not: share of sink that is this context's own", "finding", f"{PROTOTYPE}: .58 and .85",
          Bound(low=0.5), _of(CHAIN, "sink", "context_share"), every=False,
          explanation="where sink holds both of them, another context of the same chain says the same: which chain"),
    Claim("On a copied word of four the sibling explains nothing: KL removed by its W' (sink)", "finding",
          f"{PROTOTYPE}: -.09, words of five", Bound(high=0.1), _of(COPIED, "sink", "sibling_share"), every=False),
    Claim("Behind the word a table of bigrams nearly explains it: KL removed by bigram_shift", "finding", BIGRAM,
          Bound(low=0.8), _of(SWITCHED, "bigram_shift"), every=False),
    Claim("There is nothing else to know: share of sink that is this context's own behind the word", "finding",
          f"{BIGRAM}, whatever came before", Bound(high=0.2), _of(SWITCHED, "sink", "context_share"), every=False),
    Claim("Uniform queries serve sink as well as samples behind the context: share lost, the task that loses most",
          "finding", f"{PROTOTYPE}: at most .02", Bound(high=0.1), _query_source, every=False),
)  # fmt: skip
