"""Does it depend on the algorithm that training selected whether a context fits into a rank-one edit?

A transformer is trained on texts by K Markov chains, for K from two to a fresh chain in every text, with the same
number of updates for every K.  Few chains can be retrieved: a context then says which of them it is, a point in a
simplex of K - 1 dimensions that every query uses alike.  Many have to be inferred: a context is a table, and a query
reads the row of its own token.  After several numbers of updates the study measures

    weights     as which mixture of unigram or bigram retrieval or inference the model speaks
    sink        the share of KL(oracle, curried) that a rank-one edit of BOS's key and value removes
    rho         how much of what a head takes from the context depends on the query

with nulls (bias, steer, bigram_shift, another context of the same chain), the untrained model, exact Bayes, and the rho
of a head that looks up what followed the query's token.

Sources: the four ways and their phases: Park et al. 2024, arXiv:2412.01003; transience with the diversity of tasks:
Raventos et al. 2023, arXiv:2306.15063; that the choice decides what a context needs is this project's.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.currying.nets.trained import Pools
from analyses.currying.phase.measures import NULLS, Voice, calibrated, curried, voice
from toy_models.errors import ConfigError
from toy_models.tasks.chain_pool import WAYS

FRESH = 0
INFERENCE = WAYS.index("bigram inference")


@dataclass(frozen=True)
class Queries:
    """Samples of the model behind the context; an untrained one is asked uniform tokens.

    Args: fit, held_out: how many;  length: tokens of each.
    """

    fit: int = 96
    held_out: int = 64
    length: int = 12


@dataclass(frozen=True)
class Config:
    """Args: pools: what is trained;  n_chains: sizes of the pool, rising, 0 (fresh chains) last;  steps: updates after
    which a model is measured, the last update last;  contexts: of each;  texts: for the algorithm weights, of the pool
    and of fresh chains, each."""

    pools: Pools = field(default_factory=Pools)
    n_chains: tuple[int, ...] = (2, 4, 16, 64, FRESH)
    steps: tuple[int, ...] = (0, 200, 400, 800, 1600)
    context_length: int = 32
    contexts: int = 4
    texts: int = 128
    queries: Queries = field(default_factory=Queries)
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14, 15, 16, 17)
    device: str = "cpu"

    def __post_init__(self):
        every, last = self.pools.train.checkpoint_every, self.pools.train.steps
        if not self.n_chains or list(self.n_chains) != sorted(set(self.n_chains), key=lambda k: k or np.inf):
            raise ConfigError(f"n_chains={self.n_chains} must rise, with 0 (fresh chains) last")
        odd = [step for step in self.steps if step != last and (step < 0 or step > last or not every or step % every)]
        if odd or list(self.steps) != sorted(set(self.steps)) or self.steps[-1:] != (last,):
            raise ConfigError(
                f"steps={self.steps} must rise in multiples of pools.train.checkpoint_every={every} and end at "
                f"pools.train.steps={last}"
            )
        room = 1 + self.context_length + self.queries.length
        if room > self.pools.model.n_ctx:
            raise ConfigError(f"BOS, context and query make {room} positions, beyond n_ctx={self.pools.model.n_ctx}")


QUICK = {
    "n_chains": (4, FRESH),
    "steps": (0, 400, 1600),
    "contexts": 2,
    "texts": 64,
    "queries.held_out": 48,
    "seeds": (0,),
}

COLUMNS = {
    "n_chains": "in the pool; 0: a fresh one in every text",
    "step": "updates",
    "seed": "of training, pool, contexts and queries",
    "context": "number of the context; its chain is drawn",
    "inference": "weight of bigram inference in what the model says, one number a model and moment (0 to 1)",
    "baseline_kl": "KL(oracle || model without the context), mean over held-out queries and positions (nats)",
    "sink": "share of that which the rank-one edit removes; nan where baseline_kl is below 1e-3",
    "lsq_o": "the same by least squares on W_O, after the last update alone, as those below",
    "bias": "the same by one vector of logits",
    "steer": "the same by one vector a site",
    "bigram_shift": "the same by the mean shift of log probabilities behind each token",
    "sibling": "the same by sink's edit for another context of the same chain",
    "rho_first": "query dependence in the first layer, mean over heads (0 to 1)",
    "rho_last": "query dependence in the last layer",
    "rho_look_up": "that of a head which returns the mean one-hot of what followed the query's token",
}

LOSSES = ("pool", "fresh", "pool, exact", "fresh, exact")


def run(config: Config) -> Result:
    """Train every size and seed or find it, and measure it after every number of updates."""
    jobs = [(config, n_chains, seed) for n_chains in config.n_chains for seed in config.seeds]
    done = run_jobs(_one, jobs, label="models")
    rows = [row for found in done for row in found[0]]
    shape = (len(config.n_chains), len(config.seeds))

    def stacked(take: Callable[[Voice], object]) -> np.ndarray:
        """(chains, step, seed, ...)."""
        values = np.array([[take(one) for one in found[1]] for found in done])
        return values.reshape(*shape, *values.shape[1:]).swapaxes(1, 2)

    arrays = {
        "weights (chains, step, seed, way)": stacked(lambda one: one.weights),
        "residual (chains, step, seed)": stacked(lambda one: one.residual),
        "losses (chains, step, seed, which)": stacked(lambda one: (*one.losses, *one.exact)),
        "calibration (chains, seed)": np.array([found[2] for found in done]).reshape(shape),
    }
    return Result(pd.DataFrame(rows, columns=list(COLUMNS)), arrays, {"device": config.device, "ways": list(WAYS)})


def _one(job: tuple[Config, int, int]) -> tuple[list[dict], list[Voice], float]:
    """One model: a row for every moment and context, its voice at every moment, and the calibration of that."""
    config, n_chains, seed = job
    trained = config.pools.trained(n_chains, seed, config.steps)
    task, fresh = trained.config.task, config.pools.task_of(FRESH, seed)
    rows, voices = [], []
    for step in config.steps:
        model = trained.at(step).eval().to(config.device)
        voices.append(voice(model, task, fresh, config.texts, seed))
        told = {"n_chains": n_chains, "step": step, "seed": seed, "inference": voices[-1].weights[INFERENCE]}
        for index in range(config.contexts):
            moment = {"born": step == 0, "beside": step == config.steps[-1]}
            found = curried(model, task, config, seed, index, **moment)
            rows.append({**told, "context": index, **found})
    return rows, voices, calibrated(task, fresh, config.texts, seed)


# Claims -------------------------------------------------------------------------------------------

FEW, MANY = 4, 64
PROTOTYPE = "this project, on a prototype of 3 seeds"
PARK = "Park et al. 2024, arXiv:2412.01003, section 3"


def final(result: Result, column: str) -> pd.DataFrame:
    """Means over contexts after the last update: a row per seed, a column per size of pool, fresh chains last."""
    config = result.run["config"]
    last = result.table[result.table.step == config["steps"][-1]]
    wide = last.pivot_table(index="seed", columns="n_chains", values=column, dropna=False)
    return wide[[n_chains for n_chains in config["n_chains"] if n_chains in wide]]


def _size(result: Result, column: str, n_chains: int) -> pd.Series:
    """One number per seed; none if no such model was measured."""
    wide = final(result, column)
    return wide[n_chains] if n_chains in wide else pd.Series(dtype=float)


def _at(column: str, n_chains: int) -> Callable[[Result], list[float]]:
    return lambda result: _size(result, column, n_chains).tolist()


def _fall(column: str, before: int, after: int) -> Callable[[Result], list[float]]:
    def measured(result: Result) -> list[float]:
        return (_size(result, column, before) - _size(result, column, after)).dropna().tolist()

    return measured


def _ahead(result: Result) -> list[float]:
    """Sink's share less that of the best null, with few chains."""
    nulls = pd.concat([_size(result, name, FEW) for name in NULLS], axis=1)
    return (_size(result, "sink", FEW) - nulls.max(axis=1)).tolist()


def _trend(column: str) -> Callable[[Result], list[float]]:
    """Rank correlation with the size of the pool, fresh chains the largest, one per seed."""

    def measured(result: Result) -> list[float]:
        wide = final(result, column)
        return [spearmanr(range(len(row)), row).statistic for row in wide.to_numpy()]

    return measured


def _weight(way: str, n_chains: int) -> Callable[[Result], list[float]]:
    def measured(result: Result) -> list[float]:
        at = result.run["config"]["n_chains"].index(n_chains)
        return result.arrays["weights (chains, step, seed, way)"][at, -1, :, WAYS.index(way)].tolist()

    return measured


def models(result: Result) -> pd.DataFrame:
    """A row per model and moment after birth: means over its contexts."""
    born = result.table.step == 0
    return result.table[~born].groupby(["n_chains", "step", "seed"], as_index=False).mean()


def _correlation(one: str, other: str) -> Callable[[Result], list[float]]:
    """Rank correlation of two columns over sizes and moments, one per seed."""

    def measured(result: Result) -> list[float]:
        known = models(result).dropna(subset=[one, other])
        return [spearmanr(rows[one], rows[other]).statistic for _, rows in known.groupby("seed")]

    return measured


def _unigram(result: Result) -> list[float]:
    """Sink's share in models for fresh chains while unigrams have most of the weight, the mean of such moments."""
    found = models(result)
    found = found[(found.n_chains == FRESH) & (found.inference < 0.5)]
    return found.groupby("seed").sink.mean().reindex(result.run["config"]["seeds"]).tolist()


def _excess(result: Result) -> list[float]:
    """Loss on fresh chains above exact inference, with few chains less that with the most."""
    config = result.run["config"]
    losses = result.arrays["losses (chains, step, seed, which)"][:, -1]
    excess = losses[..., LOSSES.index("fresh")] - losses[..., LOSSES.index("fresh, exact")]
    most = max(config["n_chains"])
    return (excess[config["n_chains"].index(FEW)] - excess[config["n_chains"].index(most)]).tolist()


CLAIMS = (
    Claim(
        "Algorithm weights of the exact predictor: its own", "calibration", "theory/algorithm_weights.md",
        Bound(low=0.99), lambda result: result.arrays["calibration (chains, seed)"].min(0).tolist(),
    ),
    Claim("Four chains are retrieved: weight of bigram retrieval", "replication", PARK, Bound(low=0.5),
          _weight("bigram retrieval", FEW), every=False),
    Claim("Fresh chains are inferred: weight of bigram inference", "replication", PARK, Bound(low=0.8),
          _weight("bigram inference", FRESH), every=False,
          explanation="three of eight seeds still spoke unigrams after so many updates; the others gave it .86 or more",
          source_verdict="reproduced in the seeds that left unigrams, not in all of them"),
    Claim(
        "A larger pool makes the model ready for chains it has not seen: excess loss on fresh chains, four less most",
        "replication", "Raventos et al. 2023, arXiv:2306.15063", Bound(low=0.5), _excess, every=False,
    ),
    Claim("With four chains a rank-one edit holds the context: share of the KL removed", "finding",
          f"{PROTOTYPE}: .83 (.68 to .96)", Bound(low=0.68), _at("sink", FEW), every=False),
    Claim("There it removes more than every null (bias, steer, bigram shift), in every seed", "finding",
          "theory/currying.md: retrieval is a point that every query uses alike", Bound(low=0.0), _ahead),
    Claim("The share falls as the pool grows: rank correlation with K", "finding", PROTOTYPE, Bound(high=-0.6),
          _trend("sink"), every=False,
          explanation="two chains fall out, whose contexts say least (0.06 nats), and so do models for fresh chains "
          "that still speak unigrams, which fit"),
    Claim("By far: share at four less that at 64 chains", "finding", f"{PROTOTYPE}: .79", Bound(low=0.5),
          _fall("sink", FEW, MANY), every=False),
    Claim("Most of it between 16 and 64 chains", "finding", f"{PROTOTYPE}: .53", Bound(low=0.3),
          _fall("sink", 16, MANY), every=False),
    Claim("Query dependence rises as the pool grows: rank correlation with K", "finding", PROTOTYPE, Bound(low=0.6),
          _trend("rho_last"), every=False),
    Claim("By far: rho of the last layer at 64 less that at four chains", "finding", f"{PROTOTYPE}: .40",
          Bound(low=0.3), _fall("rho_last", MANY, FEW), every=False),
    Claim(
        "It is the algorithm: rank correlation of the share with the weight of bigram inference, all K and steps",
        "finding", PROTOTYPE, Bound(high=-0.6), _correlation("sink", "inference"), every=False,
        explanation="who retrieves need not tell all queries the same: with two chains, and early in training, rho is "
        ".2 to .5 and sink fails",
    ),
    Claim("What decides at every moment is rho: rank correlation of the share with it, all K and steps", "finding",
          "theory/query_dependence.md: a context of rho 0 is one key-value pair", Bound(high=-0.6),
          _correlation("sink", "rho_last"), every=False),
    Claim("Rho follows it too: its rank correlation with that weight", "finding", PROTOTYPE, Bound(low=0.6),
          _correlation("rho_last", "inference"), every=False,
          explanation="the same models: retrieval with a rho of .2 to .5"),
    Claim(
        "Before they infer bigrams, models for fresh chains fit too, unigrams being a shift for all queries: share",
        "finding", "this project, on one pilot seed: .92", Bound(low=0.7), _unigram, every=False,
    ),
)  # fmt: skip
