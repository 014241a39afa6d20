"""What does a context cost: which method is the best for so many bytes, and for so much computing?

A user who wants a context without its tokens may keep all keys and values, keep some of them (attention matching),
learn a few pairs, distil into a low-rank or a full update of the weights, write a closed form into them, steer, or
shift the logits.  Here all of them get the same fit queries and the same budgets of token-forwards (a token through the
model forward 1, backward 2).  What descends does so from the best closed form that it contains, at two step sizes whose
costs both count; the better on the fit queries is kept, and held-out queries are seen once.  A method whose smallest
descent is beyond a budget has no row there.

A budget of a million token-forwards, in which a tool for larger models would be tuned, is scaled to a quarter here: all
rows of a context would take a minute.  All but the smallest budget are spent on the first context of a source alone.

Sources: attention matching: Zweiger et al. 2026, arXiv:2602.16284; learned pairs: Li and Liang 2021, arXiv:2101.00190,
and Eyuboglu et al. 2025, arXiv:2506.06266; low rank: Hu et al. 2021, arXiv:2106.09685; the comparison is ours.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.currying.frontier.claims import CLAIMS, ORDER
from analyses.currying.frontier.measuring import one_seed
from analyses.currying.nets.trained import Mixture
from toy_models.errors import ConfigError

__all__ = ["CLAIMS", "COLUMNS", "QUICK", "Config", "run"]


@dataclass(frozen=True)
class Config:
    """Args: net: what is trained;  sources: of the contexts, `contexts` of each, of `context_length` tokens;  fit,
    held_out: own queries of `query_length` tokens;  pairs, ranks: r of attention matching and learned pairs, and of
    LoRA;  budgets: token-forwards, rising; all but the smallest are for first contexts alone."""

    net: Mixture = field(default_factory=Mixture)
    sources: tuple[str, ...] = ("chain 0", "biased die", "copy 4", "in deployment")
    context_length: int = 20
    contexts: int = 2
    fit: int = 128
    held_out: int = 128
    query_length: int = 12
    pairs: tuple[int, ...] = (1, 2, 5, 10)
    ranks: tuple[int, ...] = (1, 4)
    budgets: tuple[int, ...] = (25_000, 100_000, 250_000)
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14, 15, 16, 17)  # step sizes and steps were chosen on seeds 0 and 1
    device: str = "cpu"

    def __post_init__(self):
        odd = sorted(set(self.sources) - set(self.net.task.sources))
        if odd or not self.sources:
            raise ConfigError(f"sources={self.sources} must be some of {', '.join(self.net.task.sources)}")
        if min(self.contexts, self.fit, self.held_out, self.query_length) < 1:
            raise ConfigError(
                f"contexts={self.contexts}, fit={self.fit}, held_out={self.held_out} and query_length="
                f"{self.query_length} must be 1 or more"
            )
        for name in ("pairs", "ranks", "budgets"):
            values = getattr(self, name)
            if not values or list(values) != sorted(set(values)) or values[0] < 1:
                raise ConfigError(f"{name}={values} must be whole numbers from 1 on that rise")
        room = 1 + self.context_length + self.query_length
        if room > self.net.model.n_ctx or self.pairs[-1] > 1 + self.context_length:
            raise ConfigError(
                f"BOS, context_length={self.context_length} and query_length={self.query_length} make {room} positions "
                f"of net.model.n_ctx={self.net.model.n_ctx}, and pairs={self.pairs} may go to 1 + context_length: "
                f"change one"
            )


QUICK = {
    **{"seeds": (0,), "contexts": 1, "fit": 64, "held_out": 64, "pairs": (1, 10), "ranks": (1,)},
    "budgets": (40_000,),
}

COLUMNS = {
    "source": "of the context",
    "context": "which of the source's contexts; all but the first have rows at the smallest budget alone",
    "seed": "of training, contexts and queries",
    "method": "name, and r where it has several; sibling and wrong task: sink's W' of that context",
    "family": "null, exact, closed form, descent, learned pairs or gradient",
    "r": "pairs or rank; 0 where the method has neither",
    "budget": "token-forwards that it might spend; the smallest for what needs no descent",
    "spent": "token-forwards that it spent, both step sizes together",
    "rate": "step size chosen on the fit queries; nan without descent",
    "steps": "of descent, at each step size",
    "fit_queries": "that it was fitted on",
    "kl": "KL(oracle || curried), mean over held-out queries and positions (nats)",
    "baseline_kl": "the same without the context (nats)",
    "share": "1 - kl / baseline_kl; nan where that is below 1e-3 nats",
    "entity_error": "|e' - e| / |e - mean e|, mean over the sites behind every attention and block",
    "objective": "mean square of that on all fit queries: what descent lessens",
    "bytes": "kept beside the weights W",
    "keys": "that the last token of a query attends to, itself included: the cost of using the context",
    "queries": "held-out queries that no fit has seen",
}


def run(config: Config) -> Result:
    """Take every seed's model and curry its contexts by every method, within every budget."""
    done = run_jobs(one_seed, [(config, seed) for seed in config.seeds], label="seeds")
    table = pd.DataFrame([row for rows, _ in done for row in rows], columns=list(COLUMNS))
    arrays = {ORDER: np.array([order for _, order in done])}
    return Result(table, arrays, {"device": config.device, "dtype": "float32"})
