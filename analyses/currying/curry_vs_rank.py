"""How many key-value pairs does a context need, and is it one for every fact?

A context says, token by token, what comes next.  Call *facts* the number of distinct tokens in it that something
follows: the period of a copied word whose letters differ, the states that a chain has visited.  A prefix of r pairs
adds r messages to every head, and which of them a query hears hangs on the query: so copying should need about as many
pairs as there are facts.  A context that only says *which* known source it is moves every query alike, and one pair
does, however many tokens it has.  Chains of a pool of four and fresh chains are the same kind of text to two models
that training made different: one looks its chain up, the other has to count.

Each context is put into 1, 2, ... learned pairs, each number from the one before (`kv_r`); into W' of rank r, fitted
(`lora`, the best on the fit queries of all ranks so far) or truncated (`lsq_o`, the nearest of rank r).  r_90 is the
least number of pairs that removes 90 % of the KL on queries that no fit has seen.

Sources: a prefix acts through gate and average alone: Petrov et al. 2024, arXiv:2310.19698; retrieval and inference of
chains: Park et al. 2024, arXiv:2412.01003; the law of facts is this project's prediction.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from analyses.currying.nets.seeds import table_by_seed
from analyses.currying.nets.trained import Mixture, Pools
from analyses.currying.ranks.measuring import LORA, PAIRS, measure
from analyses.currying.ranks.subjects import MIXED, POOLED, in_pools
from toy_models.errors import ConfigError

COPIES, CHAIN, DIE, KNOWN, FRESH = ("copy 2", "copy 4", "copy 8"), "chain 0", "biased die", "K=4", "fresh"


@dataclass(frozen=True)
class Config:
    """Args: net, pools: what is trained;  sources: of the mixture, or "K=4" for a pool of four chains, or "fresh";
    contexts: of each source;  pairs: the most that are learned;  ranks: of W', rising;  fit, held_out: queries;
    steps: of Adam, for every number of pairs and every rank."""

    net: Mixture = field(default_factory=Mixture)
    pools: Pools = field(default_factory=Pools)
    sources: tuple[str, ...] = (*COPIES, CHAIN, DIE, KNOWN, FRESH)
    contexts: int = 1
    pairs: int = 12
    ranks: tuple[int, ...] = (1, 2, 4, 8)
    fit: int = 48
    held_out: int = 64
    steps: int = 8
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14, 15, 16, 17)
    device: str = "cpu"

    def __post_init__(self):
        known = self.net.task.sources
        odd = [source for source in self.sources if source not in known and not in_pools(source)]
        if odd or not self.sources:
            raise ConfigError(f"sources={self.sources} must be some of {', '.join(known)}, K=<chains> and fresh")
        most = min(MIXED[0], POOLED[0]) + 1
        if not 1 <= self.pairs <= most:
            raise ConfigError(f"pairs={self.pairs} must lie between 1 and {most}, the keys of BOS and context")
        width = min(self.net.model.d_model, self.pools.model.d_model)
        if (
            list(self.ranks) != sorted({*self.ranks})
            or not self.ranks
            or not 1 <= self.ranks[0] <= self.ranks[-1] <= width
        ):
            raise ConfigError(f"ranks={self.ranks} must rise from 1 or more to at most d_model={width}")
        if min(self.contexts, self.fit, self.held_out) < 1 or self.steps < 0:
            raise ConfigError(
                f"contexts={self.contexts}, fit={self.fit} and held_out={self.held_out} must be 1 or more, "
                f"steps={self.steps} 0 or more"
            )


QUICK = {"pairs": 8, "ranks": (1, 8), "fit": 24, "held_out": 32, "steps": 3, "seeds": (0,)}

COLUMNS = {
    "source": "what the context is a text of; K=4 a chain of a pool of four, fresh one that training never showed",
    "index": "which context of the source",
    "seed": "of training, contexts and queries",
    "method": "kv_r, lora, lsq_o, sink, kv or a null; sibling, wrong task: sink's W' of such a context",
    "r": "pairs, or rank of W' in every matrix; 0 where the method has neither",
    "facts": "distinct tokens of the context that something follows",
    "kl": "KL(oracle || curried), mean over held-out queries and positions (nats)",
    "baseline_kl": "the same without the context (nats)",
    "share": "1 - kl / baseline_kl; nan where that is below 1e-3 nats",
    "entity_error": "|e' - e| / |e - mean e|, mean over the sites behind every attention and block",
    "fit_error": "mean square of the entity error on the queries of the fit",
    "queries": "held-out queries that no fit has seen",
    "enough": "r_90 of the context: least pairs of kv_r whose share is 0.9; one more than were learned if none has it",
}


def run(config: Config) -> Result:
    """Train every seed or find its checkpoints, and curry its contexts at every rank."""
    return Result(table_by_seed(_seed, config, COLUMNS), {}, {"device": config.device})


def _seed(job: tuple[Config, int]) -> list[dict]:
    """All rows of a seed."""
    config, seed = job
    jobs = [(source, index) for source in config.sources for index in range(config.contexts)]
    return [row for source, index in jobs for row in measure(source, config, seed, index)]


# Claims -------------------------------------------------------------------------------------------

PREDICTED = "this project's prediction, from Petrov et al. 2024, arXiv:2310.19698"
PROTOTYPE = "this project, on a prototype"


def _contexts(result: Result, *sources: str) -> pd.DataFrame:
    """One row per context, facts and r_90."""
    table = result.table[result.table.source.isin(sources) & (result.table.method == PAIRS) & (result.table.r == 1)]
    return table.sort_values("seed")


def _slope(result: Result) -> list[float]:
    """Least-squares slope of r_90 over facts on copied words, one per seed."""
    return [float(np.polyfit(one.facts, one.enough, 1)[0]) for _, one in _contexts(result, *COPIES).groupby("seed")]


def _more_than_known(result: Result) -> list[float]:
    """r_90 of copied words of 4 and 8 less the larger of chains' and dice's, means over contexts, one per seed."""
    enough = _contexts(result, *COPIES[1:], CHAIN, DIE).groupby(["seed", "source"]).enough.mean().unstack()
    return (enough[list(COPIES[1:])].mean(axis=1) - enough[[CHAIN, DIE]].max(axis=1)).tolist()


def _per_fact(source: str) -> Callable[[Result], list[float]]:
    """r_90 over facts, mean over contexts, one per seed."""

    def measured(result: Result) -> list[float]:
        found = _contexts(result, source)
        return (found.enough / found.facts).groupby(found.seed).mean().tolist()

    return measured


def _shares(source: str, *wanted: int) -> Callable[[Result], Sequence[float]]:
    """Share of kv_r with the first number of pairs, less that with the second if there is one; one per seed."""

    def measured(result: Result) -> list[float]:
        table = result.table[(result.table.source == source) & (result.table.method == PAIRS)]
        share = table.groupby(["seed", "r"]).share.mean().unstack()
        found = share[wanted[0]] - (share[wanted[1]] if len(wanted) > 1 else 0)
        return found.tolist()

    return measured


def _rises(result: Result) -> list[float]:
    """Largest rise of the fit error with one rank more, kv_r and lora, one per seed."""
    table = result.table[result.table.method.isin((PAIRS, LORA))]
    rise = table.sort_values("r").groupby(["seed", "source", "index", "method"]).fit_error.diff()
    return rise.groupby(table.seed).max().tolist()


def _whole(result: Result) -> list[float]:
    table = result.table[result.table.method == "kv"]
    return table.groupby("seed").share.min().tolist()


CLAIMS = (
    Claim("All keys and values of BOS and context are the context: share of the KL removed, least of all contexts",
          "calibration", "causal attention; float32 rounding", Bound(low=0.99999), _whole),
    Claim("More pairs, or more rank, never fit worse: largest rise of the squared entity error on the fit queries",
          "identity", "theory/currying.md, nesting; float32 rounding", Bound(high=1e-6), _rises),
    Claim("Copying needs pairs of about the number of distinct facts: slope of r_90 over facts, words of 2, 4 and 8",
          "finding", PREDICTED, Bound(0.5, 2.0), _slope, every=False,
          explanation="every head has pairs of its own: two heads can share the facts, and 90 % leaves some out"),
    Claim("And more than contexts that say which: r_90 of words of 4 and 8 less the larger of a chain's and a die's",
          "finding", PREDICTED, Bound(low=1.0), _more_than_known, every=False),
    Claim("A die is flat: share with 5 pairs less that with 1", "finding", f"{PROTOTYPE}: 0", Bound(high=0.1),
          _shares(DIE, 5, 1), every=False),
    Claim("A chain is flat: share with 5 pairs less that with 1", "finding", f"{PROTOTYPE}: .03 to .04",
          Bound(high=0.1), _shares(CHAIN, 5, 1), every=False,
          explanation="some of these contexts take several pairs, though their chain is certain (r_90 of 1 to 4)"),
    Claim("One pair holds a chain of a pool of four: share of the KL removed", "finding", f"{PROTOTYPE}: .82 to .83",
          Bound(low=0.8), _shares(KNOWN, 1), every=False),
    Claim("A fresh chain needs about one pair for every state it has visited: r_90 over facts", "finding",
          f"{PREDICTED}; counting is like copying", Bound(0.5, 2.0), _per_fact(FRESH), every=False),
)  # fmt: skip
