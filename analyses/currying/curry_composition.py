"""Does currying compose: is x2 put into the weights that have x1 the same as x1 x2 put there at once?

Three ways to absorb a context of two parts: C(x1 x2) at once; C_{C(x1)}(x2), one behind the other; and half-curried,
the weights C(x1) with x2 still before the query.  Each is held against the model with x1 x2, in outputs, and
C_{C(x1)}(x2) against C(x1 x2) in weights: relative distance and cosine of the changes, of the weights and of the
products QK and OV, beside those of a second fit of the same context on other queries.  Parts are the halves of one
context, or contexts of two sources.  Nulls: either half alone, the two changes added, and the halves in the other
order; what the order is worth, the model with x2 x1 says.  Every operator sees samples behind its own context alone.

Cached keys and values compose exactly.  So does the sink where queries do not depend on the token (curry_exact); a
trained model need not.

Source: this project's; theory/currying.md, "Composition, in outputs and in weights".
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.currying.extent.halves import METHODS, THEN, cache_error, measured, pair
from analyses.currying.extent.subjects import SOURCES, Queries, check_room
from analyses.currying.nets.trained import Mixture
from toy_models.errors import ConfigError
from toy_models.tasks.in_deployment import SWITCHED

CHAIN, WORD_LAST = "chain 0", f"chain 0{THEN}{SWITCHED}"
COPIES = ("copy 2", "copy 4")
PAIRS = (
    *(CHAIN, "biased die", *COPIES, SWITCHED),
    *(f"chain 0{THEN}chain 1", WORD_LAST, f"biased die{THEN}copy 4"),
)
KNOWN = (*SOURCES, "chain 1", "chain 2", "chain 3")


@dataclass(frozen=True)
class Config:
    """Args: net: what is trained;  pairs: a source, whose context is halved, or two, "one then another";  length: of
    both parts together;  seeds: settings were chosen on 0 to 3."""

    net: Mixture = field(default_factory=Mixture)
    pairs: tuple[str, ...] = PAIRS
    length: int = 20
    queries: Queries = field(default_factory=Queries)
    seeds: tuple[int, ...] = tuple(range(10, 18))

    def __post_init__(self):
        for name in self.pairs:
            odd = [source for source in name.split(THEN) if source not in KNOWN]
            if odd or name.count(THEN) > 1:
                raise ConfigError(f"pairs={name!r} must be one of {', '.join(KNOWN)}, or two with{THEN}between them")
        if not self.pairs or self.length < 4:
            raise ConfigError(f"pairs={self.pairs} must have one or more, and length={self.length} be 4 or more")
        check_room("length", self.length, self.queries.length, self.net.task.n_ctx)


QUICK = {"seeds": (0,), "queries.held_out": 32}

COLUMNS = {
    "pair": "a source, whose context is halved into x1 and x2; or that of x1, then that of x2",
    "seed": "of training, contexts and queries",
    "method": "by which a context is curried",
    "baseline_kl": "KL(model with x1 x2 || model without), mean over held-out queries and positions (nats)",
    "direct_kl": "KL(model with x1 x2 || C(x1 x2)) (nats), and so below",
    "again_kl": "of C(x1 x2) fitted on other queries",
    "composed_kl": "of C_{C(x1)}(x2)",
    "half_kl": "of C(x1) with x2 before the query",
    "swapped_kl": "of C_{C(x2)}(x1)",
    "added_kl": "of W + (C(x1) - W) + (C(x2) - W)",
    "first_kl": "of C(x1) alone",
    "second_kl": "of C(x2) alone",
    "oracle_swapped_kl": "of the model with x2 x1",
    "direct_share": "1 - direct_kl / baseline_kl; nan where that is below 1e-3 nats",
    "composed_share": "1 - composed_kl / baseline_kl",
    "composed_apart": "|C_{C(x1)}(x2) - C(x1 x2)| / |C(x1 x2) - W|, all weights",
    "composed_cosine": "cosine of the two changes, all weights",
    "composed_free_apart": "composed_apart of the products QK and OV, which have no basis inside a head",
    "composed_free_cosine": "their cosine",
    "again_apart": "the same four of C(x1 x2) fitted on other queries: what the law could at best do",
    "again_cosine": "",
    "again_free_apart": "",
    "again_free_cosine": "",
    "rho_last": "query dependence of x1 x2 in the last layer, mean over heads (0 to 1)",
    "queries": "held-out queries that no fit has seen",
}


def run(config: Config) -> Result:
    """Find or train every seed's model, and curry its contexts in all ways."""
    done = run_jobs(_seed, [(config, seed) for seed in config.seeds], label="seeds")
    table = pd.DataFrame([row for rows, _ in done for row in rows], columns=list(COLUMNS))
    arrays = {"cache error (seed, pair)": np.array([errors for _, errors in done])}
    return Result(table, arrays, {"pairs": list(config.pairs)})


def _seed(job: tuple[Config, int]) -> tuple[list[dict], list[float]]:
    config, seed = job
    model, task = config.net.trained(seed).model, config.net.task_of(seed)
    rows, errors = [], []
    for name in config.pairs:
        one = pair(name, task, model, config.length, config.queries, seed)
        errors.append(cache_error(one))
        for method in METHODS:
            told = {"pair": name, "seed": seed, "method": method}
            rows.append({**told, **measured(one, method, config.queries, seed)})
    return rows, errors


# Claims -------------------------------------------------------------------------------------------

PROTOTYPE = "this project, on a prototype"


def _rows(result: Result, *pairs: str, method: str = "sink") -> pd.DataFrame:
    table = result.table[result.table.method == method]
    return table[table.pair.isin(pairs)] if pairs else table


def _ratio(one: str, other: str, *pairs: str) -> Callable[[Result], list[float]]:
    """Mean of a column over that of another, pairs together, one per seed."""

    def measured(result: Result) -> list[float]:
        mean = _rows(result, *pairs).groupby("seed")[[one, other]].mean()
        return (mean[one] / mean[other]).tolist()

    return measured


def _mean(column: str, *pairs: str) -> Callable[[Result], list[float]]:
    return lambda result: _rows(result, *pairs).groupby("seed")[column].mean().tolist()


CLAIMS = (
    Claim("The cache of x1 extended by x2 is that of x1 x2: relative difference of the logits", "identity",
          "causal attention; float32 rounding", Bound(high=1e-5),
          lambda result: result.arrays["cache error (seed, pair)"].max(1).tolist()),
    Claim("A chain's halves compose in outputs: KL of C_{C(x1)}(x2) over that of C(x1 x2), by sink", "finding",
          f"{PROTOTYPE}: .0208 over .0102; errors add", Bound(high=2.5), _ratio("composed_kl", "direct_kl", CHAIN),
          every=False),
    Claim("Half-curried errs no more than curried twice: ratio of KL on a chain", "finding",
          f"{PROTOTYPE}: .0093 over .0208", Bound(high=1.0), _ratio("half_kl", "composed_kl", CHAIN), every=False),
    Claim("They do not compose in weights: |C_{C(x1)}(x2) - C(x1 x2)| over |C(x1 x2) - W| on a chain", "finding",
          f"{PROTOTYPE}: .30", Bound(low=0.1), _mean("composed_apart", CHAIN), every=False),
    Claim("Nor in the products QK and OV, which have no basis inside a head", "finding",
          f"{PROTOTYPE}: .30 in all weights", Bound(low=0.1), _mean("composed_free_apart", CHAIN), every=False),
    Claim("Yet nearly in direction: cosine of the changes on a chain", "finding", f"{PROTOTYPE}: .96",
          Bound(low=0.9), _mean("composed_cosine", CHAIN), every=False),
    Claim("A copied word's halves do not make the word: KL removed by C_{C(x1)}(x2)", "finding",
          f"{PROTOTYPE}: .487 of .86 nats left", Bound(high=0.55), _mean("composed_share", *COPIES), every=False),
    Claim("Composing is more than adding: KL of C_{C(x1)}(x2) over that of both changes added, chain and die",
          "finding", "the sink's group is merged by log-sum-exp, which is no sum", Bound(high=1.0),
          _ratio("composed_kl", "added_kl", CHAIN, "biased die"), every=False),
    Claim("Of a chain's halves the order says little: KL of C_{C(x2)}(x1) over that of C_{C(x1)}(x2)", "finding",
          "evidence for a source adds up in any order; twice is our allowance", Bound(high=2.0),
          _ratio("swapped_kl", "composed_kl", CHAIN), every=False),
    Claim("In either order the word rules: the same ratio on a chain and then the word", "finding",
          "behind the word the task has one law, whatever else was said; twice is our allowance", Bound(high=2.0),
          _ratio("swapped_kl", "composed_kl", WORD_LAST), every=False),
)  # fmt: skip
