"""Does attention stay sharp as the text grows?

A small transformer with rotary positions learns to read bytes of Python's standard library in short windows, and is
then shown held-out windows far longer than those.  At each length, for every head: how many keys a query uses, how
large its largest weight is, and how far its scores spread; beside them what Lemma 2.1 allows at that spread, the same
model before training, and a head with all scores equal, whose answers are known.  No (query, key) matrix is made:
`model.attention_statistics` gives one row of numbers per query, and a second pass with -q gives the smallest score.

`--set model=DIRECTORY` measures a checkpoint of Hugging Face instead, beside an untrained twin: on held-out text by its
own tokenizer, or on random ids if it has none.

One pass over the longest text serves every length: in a causal model the queries up to position n see what a text of n
tokens would show them.  Training runs on the CPU, so that every device measures the same model.  On a GPU
(`--set device=cuda --set lengths=1024,16384,131072`) Triton's kernels measure it where they serve; run.json names them.

Source: Velickovic et al. 2024, arXiv:2410.01104: Lemma 2.1 and Theorem 2.2 (at bounded spread attention disperses).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import pandas as pd
import torch

from analyses.attention.subjects.checkpoint import Checkpoint
from analyses.attention.subjects.kernels import with_kernels
from analyses.attention.subjects.scores import WITHOUT_A_TABLE, hindrance
from analyses.attention.subjects.trained import Trained
from analyses.core.claims import Bound, Claim
from analyses.core.directories import checked_files
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from probes.sharpness import peak_bound, spread
from toy_models.attention import attend
from toy_models.canonical import added
from toy_models.config import TransformerConfig
from toy_models.errors import ConfigError
from toy_models.progress import progress
from toy_models.tasks.text import BOS, Text
from toy_models.train import TrainConfig

TRAINED, UNTRAINED, UNIFORM = "trained", "untrained", "uniform"
CONDITIONS = (TRAINED, UNTRAINED, UNIFORM)


@dataclass(frozen=True)
class Config:
    """Args: lengths: of context, in tokens;  texts: held-out windows of the longest length;  last_rows: queries at the
    end of each length that the means are over;  exact_length: tokens on which the identities are held to float64.
    The model is trained at `task.n_ctx`, and built anew with room for the longest text;  or it is a checkpoint in a
    Hugging Face directory, whose `files` then names the content, and is filled in."""

    model: TransformerConfig | str = field(
        default_factory=lambda: TransformerConfig(
            **{"n_layers": 2, "n_heads": 4, "d_model": 64, "d_vocab": Text.d_vocab, "n_ctx": 256},
            **{"position": "rope", "bos_id": BOS},
        )
    )
    task: Text = field(default_factory=lambda: Text(n_ctx=256))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=600, batch_size=8, lr=5e-3))
    lengths: tuple[int, ...] = (256, 1024, 2048, 4096, 8192, 16384)
    texts: int = 2
    last_rows: int = 64
    exact_length: int = 512
    seeds: tuple[int, ...] = (10, 11, 12)  # settings and the findings' bounds were chosen on seed 0
    device: str = "cpu"
    files: str | None = added(None)

    def __post_init__(self):
        object.__setattr__(self, "files", checked_files(self.model, self.files))
        if isinstance(self.model, TransformerConfig) and (odd := hindrance(self.model, WITHOUT_A_TABLE)):
            raise ConfigError(
                f"the model has {odd}: this study needs scores of scale * q . k over all earlier keys: "
                f"rope or none, causal, softmax, no window, cap or smeared keys"
            )
        rising = list(self.lengths) == sorted(set(self.lengths))
        if len(self.lengths) < 2 or not rising or not 1 <= self.last_rows <= self.lengths[0]:
            raise ConfigError(
                f"lengths={self.lengths} must be two or more and rise, from last_rows={self.last_rows} (1 or more) on"
            )
        if self.texts < 1 or not 1 <= self.exact_length <= self.lengths[-1]:
            raise ConfigError(
                f"texts={self.texts} must be 1 or more, exact_length={self.exact_length} lie in [1, {self.lengths[-1]}]"
            )


QUICK = {"train.steps": 120, "lengths": (256, 1024, 2048), "texts": 1, "exact_length": 256, "seeds": (0, 1)}

COLUMNS = {
    "condition": "which attention: trained; untrained, the same model at birth; uniform, all scores equal",
    "seed": "of untrained weights, of training and of the texts",
    "layer": "from 0",
    "head": "from 0",
    "length": "tokens of context; means are over its last queries, of every text",
    "keys": "mean number of keys that those queries see",
    "entropy": "mean entropy of a query's weights (nats)",
    "relative_entropy": "mean entropy over that of uniform attention on as many keys (0 to 1)",
    "peak": "mean largest weight (0 to 1)",
    "n_eff": "mean of 1 / (sum of squared weights): keys in use",
    "sink_mass": "mean weight on the first token (0 to 1)",
    "self_mass": "mean weight on the query's own position (0 to 1)",
    "previous_mass": "mean weight on the position before (0 to 1)",
    "spread": "mean of largest less smallest score (nats)",
    "peak_bound": "mean of what Lemma 2.1 allows the peak at that spread, min(1, exp(spread) / keys) (0 to 1)",
    "peak_excess": "largest of ln(peak) - ln(exp(spread) / keys) over every query up to the length (nats)",
    "entropy_deficit": "largest of ln(keys) - spread - entropy over every query up to the length (nats)",
}
MEANS = ("entropy", "peak", "sink_mass", "self_mass", "previous_mass")  # as RowStatistics has them


def run(config: Config) -> Result:
    """Train every seed or find its checkpoint, or open the one that is named, and measure each condition."""
    config = replace(config, task=config.task.pinned())
    if isinstance(config.model, str):  # one copy of its weights serves every seed
        subjects = Checkpoint(config)
        done = [_measure_seed((subjects, seed)) for seed in progress(config.seeds, "seeds")]
    else:
        subjects = Trained(config)
        done = run_jobs(_measure_seed, [(subjects, seed) for seed in config.seeds], label="seeds")
    table = pd.DataFrame([row for rows, _, _ in done for row in rows], columns=list(COLUMNS))
    arrays = {f"{name} (seed, layer, head)": np.stack([errors[name] for _, errors, _ in done]) for name in done[0][1]}
    backends = sorted({backend for _, _, ran in done for backend in ran})
    return Result(table, arrays, {"device": config.device, "dtype": "float32", "backend": backends, **subjects.told()})


# The measurements -----------------------------------------------------------------------------------


def _measure_seed(job: tuple[Trained | Checkpoint, int]):
    """Rows of one seed, the identities' errors on the trained model (layer, head), and the backends that ran."""
    subjects, seed = job
    config = subjects.config
    texts = subjects.texts(seed).to(config.device)
    rows, ran = [], set()
    for condition in CONDITIONS:
        model = with_kernels(getattr(subjects, condition)(seed))
        rows += [{"condition": condition, "seed": seed, **row} for row in _rows(config, model, texts)]
        ran.update(model.backends)
        if condition == TRAINED:
            errors = _identities(model, texts[:1, : config.exact_length])
    return rows, errors, ran


def _rows(config: Config, model, texts) -> Iterator[dict]:
    by_text = [_statistics(model, text[None]) for text in texts]  # one at a time, for the memory
    for layer, length in product(range(model.cfg.n_layers), config.lengths):
        values = _at_length([found[layer] for found in by_text], length, config.last_rows)
        for head in range(model.cfg.n_heads):
            numbers = {name: value[head].item() for name, value in values.items()}
            yield {"layer": layer, "head": head, "length": length, **numbers}


def _pass(model, tokens) -> list[tuple]:
    """Row statistics, queries and keys of every layer; scale * q . k are the scores."""
    points, kept = ("hook_rot_q", "hook_rot_k") if model.cfg.position.where == "rotation" else ("hook_q", "hook_k"), {}

    def keep(x, hook):
        kept[hook.name] = x

    with model.hooks(fwd_hooks=[(lambda name: name.endswith(points), keep)]):
        found = model.attention_statistics(tokens)
    return [(rows, *(kept[f"blocks.{layer}.attn.{point}"] for point in points)) for layer, rows in enumerate(found)]


def _statistics(model, tokens) -> list[dict]:
    """Per layer, on one text: numbers of shape (head, query), in float64, and the count of visible keys (query,)."""
    layers = []
    for rows, q, k in _pass(model, tokens):
        options = {"scale": 1 / model.cfg.attn_scale, "statistics": True, "backend": model.cfg.attention}
        turned = attend(-q, k, k, **options).statistics
        found = {name: getattr(rows, name)[0].double() for name in (*MEANS, "sum_squares")}
        found["spread"] = spread(rows.logsumexp, rows.peak, turned.logsumexp, turned.peak)[0].double()
        layers.append(found | {"keys": torch.arange(1, tokens.shape[1] + 1, device=tokens.device)})
    return layers


def _at_length(by_text: list[dict], length: int, last_rows: int) -> dict:
    """What COLUMNS says of one layer at one length, per head."""
    found = {name: torch.stack([one[name][..., :length] for one in by_text]) for name in by_text[0]}
    keys = found.pop("keys")[0]  # the same in every text
    over = {
        "peak_excess": found["peak"].log() + keys.log() - found["spread"],
        "entropy_deficit": keys.log() - found["spread"] - found["entropy"],
    }
    means = {name: found[name] for name in (*MEANS, "spread")}
    means["n_eff"] = 1 / found["sum_squares"]
    means["relative_entropy"] = found["entropy"] / keys.log()
    means["peak_bound"] = peak_bound(found["spread"], keys)
    values = {name: value[..., -last_rows:].mean((0, 2)) for name, value in means.items()}
    values["keys"] = keys[-last_rows:].double().mean().expand_as(values["n_eff"])
    return values | {name: value.amax((0, 2)) for name, value in over.items()}


@torch.no_grad()
def _identities(model, tokens) -> dict[str, np.ndarray]:
    """Largest errors over all queries (layer, head), in nats, on the model's own q and k in float64."""
    errors = {"entropy identity": [], "Renyi identity": []}
    scale = 1 / model.cfg.attn_scale
    for _, q, k in _pass(model, tokens):
        q, k = q.double(), k.double()
        once, twice = (attend(q, k, k, scale=s, statistics=True) for s in (scale, 2 * scale))
        rows, mean_key = once.statistics, once.z
        mean_score = scale * (q * mean_key).sum(-1).transpose(1, 2)
        entropy = rows.logsumexp - mean_score
        renyi = twice.statistics.logsumexp - 2 * rows.logsumexp
        errors["entropy identity"].append((rows.entropy - entropy).abs().amax((0, 2)).tolist())
        errors["Renyi identity"].append((rows.sum_squares.log() - renyi).abs().amax((0, 2)).tolist())
    return {name: np.array(values) for name, values in errors.items()}


# The claims -----------------------------------------------------------------------------------------


def _worst(column: str) -> Callable[[Result], list[float]]:
    return lambda result: result.table.groupby("seed")[column].max().tolist()


def _largest(identity: str) -> Callable[[Result], list[float]]:
    return lambda result: result.arrays[f"{identity} (seed, layer, head)"].max((1, 2)).tolist()


def _uniform(column: str, known: str) -> Callable[[Result], list[float]]:
    """Largest relative distance of the uniform head's `column` from its closed form."""

    def measure(result: Result) -> list[float]:
        rows = result.table[result.table.condition == UNIFORM]
        exact = {"1": 1.0, "keys": rows["keys"], "1/keys": rows.peak_bound}[known]  # at spread 0 the bound is 1 / keys
        return (rows[column] / exact - 1).abs().groupby(rows.seed).max().tolist()

    return measure


def exponents(result: Result, condition: str, column: str) -> pd.Series:
    """a of column ~ keys^a, through the shortest and the longest length, by (seed, layer, head)."""
    rows = result.table[result.table.condition == condition].sort_values("length").groupby(["seed", "layer", "head"])
    grown = np.log(rows[[column, "keys"]].last() / rows[[column, "keys"]].first())
    return grown[column] / grown["keys"]


def _median(condition: str, column: str) -> Callable[[Result], list[float]]:
    """The median exponent over the heads of each seed."""
    return lambda result: exponents(result, condition, column).groupby("seed").median().tolist()


def _vacuous(result: Result) -> list[float]:
    rows = result.table[(result.table.condition == TRAINED) & (result.table.length == result.table.length.max())]
    rows = rows[rows.layer == rows.layer.max()]
    return (rows.spread - rows["keys"].map(np.log)).groupby(rows.seed).median().tolist()


LEMMA, ROUNDING = "Lemma 2.1, arXiv:2410.01104; more than 0 by rounding alone", Bound(high=1e-4)
KNOWN, EXACT, OURS = "closed form, in float32", Bound(high=1e-5), "this study; bounds set on seed 0"
CLAIMS = (
    Claim("On every query: ln peak <= spread - ln n (nats)", "replication", LEMMA, ROUNDING, _worst("peak_excess")),
    Claim("On every query: H >= ln n - spread (nats)", "replication", LEMMA, ROUNDING, _worst("entropy_deficit")),
    Claim(
        "H = logsumexp - scale q . (mean key), trained heads (nats)",
        *("identity", "theory/sharpness.md", Bound(high=1e-12), _largest("entropy identity")),
    ),
    Claim(
        "ln sum p^2 = logsumexp(2 scale) - 2 logsumexp(scale), trained heads (nats)",
        *("identity", "theory/sharpness.md", Bound(high=1e-12), _largest("Renyi identity")),
    ),
    Claim("All scores equal: entropy is ln n", "calibration", KNOWN, EXACT, _uniform("relative_entropy", "1")),
    Claim("All scores equal: n keys in use", "calibration", KNOWN, EXACT, _uniform("n_eff", "keys")),
    Claim("All scores equal: the peak is 1/n", "calibration", KNOWN, EXACT, _uniform("peak", "1/keys")),
    Claim(
        "Before training heads disperse in full: keys in use ~ n^a, a is 1 (median head)",
        *("replication", "Theorem 2.2, arXiv:2410.01104", Bound(0.9, 1.1), _median(UNTRAINED, "n_eff")),
    ),
    Claim(
        "Trained heads disperse too, but slower: keys in use ~ n^a (median head)",
        *("finding", OURS, Bound(0.4, 0.9), _median(TRAINED, "n_eff")),
    ),
    Claim("Their peak falls like n^a (median head)", "finding", OURS, Bound(-0.4, -0.05), _median(TRAINED, "peak")),
    Claim(
        "Their spread grows beyond the training length: spread ~ n^a (median head)",
        *("finding", OURS, Bound(0.05, 0.25), _median(TRAINED, "spread")),
    ),
    Claim(
        "In their last layer the lemma is silent at the longest text: spread - ln n (nats, median head)",
        *("finding", OURS, Bound(low=5.0), _vacuous),
    ),
)
