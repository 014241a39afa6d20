"""Can a gradient step be mapped back into a context?  And which part of it?

Currying looks for the weights that a context is.  Here a step of the weights is given, of one kind of matrix at a time,
and the context is sought that makes the unchanged model do the same: key-value pairs that are free in every layer, the
strongest there is, and beside them the best of some token contexts.  Steps go down the loss on texts of a source, or in
a random direction, and are as long as changes the output by the same KL.  Shares are measured on held-out queries.

A context acts through a gate and an average per head, so what a step does to the attention among the query's own tokens
is out of its reach in the first layer; a step of W_V or W_O does nothing to it there.

Source: Petrov et al. 2024, arXiv:2310.19698; the question is of the seminar that this package serves, its measure ours.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.currying.nets.trained import Mixture
from analyses.currying.reaching.measuring import GRADIENT, OWN, one_seed
from toy_models.errors import ConfigError


@dataclass(frozen=True)
class Config:
    """Args: net: what is trained;  sources: of texts, queries and contexts;  context_length: tokens of a context, and
    free pairs beside BOS's;  candidates: token contexts tried;  fit, held_out: queries of `query_length` tokens;
    nats: what every step changes;  steps: of descent, from each of two starts."""

    net: Mixture = field(default_factory=Mixture)
    sources: tuple[str, ...] = ("chain 0", "biased die", "copy 4")
    context_length: int = 8
    candidates: int = 8
    fit: int = 64
    held_out: int = 64
    query_length: int = 12
    nats: float = 0.05
    steps: int = 40
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14, 15, 16, 17)
    device: str = "cpu"

    def __post_init__(self):
        odd = sorted(set(self.sources) - set(self.net.task.sources[:-1]))
        if odd or not self.sources:
            raise ConfigError(f"sources={self.sources} must be some of {', '.join(self.net.task.sources[:-1])}")
        if min(self.context_length, self.candidates, self.fit, self.held_out) < 1 or self.query_length < 2:
            raise ConfigError(
                f"context_length={self.context_length}, candidates={self.candidates}, fit={self.fit} and "
                f"held_out={self.held_out} must be 1 or more, query_length={self.query_length} 2 or more"
            )
        if not (self.nats > 0 and self.steps >= 0):
            raise ConfigError(f"nats={self.nats} must be positive and steps={self.steps} 0 or more")
        if (room := 1 + self.context_length + self.query_length) > self.net.model.n_ctx:
            raise ConfigError(
                f"BOS, context_length={self.context_length} and query_length={self.query_length} make {room} "
                f"positions, beyond net.model.n_ctx={self.net.model.n_ctx}: shorten one"
            )


QUICK = {"seeds": (0,), "sources": ("chain 0", "copy 4"), "steps": 9, "candidates": 3, "fit": 48, "held_out": 48}

COLUMNS = {
    "source": "of texts, queries and contexts",
    "seed": "of training, texts, queries and directions",
    "kind": "gradient, random, or a context: the sink's edit of a known one",
    "matrix": "which weights the step changes, in all layers; MLP: what its hidden units read",
    "change": "KL(step || model), both with the query alone, held-out queries (nats)",
    "share": "1 - KL(step || model behind pairs) / change: the best free pairs; of a context, BOS's pair in its edit",
    "tokens_share": "the same behind the best of the token contexts tried; of a context, behind itself",
    "random_share": "the same behind a token context, mean over those tried",
    "moved": "total variation of the first layer's attention to the query's own tokens, renormalised (0 to 1)",
    "moved_above": "the same in the layers above",
}

FIRST = "first layer's own attention behind contexts (seed)"


def run(config: Config) -> Result:
    """Take every seed's steps, and search their contexts."""
    done = run_jobs(one_seed, [(config, seed) for seed in config.seeds], label="seeds")
    table = pd.DataFrame([row for rows, _ in done for row in rows], columns=list(COLUMNS))
    return Result(table, {FIRST: np.array([worst for _, worst in done])}, {"device": config.device})


# Claims -------------------------------------------------------------------------------------------


def _shares(result: Result, *matrices: str, column: str = "share") -> pd.Series:
    """Mean over sources and matrices of the gradient's steps, by seed."""
    table = result.table[(result.table.kind == GRADIENT) & result.table.matrix.isin(matrices)]
    return table.groupby("seed")[column].mean()


def _ahead(result: Result) -> list[float]:
    return (_shares(result, "V", "O") - _shares(result, "Q", "K")).tolist()


def _beyond_tokens(result: Result) -> list[float]:
    kinds = ("Q", "K", "V", "O", "MLP")
    return (_shares(result, *kinds) - _shares(result, *kinds, column="tokens_share")).tolist()


def _known(result: Result) -> list[float]:
    return result.table[result.table.kind == OWN].groupby("seed").share.min().tolist()


def _still(result: Result) -> list[float]:
    table = result.table[(result.table.kind == GRADIENT) & result.table.matrix.isin(["V", "O"])]
    return table.groupby("seed").moved.max().tolist()


PREDICTED = "this project, predicted from Petrov et al. 2024, arXiv:2310.19698"
CLAIMS = (
    Claim("No context moves the first layer's attention among the query's own tokens: largest difference", "identity",
          "Petrov et al. 2024, arXiv:2310.19698, section 4; float64 rounding", Bound(high=1e-10),
          lambda result: result.arrays[FIRST].tolist()),
    Claim("Nor does a step of W_V or W_O: largest mean total variation", "identity",
          "scores of the first layer depend on W_Q and W_K alone; float32 rounding", Bound(high=1e-5), _still),
    Claim("A step that is a context is reached: share by BOS's own pair in the sink's edit", "finding",
          "the edit is that pair but for its leakage; this project, on a prototype: equal KL within 5e-4",
          Bound(low=0.95), _known,
          explanation="the edit also changes a little what query tokens are to each other, and a pair does not"),
    Claim("V/O steps are more reachable by a context than Q/K steps: difference of the shares", "finding", PREDICTED,
          Bound(low=0.0), _ahead, every=False),
    Claim("Steps of V and O are contexts: share reached", "finding", PREDICTED, Bound(low=0.9),
          lambda result: _shares(result, "V", "O").tolist(), every=False,
          explanation="such a step changes what every token says in its own way, and pairs answer it with what they "
          "say to everybody; what a short descent finds is a lower bound"),
    Claim("Steps of Q and K are not: share reached", "finding", PREDICTED, Bound(high=0.5),
          lambda result: _shares(result, "Q", "K").tolist(), every=False,
          explanation="the theorem forbids only what the first layer's relative attention does; gates, and layers "
          "above, are within reach, and most of such a step acts there"),
    Claim("Free pairs reach more than the best token context tried: difference of the shares", "finding",
          "pairs hold every token context; the search is on other queries", Bound(low=0.0), _beyond_tokens,
          every=False),
)  # fmt: skip
