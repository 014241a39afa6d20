"""Local or far, the same for every query or not: are these one question about a context, or two?

Of many contexts of every source two things are measured.  (a) Locality: the least |dW| / |W| on any path at hand that
removes 90 % of the divergence from the model with the context, and how much the best step against the gradient of the
context's own loss removes.  Paths are the straight ways to sink's and lsq_o's W', to fits that pay for |dW|, and steps
against gradients; so a distance is an upper bound.  (b) Query dependence: rho of the last layer, the share of the
context's message that differs between queries, and how much a rank-one edit (sink) removes, which is the same for all.

The four cells would be: a die near and the same for all; a copied word of which every query asks something else; and
the word "in deployment", which says the same to every query and yet lies where no gradient leads.  It stands amid
twenty tokens, and alone, where rho is 0 by definition.  A pool of four chains and fresh chains are the ends of another
axis.  Controls: the untrained model with the same contexts; the nulls, a sibling's and another task's W'.

Source: this project's; locality and query dependence: theory/locality.md and theory/query_dependence.md.  That a prefix
acts through gate and average alone: Petrov et al. 2024, arXiv:2310.19698.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.currying.extent.reach import measured
from analyses.currying.extent.subjects import (
    ALONE,
    SOURCES,
    Queries,
    check_room,
    check_sources,
    of_mixture,
    of_pools,
)
from analyses.currying.nets.trained import Mixture, Pools
from toy_models.errors import ConfigError
from toy_models.tasks.in_deployment import SWITCHED

TRAINED, UNTRAINED = "trained", "untrained"


@dataclass(frozen=True)
class Config:
    """Args: net, pools: what is trained;  sources: of the mixture's contexts;  pool_sizes: chains in a pool, 0 for
    fresh ones;  context_length, pool_context_length: tokens;  contexts: of each source;  penalty: of the fit, on a
    |dW| as large as each matrix, in units of baseline_kl;  steps: of the fit;  seeds: settings
    were chosen on 0 to 3."""

    net: Mixture = field(default_factory=Mixture)
    pools: Pools = field(default_factory=Pools)
    sources: tuple[str, ...] = (*SOURCES, ALONE)
    pool_sizes: tuple[int, ...] = (4, 0)
    context_length: int = 20
    pool_context_length: int = 32
    contexts: int = 2
    queries: Queries = field(default_factory=Queries)
    penalty: float = 1.0
    steps: int = 60
    seeds: tuple[int, ...] = tuple(range(10, 18))

    def __post_init__(self):
        check_sources(self.sources, (*SOURCES, ALONE), self.contexts)
        check_room("context_length", self.context_length, self.queries.length, self.net.task.n_ctx)
        check_room("pool_context_length", self.pool_context_length, self.queries.length, self.pools.task.n_ctx)
        if not self.penalty >= 0 or self.steps < 1:
            raise ConfigError(f"penalty={self.penalty} must be 0 or more, and steps={self.steps} 1 or more")


QUICK = {"seeds": (0,), "steps": 15, "contexts": 1, "queries.held_out": 32}

COLUMNS = {
    "source": "of the context; K=4 and fresh are chains of the pools' models",
    "seed": "of training, context and queries",
    "index": "which context of its source",
    "moment": f"{TRAINED}, or {UNTRAINED}: the same model and context before training",
    "baseline_kl": "KL(oracle || model without the context), mean over held-out queries and positions (nats)",
    "bayes_kl": "KL(exact predictor || oracle) (nats); untrained: nan",
    "bayes_none_kl": "KL(exact predictor || model without the context) (nats); untrained: nan",
    "rho_first": "query dependence in the first layer, mean over heads (0 to 1)",
    "rho_last": "the same in the last layer",
    "gate_last": "attention to the context in the last layer, mean over heads and queries (0 to 1)",
    "sink": "share of baseline_kl removed by sink's W'; nan where that is below 1e-3 nats, as are all shares",
    "lsq_o": "the same by lsq_o's",
    "bias": "by a shift of the logits",
    "steer": "by a shift of the stream",
    "bigram_shift": "by a shift of the logits for every current token",
    "sibling": "by sink's W' of another context of the source",
    "wrong": "by sink's W' of a context of another source",
    "gradient": "by the best step against the gradient of the context's own loss: plain or rms, any length",
    "distill": "by the best step against the gradient of the divergence itself",
    "distance_90": "least |dW| / |W| that removes 90 % of baseline_kl; inf where no path does",
    "distance_50": "the same for 50 %",
    "sink_distance": "|dW| / |W| of sink's W'",
    "queries": "held-out queries that no fit has seen",
}


def run(config: Config) -> Result:
    """Find or train every seed's models, and measure their contexts."""
    jobs = [(config, seed) for seed in config.seeds]
    rows = [row for found in run_jobs(_seed, jobs, label="seeds") for row in found]
    return Result(pd.DataFrame(rows, columns=list(COLUMNS)))


def _seed(job: tuple[Config, int]) -> list[dict]:
    config, seed = job
    subjects = [
        *of_mixture(config.net, config.sources, config.context_length, config.contexts, seed),
        *of_pools(config.pools, config.pool_sizes, config.pool_context_length, config.contexts, seed),
    ]
    rows = []
    for subject in subjects:
        told = {"source": subject.source, "seed": seed, "index": subject.index}
        after, before = measured(subject, config, seed)
        rows += [{**told, "moment": TRAINED, **after}, {**told, "moment": UNTRAINED, **before}]
    return rows


# Claims -------------------------------------------------------------------------------------------

DIE, COPIES = "biased die", ("copy 2", "copy 4", "copy 8")
PLAN = "this project, predicted before the run"
PROTOTYPE = "this project, on a prototype"


def _rows(result: Result, moment: str = TRAINED, sources: tuple[str, ...] = ()) -> pd.DataFrame:
    table = result.table[result.table.moment == moment]
    return table[table.source.isin(sources)] if sources else table


def _mean(column: str, *sources: str, moment: str = TRAINED) -> Callable[[Result], list[float]]:
    return lambda result: _rows(result, moment, sources).groupby("seed")[column].mean().tolist()


def _ratio(top: tuple[str, str], bottom: tuple[str, str], *sources: str) -> Callable[[Result], list[float]]:
    """Mean of a column in a moment, over that of another, contexts together, one per seed."""

    def measured(result: Result) -> list[float]:
        means = [_rows(result, moment, sources).groupby("seed")[column].mean() for column, moment in (top, bottom)]
        return (means[0] / means[1]).tolist()

    return measured


def _over(column: str, one: tuple[str, ...], other: tuple[str, ...]) -> Callable[[Result], list[float]]:
    """Mean of a column on some sources over that on others, one per seed."""

    def measured(result: Result) -> list[float]:
        means = [_rows(result, TRAINED, names).groupby("seed")[column].mean() for names in (one, other)]
        return (means[0] / means[1]).tolist()

    return measured


def _farther(result: Result) -> list[float]:
    """The share of pairs of a context with the word and a die's in which the first lies farther, one per seed."""
    found = []
    for _, rows in _rows(result).groupby("seed"):
        word, die = (rows[rows.source == name].distance_90.to_numpy() for name in (SWITCHED, DIE))
        found.append(float(np.mean([(a > b) + 0.5 * (a == b) for a in word for b in die])))
    return found


def rank_correlation(rows: pd.DataFrame, column: str) -> float:
    """Spearman's, of a column with sink's share; a distance that no path reached is the longest."""
    known = rows[rows["sink"].notna()]
    return float(spearmanr(known[column], known["sink"]).statistic)


def _predicts(*columns: str) -> Callable[[Result], list[float]]:
    """The rank correlation of a column with sink's share, or how much stronger that of the first is."""

    def of(rows: pd.DataFrame) -> float:
        found = [rank_correlation(rows, column) for column in columns]
        return found[0] if len(found) == 1 else abs(found[0]) - abs(found[1])

    return lambda result: [of(rows) for _, rows in _rows(result).groupby("seed")]


CLAIMS = (
    Claim(
        "A context of one token says the same to every query: its largest rho, of either layer and either model",
        "identity", "the average over one value is that value; float32 rounding", Bound(high=1e-9),
        lambda result: result.table[result.table.source == ALONE].groupby("seed")[["rho_first", "rho_last"]].max()
        .max(axis=1).tolist(),
    ),
    Claim(
        "The model learns in context: KL from Bayes's predictor with the context, over that without", "calibration",
        "the exact predictors of the tasks", Bound(high=0.5),
        _ratio(("bayes_kl", TRAINED), ("bayes_none_kl", TRAINED)), every=False,
    ),
    Claim(
        "The word says the same to every query: rho of the last layer amid twenty tokens, over that of copying",
        "finding", f"{PLAN}: copying's is at least 2.5 times that of contexts of low rho", Bound(high=0.4),
        _over("rho_last", (SWITCHED,), COPIES), every=False,
        explanation="amid text the message is also of the symbols around the word, and which of them is asked for "
        "differs; of the word alone rho is 0",
    ),
    Claim("The word fits into a rank-one edit: KL removed by sink, amid twenty tokens", "finding", PLAN,
          Bound(low=0.9), _mean("sink", SWITCHED), every=False),
    Claim("So does the word alone: KL removed by sink", "finding", PLAN, Bound(low=0.9), _mean("sink", ALONE),
          every=False),
    Claim("Yet it lies farther than a die: share of pairs in which it does", "finding", PLAN, Bound(low=0.9), _farther,
          every=False),
    Claim("And no gradient step leads there: the best one's share over sink's", "finding",
          f"{PLAN}: at most half, as on chains", Bound(high=0.5), _ratio(
              ("gradient", TRAINED), ("sink", TRAINED), SWITCHED), every=False),
    Claim("To a die a step does lead: the best one's share over sink's", "finding", f"{PROTOTYPE}: .83 over .99",
          Bound(low=0.5), _ratio(("gradient", TRAINED), ("sink", TRAINED), DIE), every=False),
    Claim(
        "Query dependence is learned: rho of the last layer on copied words, untrained over trained", "finding",
        "this project, seed 0: about .02; attention at birth is nearly even", Bound(high=0.2),
        _ratio(("rho_last", UNTRAINED), ("rho_last", TRAINED), *COPIES), every=False,
    ),
    Claim("rho predicts what a rank-one edit can do: rank correlation with sink's share over contexts", "finding", PLAN,
          Bound(high=-0.5), _predicts("rho_last"), every=False),
    Claim("Distance predicts it less: how much weaker its rank correlation is, at 90 %", "finding", PLAN,
          Bound(low=0.0), _predicts("rho_last", "distance_90"), every=False,
          explanation="where weights hardly remove 90 %, one pair removes less too; at half of the KL it is not so"),
    Claim("The same at half of the KL, which a path removes of nearly every context", "finding", PLAN, Bound(low=0.0),
          _predicts("rho_last", "distance_50"), every=False),
)  # fmt: skip
