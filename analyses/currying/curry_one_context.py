"""One context: is it a steering vector, a rank-one edit, or does it need more?

Every method of `probes.currying` puts the same context into the weights of one model, or keeps what it must beside
them.  Each is then held against the oracle, the model with the context before the query, on queries it was not fitted
on: how much of the KL it removes and how near the entities come, for how many bytes and token-forwards.  Beside them
stand nulls that know the context as a shift of the output at most, the W' of a sibling context and of another task,
and, per head, how much the context's message depends on the query (rho) and how loud it is (gate).

By default small transformers are trained on a mixture of hidden sources with an exact predictor, and a chain, a die
and a copied word are curried.  `--set model=DIRECTORY --set prompt="..."` takes a checkpoint of Hugging Face and a
prompt of your own (token ids as 5,17,3), whose sibling is the prompt in another order unless `sibling` gives one.  A
checkpoint gets fewer queries, one seed and the methods that take minutes, unless you say otherwise; the figure names
the others, and `--set methods=all` runs them.

Source: the study is this project's.  Nulls and siblings as controls, and what a context average is: theory/currying.md
and theory/query_dependence.md; a prefix acts through gate and average alone: Petrov et al. 2024, arXiv:2310.19698.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from analyses.core.claims import Bound, Claim
from analyses.core.directories import checked_files
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.currying.one_context.measuring import OWN, Measured, measure
from analyses.currying.one_context.methods import ALL
from analyses.currying.one_context.subjects import Directory, Trained
from probes.currying.curried import NAMES
from toy_models.config import TransformerConfig
from toy_models.errors import ConfigError
from toy_models.progress import progress
from toy_models.tasks.hidden_source import BOS, HiddenSource
from toy_models.train import TrainConfig


@dataclass(frozen=True)
class Queries:
    """What methods are fitted on and held against.  Args: source: the model's own samples behind the context, or
    uniform tokens;  fit, held_out: how many are drawn;  length: tokens of each."""

    source: Literal["own", "uniform"] = OWN
    fit: int = 128
    held_out: int = 128
    length: int = 12

    def __post_init__(self):
        if min(self.fit, self.held_out, self.length) < 1:
            raise ConfigError(
                f"queries: fit={self.fit}, held_out={self.held_out} and length={self.length} must be 1 or more"
            )


QUERIES_OF_DIRECTORY = Queries(fit=80, held_out=24)
SEEDS = ((10, 11, 12, 13, 14), (0,))  # of a model trained here (settings were chosen on seeds 0 and 1), of a directory


@dataclass(frozen=True)
class Config:
    """Args: contexts: sources of the task, one context of each;  prompt: a text, or ids such as 5,17,3, in place of
    them;  sibling: another such;  methods: of `probes.currying.NAMES`, or "all"; empty it is all of them for a model
    trained here, and what takes minutes for a directory;  steps: of descent, for each method that descends;  queries
    and seeds that are None are filled in: of a directory fewer, and one seed.
    The model is trained here, or is a checkpoint in a Hugging Face directory, whose `files` then names the content, and
    is filled in."""

    model: TransformerConfig | str = field(
        default_factory=lambda: TransformerConfig(
            **{"n_layers": 2, "n_heads": 2, "d_model": 48, "d_mlp": 96, "d_vocab": 13, "n_ctx": 33},
            **{"position": "rope", "normalization_type": "RMS", "bos_id": BOS},
        )
    )
    task: HiddenSource = field(default_factory=lambda: HiddenSource(sharpness=2.0, noise=0.1))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=650, batch_size=64, lr=5e-3))
    contexts: tuple[str, ...] = ("chain 0", "biased die", "copy")
    context_length: int = 20
    prompt: str = ""
    sibling: str = ""
    queries: Queries | None = None
    methods: tuple[str, ...] = ()
    steps: int = 16
    seeds: tuple[int, ...] | None = None
    device: str = "cpu"
    files: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "files", checked_files(self.model, self.files))
        for name, values in (("queries", (Queries(), QUERIES_OF_DIRECTORY)), ("seeds", SEEDS)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, values[isinstance(self.model, str)])
        if isinstance(self.model, str) and not self.prompt:
            raise ConfigError(f'model={self.model} needs a context of yours: --set prompt="..." or prompt=5,17,3')
        if self.sibling and not self.prompt:
            raise ConfigError(f"sibling={self.sibling!r} stands beside a prompt, and there is none: set prompt too")
        if unknown := sorted(set(self.methods) - {*NAMES, ALL}):
            raise ConfigError(f"methods={self.methods}: there is no {unknown[0]!r}, only {', '.join(NAMES)}, or {ALL}")
        odd = sorted(set(self.contexts) - set(self.task.sources))
        if odd or not self.contexts:
            raise ConfigError(f"contexts={self.contexts} must be some of {', '.join(self.task.sources)}")
        room = 1 + self.context_length + self.queries.length
        if isinstance(self.model, TransformerConfig) and not self.prompt and room > self.model.n_ctx:
            raise ConfigError(
                f"BOS, context_length={self.context_length} and queries.length={self.queries.length} make {room} "
                f"positions, beyond model.n_ctx={self.model.n_ctx}: shorten one"
            )


QUICK = {"train.steps": 150, "queries.fit": 64, "queries.held_out": 64, "steps": 2, "seeds": (0,)}

COLUMNS = {
    "context": "source of the context, or prompt",
    "seed": "of training, context and queries",
    "method": "name, and r where the method is tried at several; sibling and wrong task: sink's W' of that context",
    "family": "null, exact, closed form, descent, learned pairs or gradient",
    "r": "rank of the edit or number of pairs; 0 where the method has neither",
    "kl": "KL(oracle || curried), mean over held-out queries and positions (nats)",
    "baseline_kl": "the same without the context (nats)",
    "share": "1 - kl / baseline_kl; nan where that is below 1e-3 nats",
    "context_share": "1 - kl / kl of the sibling's W' by the same method; nan where none was made",
    "entity_error": "|e' - e| / |e - mean e|, mean over the sites behind every attention and block",
    "top1": "share of rows whose likeliest token is the oracle's (0 to 1)",
    "bytes": "kept beside the weights W",
    "token_forwards": "build cost; a token through the model forward 1, backward 2",
    "same_space": "whether W' says it all: the same class and parameters",
    "weight_distance": "largest |W' - W| / |W| over the matrices",
    "bayes_kl": "KL(exact predictor || curried) (nats); nan for a prompt",
    "queries": "held-out queries that no fit has seen",
}


def run(config: Config) -> Result:
    """Train every seed or find its checkpoint, or open the one that is named, and curry its contexts."""
    if isinstance(config.model, str):  # one copy of its weights serves every seed
        subject = Directory(config)
        done = [_seed((subject, seed)) for seed in progress(config.seeds, "seeds")]
    else:
        done = run_jobs(_seed, [(Trained(config), seed) for seed in config.seeds], label="seeds")
    names = list(done[0])
    rows = [
        {"context": name, "seed": seed, **row}
        for seed, found in zip(config.seeds, done, strict=True)
        for name in names
        for row in found[name].rows
    ]

    def stacked(what: str) -> np.ndarray:
        return np.stack([[getattr(found[name], what) for found in done] for name in names])

    arrays = {f"{what} (context, seed, layer, head)": stacked(what) for what in ("rho", "gate")}
    arrays |= {f"untrained {what} (context, seed, layer, head)": stacked(f"born_{what}") for what in ("rho", "gate")}
    arrays["cache error (context, seed)"] = stacked("cache_error")
    refused = {label: why for found in done for one in found.values() for label, why in one.refused.items()}
    told = {"device": config.device, "contexts": names, "refused": refused}
    return Result(pd.DataFrame(rows, columns=list(COLUMNS)), arrays, told)


def _seed(job: tuple) -> dict[str, Measured]:
    """What was measured of one seed's model, by context."""
    subject, seed = job
    model, born = subject.model(seed), subject.untrained(seed)
    return {case.name: measure(model, born, case, subject.config, seed) for case in subject.cases(seed, model)}


# Claims -------------------------------------------------------------------------------------------

CHAIN, DIE, COPIED = "chain 0", "biased die", "copy"
NULLS = ("none", "bias", "steer", "bigram_shift")
# Whoever comes later has every W', or every set of pairs, of the one before.
NESTED = (("sink", "kv_r 1"), ("kv_r 1", "kv_r 2"), ("kv_r 2", "kv_r 5"), ("lora 1", "lora 4"))
FOUR = "this project, on a prototype: .93 to .95; of a net that holds four chains, not of chains at large"
PROTOTYPE = "this project, on a prototype"


def _wide(result: Result, column: str) -> pd.DataFrame:
    """Rows (context, seed), a column per method."""
    return result.table.pivot(index=["context", "seed"], columns="method", values=column)


def _of(context: str, method: str, column: str = "share") -> Callable[[Result], list[float]]:
    return lambda result: _wide(result, column).loc[context, method].tolist()


def _ahead(*contexts: str) -> Callable[[Result], list[float]]:
    """Sink's share less that of the best null, the smallest of these contexts, one per seed."""

    def measured(result: Result) -> list[float]:
        wide = _wide(result, "share").loc[list(contexts)]
        gap = wide["sink"] - wide[[name for name in NULLS if name in wide]].max(axis=1)
        return gap.groupby("seed").min().tolist()

    return measured


def _rises(result: Result) -> list[float]:
    """Largest rise of the entity error from a method to one that contains it, one per seed."""
    wide = _wide(result, "entity_error")
    rises = [wide[more] - wide[less] for less, more in NESTED if {less, more} <= set(wide)]
    return pd.concat(rises, axis=1).max(axis=1).groupby("seed").max().tolist()


def _in_context(result: Result) -> list[float]:
    """KL(Bayes || oracle) over KL(Bayes || model without context), contexts together, one per seed."""
    total = _wide(result, "bayes_kl").groupby("seed").sum()
    return (total["kv"] / total["none"]).tolist()


def _query_dependence(result: Result) -> list[float]:
    """Mean rho of the last layer on the copied word, over that on the chain, one per seed."""
    names = result.run["contexts"]
    rho = result.arrays["rho (context, seed, layer, head)"][:, :, -1].mean(-1)
    return (rho[names.index(COPIED)] / rho[names.index(CHAIN)]).tolist()


CLAIMS = (
    Claim(
        "Cached keys and values are the context: relative difference of the logits from one pass over everything",
        "identity", "causal attention; float32 rounding", Bound(high=1e-6),
        lambda result: result.arrays["cache error (context, seed)"].max(0).tolist(),
    ),
    Claim(
        "The model learns in context: KL from Bayes's predictor with the context, over that without", "calibration",
        "the exact predictor of the task", Bound(high=0.5), _in_context, every=False,
    ),
    Claim("A chain context fits into a rank-one edit, with four chains: KL removed by sink", "finding", FOUR,
          Bound(low=0.9), _of(CHAIN, "sink"), every=False),
    Claim("So does a die: KL removed by sink", "finding", PROTOTYPE, Bound(low=0.9), _of(DIE, "sink"), every=False),
    Claim(
        "A copied word does not: KL removed by sink", "finding",
        f"{PROTOTYPE}; a fixed prefix adds the same to every query, Petrov et al. 2024, arXiv:2310.19698",
        Bound(high=0.55), _of(COPIED, "sink"), every=False,
    ),
    Claim("On chain and die sink removes more KL than every null", "finding", PROTOTYPE, Bound(low=0.0),
          _ahead(CHAIN, DIE)),
    Claim("On a chain by far: share of sink less that of the best null", "finding", f"{PROTOTYPE}: .43", Bound(low=0.3),
          _ahead(CHAIN), every=False),
    Claim("A die's context is its task: KL removed by a sibling's W'", "finding", f"{PROTOTYPE}: .96", Bound(low=0.9),
          _of(DIE, "sibling"), every=False),
    Claim("A copied word is its own: KL removed by a sibling's W'", "finding", f"{PROTOTYPE}: -.09", Bound(high=0.1),
          _of(COPIED, "sibling"), every=False),
    Claim("Nested methods keep their order on new queries: largest rise of the entity error", "finding",
          "exact on the queries of the fit; the allowance is for new ones", Bound(high=0.05), _rises),
    Claim("Copying depends on who asks: rho of the last layer over that on a chain", "finding",
          f"{PROTOTYPE}: .33 over .05 to .09", Bound(low=2.5), _query_dependence, every=False),
)  # fmt: skip
