"""Is a longer context easier to put into weights, or harder?

The first n tokens of a context are curried, n from 1 on, by a rank-one edit (sink), by least squares (lsq_o) and by the
nulls.  More of a chain or a die says the same thing ever more clearly: what is left of the divergence should fall.
More of a copied word adds facts, each asked for by another query: it should rise.  The word "in deployment" comes
first in its context and has said all there is to say.  Beside it stand rho, the gate, and the distance from Bayes's
predictor of the model with the context, of its W', and of the model alone.  The pools' models read up to 36 tokens by
one of four chains, or by a fresh one.  The empty context gives back W bit for bit.

Source: this project's; theory/currying.md and theory/query_dependence.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.currying.extent.lengths import ORACLE, Nets, longest, of_nothing, rows_of, shortened
from analyses.currying.extent.subjects import SOURCES, Queries, check_room, check_sources
from analyses.currying.nets.trained import Mixture, Pools
from toy_models.errors import ConfigError
from toy_models.tasks.in_deployment import SWITCHED

CHAIN, DIE, COPIED = "chain 0", "biased die", "copy 4"


@dataclass(frozen=True)
class Config:
    """Args: net, pools: what is trained;  sources: of the mixture's contexts;  pool_sizes: chains in a pool, 0 for
    fresh ones;  lengths, pool_lengths: tokens of a context, rising;  seeds: settings were chosen on 0 to 3."""

    net: Mixture = field(default_factory=Mixture)
    pools: Pools = field(default_factory=Pools)
    sources: tuple[str, ...] = (CHAIN, DIE, "copy 2", COPIED, SWITCHED)
    pool_sizes: tuple[int, ...] = (4, 0)
    lengths: tuple[int, ...] = (1, 2, 5, 10, 20)
    pool_lengths: tuple[int, ...] = (2, 5, 10, 20, 36)
    queries: Queries = field(default_factory=Queries)
    seeds: tuple[int, ...] = tuple(range(10, 18))

    def __post_init__(self):
        check_sources(self.sources, SOURCES, 1)
        for name, n_ctx in (("lengths", self.net.task.n_ctx), ("pool_lengths", self.pools.task.n_ctx)):
            values = getattr(self, name)
            if not values or list(values) != sorted(set(values)):
                raise ConfigError(f"{name}={values} must rise, and have one length or more")
            for length in (values[0], values[-1]):
                check_room(name, length, self.queries.length, n_ctx)


QUICK = {
    **{"seeds": (0,), "lengths": (1, 2, 5, 20), "pool_lengths": (2, 10, 36), "queries.held_out": 32},
    "queries.fit": 64,
}

COLUMNS = {
    "source": "of the context; K=4 and fresh are chains of the pools' models",
    "seed": "of training, context and queries",
    "n": "tokens of the context",
    "method": "of probes.currying; oracle: the model with the context; sibling, wrong task: sink's W' of that context",
    "kl": "KL(oracle || curried), mean over held-out queries and positions (nats)",
    "share": "1 - kl / baseline_kl; nan where that is below 1e-3 nats",
    "bayes_kl": "KL(exact predictor || curried) (nats)",
    "baseline_kl": "kl without the context (nats)",
    "rho_first": "query dependence in the first layer, mean over heads (0 to 1)",
    "rho_last": "the same in the last layer",
    "untrained_rho_last": "the same before training",
    "gate_last": "attention to the context in the last layer, mean over heads and queries (0 to 1)",
    "queries": "held-out queries that no fit has seen",
}


def run(config: Config) -> Result:
    """Find or train every seed's models, and curry the beginnings of their contexts."""
    done = run_jobs(_seed, [(config, seed) for seed in config.seeds], label="seeds")
    table = pd.DataFrame([row for rows, _ in done for row in rows], columns=list(COLUMNS))
    return Result(table, {"empty context: largest difference (seed)": np.array([gap for _, gap in done])})


def _seed(job: tuple[Config, int]) -> tuple[list[dict], float]:
    config, seed = job
    nets = Nets(config.net, config.pools, config.sources, config.pool_sizes)
    rows, gap = [], 0.0
    for whole in longest(nets, config.lengths[-1], config.pool_lengths[-1], seed):
        lengths = config.lengths if whole.d_symbols is not None else config.pool_lengths
        for n in lengths:
            found = rows_of(shortened(whole, n), config.queries, seed)
            rows += [{"source": whole.source, "seed": seed, **row} for row in found]
        gap = max(gap, of_nothing(whole.model, whole.asked(config.queries, seed)[1]))
    return rows, gap


# Claims -------------------------------------------------------------------------------------------

PROTOTYPE = "this project, on a prototype"
EARLY = 2  # tokens: the shortest context that the prototype had


def _at(result: Result, source: str, method: str, column: str, n: int | None = None) -> pd.Series:
    """A column by seed, of a length; None is the longest."""
    table = result.table[(result.table.source == source) & (result.table.method == method)]
    return table[table.n == (table.n.max() if n is None else n)].set_index("seed")[column]


def _ratio(source: str) -> Callable[[Result], list[float]]:
    """What sink leaves of the longest context, over what it leaves of the first two tokens (nats over nats)."""
    return lambda result: (_at(result, source, "sink", "kl") / _at(result, source, "sink", "kl", EARLY)).tolist()


def _rises(result: Result) -> list[float]:
    """Sink's share of the chain's longest context, less that of its first two tokens."""
    return (_at(result, CHAIN, "sink", "share") - _at(result, CHAIN, "sink", "share", EARLY)).tolist()


def _bayes(source: str, method: str) -> Callable[[Result], list[float]]:
    """KL from Bayes with the longest context in a method, over that without."""

    def measured(result: Result) -> list[float]:
        return (_at(result, source, method, "bayes_kl") / _at(result, source, "none", "bayes_kl")).tolist()

    return measured


def _one_token(result: Result) -> list[float]:
    rows = result.table[result.table.n == 1]
    return rows.groupby("seed")[["rho_first", "rho_last", "untrained_rho_last"]].max().max(axis=1).tolist()


def _ranks(result: Result) -> list[float]:
    """Spearman's correlation of rho with sink's share, over sources and lengths, one per seed."""
    rows = result.table[(result.table.method == "sink") & result.table.share.notna()]
    return [float(spearmanr(one.rho_last, one.share).statistic) for _, one in rows.groupby("seed")]


def _pools_apart(result: Result) -> list[float]:
    return (_at(result, "K=4", "sink", "share") - _at(result, "fresh", "sink", "share")).tolist()


CLAIMS = (
    Claim("An empty context gives back W bit for bit, by every method: largest difference of a weight or logit",
          "identity", "there is nothing to absorb", Bound(0.0, 0.0),
          lambda result: result.arrays["empty context: largest difference (seed)"].tolist()),
    Claim("A context of one token says the same to every query: largest rho", "identity",
          "the average over one value is that value; float32 rounding", Bound(high=1e-9), _one_token),
    Claim("The model learns in context: KL from Bayes with the chain's longest context, over that without",
          "calibration", "the exact predictor of the task", Bound(high=0.5), _bayes(CHAIN, ORACLE), every=False),
    Claim("A longer chain is easier: what sink leaves of the longest, over what it leaves of 2 tokens", "finding",
          f"{PROTOTYPE}: .012 over .042 nats", Bound(high=1.0), _ratio(CHAIN), every=False,
          explanation="a longer chain also says more: the part removed rises, what is left need not fall"),
    Claim("More of a chain fits: KL removed by sink of the longest, less that of 2 tokens", "finding",
          f"{PROTOTYPE}: .95 less .48", Bound(low=0.0), _rises, every=False),
    Claim("So is a die", "finding", "this project: contexts of low rho get easier", Bound(high=1.0), _ratio(DIE),
          every=False),
    Claim("A longer copied word is harder", "finding", f"{PROTOTYPE}: .51 over .14 nats", Bound(low=1.0),
          _ratio(COPIED), every=False),
    Claim("The word has said it all: what more text behind it changes", "finding",
          "this project: one token decides; at most doubled or halved", Bound(0.5, 2.0), _ratio(SWITCHED), every=False,
          explanation="the share stays above 0.9; what is left grows with rho, as heads also hear the text behind"),
    Claim("W' of the longest chain lies nearer to Bayes: KL from Bayes over that without a context", "finding",
          f"{PROTOTYPE}: sink leaves .01 of .2 nats", Bound(high=0.5), _bayes(CHAIN, "sink"), every=False),
    Claim("rho predicts sink's share over sources and lengths: rank correlation", "finding",
          "this project, predicted before the run", Bound(high=-0.5), _ranks, every=False,
          explanation="a single token has rho 0, and sink leaves a part of it all the same: rho is about the message, "
          "not about the gate"),
    Claim("At the longest, one of four chains fits better than a fresh one: difference of sink's shares", "finding",
          f"{PROTOTYPE}, 40 tokens: .83 and .13", Bound(low=0.4), _pools_apart, every=False,
          explanation="one context a net, of 36 tokens: nets and contexts differ widely in both"),
)  # fmt: skip
