"""Which heads only look at the first token, at themselves, one back, or for a repeat, and which would not be missed?

Every head of a model, beside its untrained twin and heads set by hand: the mass on the first token, on the own one and
on the one before, prefix matching on repeats, entropy; how much of its output a fixed affine map of its own token says;
and the loss when its output is replaced by zero, by its mean or by that map.  The role is that of the largest score,
and the score is told with it.  Where positions are rotary: which frequencies a head's queries and keys use.

The model reads bytes as `toy_models.byte_models` does, with rotary positions; `--set model.position=shortformer
--set train.steps=3000 --set train.checkpoint_every=150` is the model of `induction_in_text`, and `--set
model=DIRECTORY` a checkpoint of Hugging Face, on text by its own tokenizer, or on random ids if it has none.

Sources: Barbero et al. 2024, arXiv:2410.06205: proposition 5.2 (without positions no head of the first layer gives its
own position more than 1/2 on [bos, x, x]), theorem 5.3 (with rotation it can), section 4 (frequencies); Gu et al. 2024,
arXiv:2410.10781, and Barbero et al. 2025, arXiv:2504.02732 (sinks above 0.3 and 0.8, on texts of 64 tokens); Olsson et
al. 2022, arXiv:2209.11895 (induction).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from analyses.core.claims import Bound, Claim
from analyses.core.directories import checked_files
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.glasses.roles.readings import FREQUENCIES, TRAINED, kept, positional_excess, slow_share
from toy_models import byte_models
from toy_models.canonical import added
from toy_models.config import TransformerConfig
from toy_models.errors import ConfigError
from toy_models.tasks.text import Text
from toy_models.train import TrainConfig

UNTRAINED = "untrained"
# Condition -> the model of toy_models.constructed.
CONSTRUCTED = {
    "first-token head": "first_token_head",
    "diagonal head": "diagonal_head",
    "previous-token head": "previous_token_head",
    "induction circuit": "induction_circuit",
    "uniform head": "uniform_head",
}
BOS_X_X = "[bos, x, x]"
# Squared norm of psi -> mean weight on the own position of a text of 16 and of 512 tokens.
ONE_FREQUENCY = {5: (0.60, 0.054), 20: (0.79, 0.094), 100: (0.99, 0.175)}


@dataclass(frozen=True)
class Config:
    """Args: model: trained here on `task`, or a Hugging Face directory, whose `files` then names the content and is
    filled in;  length: tokens of a text, the start token included;  texts: to score on, and as many to fit on."""

    model: TransformerConfig | str = field(default_factory=lambda: replace(byte_models.MODEL, position="rope"))
    task: Text = field(default_factory=lambda: byte_models.TASK)
    train: TrainConfig = field(default_factory=lambda: replace(byte_models.TRAIN, steps=600, checkpoint_every=0))
    length: int = 64
    texts: int = 32
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)  # settings and the findings' bounds were chosen on seed 0
    device: str = "cpu"
    files: str | None = added(None)

    def __post_init__(self):
        object.__setattr__(self, "files", checked_files(self.model, self.files))
        longest = self.task.n_ctx if isinstance(self.model, TransformerConfig) else math.inf
        if not 7 <= self.length <= longest or self.texts < 1:
            raise ConfigError(
                f"length={self.length} must lie in [7, {longest}], so that a block comes three times, and "
                f"texts={self.texts} be 1 or more"
            )


QUICK = {
    **{"model.n_heads": 4, "model.n_key_value_heads": 4, "train.steps": 40, "train.batch_size": 8},
    **{"texts": 8, "seeds": (0, 1)},
}

COLUMNS = {
    "condition": "which model: trained; untrained, its twin; or constructed, " + ", ".join(CONSTRUCTED),
    "seed": "of the weights, the training data and the texts",
    "layer": "from 0",
    "head": "from 0",
    "role": "that of the largest of the four scores: first token, own token, previous token, induction",
    "first_mass": "mean weight on the first token, all queries (0 to 1)",
    "sink_rate_gu": "share of texts in which that is above 0.3 (0 to 1)",
    "sink_rate_barbero": "share of texts in which that is above 0.8 (0 to 1)",
    "carried": "share of the first token in the sizes of what is carried (0 to 1; nan where nothing is)",
    "diagonal": "mean weight on the own position (0 to 1)",
    "previous_token": "mean weight on the position before (0 to 1)",
    "prefix_matching": "induction: weight behind earlier copies of the token, on repeats (0 to 1)",
    "relative_entropy": "entropy over that of uniform attention (0 to 1)",
    "constant": "share of the output that one vector says, held out (1 or less)",
    "linear": "share of the output that an affine map of the own token says, held out (1 or less)",
    "lost_zero": "loss without the head, its output zero (nats per prediction)",
    "lost_mean": "loss with its mean output (nats per prediction)",
    "lost_map": "loss with that map of the own token (nats per prediction)",
}


def run(config: Config) -> Result:
    """Train every seed or open the directory, and score each condition; then the heads set by hand."""
    from analyses.glasses.roles.diagonal import premises
    from toy_models.progress import progress

    config = replace(config, task=config.task.pinned())
    if isinstance(config.model, str):  # one copy of its weights serves every seed
        from analyses.glasses.roles.subjects import Checkpoint

        subjects = Checkpoint(config)
        done = [_measure_seed((subjects, seed)) for seed in progress(config.seeds, "seeds")]
    else:
        from analyses.glasses.roles.subjects import Trained

        subjects = Trained(config)
        done = run_jobs(_measure_seed, [(subjects, seed) for seed in config.seeds], label="seeds")
    rows = [row for rows, _, _ in done for row in rows]
    rows += [row for seed in config.seeds for row in _constructed_rows(config, seed)]
    arrays = {name: np.stack([found[name] for _, found, _ in done]) for name in done[0][1]}
    backends = sorted({backend for _, _, ran in done for backend in ran})
    return Result(
        pd.DataFrame(rows, columns=list(COLUMNS)),
        arrays | premises(config.seeds, tuple(ONE_FREQUENCY)),
        {"device": config.device, "dtype": "float32", "backend": backends, **subjects.told()},
    )


def _measure_seed(job):
    """Rows of a seed's two models, the frequencies that they use, and the attention backends that ran."""
    from analyses.glasses.roles.scores import of_outputs, of_patterns, used_frequencies

    subjects, seed = job
    device = subjects.config.device
    fit, texts = (subjects.texts(seed, purpose).to(device) for purpose in ("fit", "score"))
    repeats, rows, arrays, ran = subjects.blocks(seed).to(device), [], {}, set()
    for condition in (TRAINED, UNTRAINED):
        model = getattr(subjects, condition)(seed)
        scores = of_patterns(model, texts, repeats) | of_outputs(model, texts, fit)
        rows += _rows({"condition": condition, "seed": seed}, scores)
        used = used_frequencies(model, texts)
        if used is not None:
            arrays[f"{condition}: {FREQUENCIES}"] = used
        ran.update(model.backends)
    return rows, arrays, sorted(ran)


def _constructed_rows(config: Config, seed: int) -> list[dict]:
    from analyses.glasses.roles.scores import of_outputs, of_patterns
    from analyses.glasses.roles.subjects import Constructed

    rows = []
    for condition, made in CONSTRUCTED.items():
        subject = Constructed(made, config.length, config.texts)
        texts, fit = subject.texts(seed, "score"), subject.texts(seed, "fit")
        scores = of_patterns(subject.model, texts, subject.blocks(seed)) | of_outputs(subject.model, texts, fit)
        rows += _rows({"condition": condition, "seed": seed}, scores)
    return rows


def _rows(name: dict, scores: dict[str, np.ndarray]) -> list[dict]:
    from analyses.glasses.roles.scores import role

    return [
        name
        | {"layer": at[0], "head": at[1], "role": role(scores, at)}
        | {score: float(values[at]) for score, values in scores.items()}
        for at in np.ndindex(*scores["first_mass"].shape)
    ]


# The claims -----------------------------------------------------------------------------------------


def _constructed(condition: str, column: str, layer: int = 0) -> Callable[[Result], list[float]]:
    """A score of a head set by hand, by seed."""

    def measure(result: Result) -> list[float]:
        rows = result.table[(result.table.condition == condition) & (result.table.layer == layer)]
        return rows.sort_values("seed")[column].tolist()

    return measure


def _largest(array: str) -> Callable[[Result], list[float]]:
    return lambda result: result.arrays[array].max(-1).tolist()


def _own_weight(n: int, which: int) -> Callable[[Result], list[float]]:
    """Distance of the mean weight on the own position from the known one, per norm."""
    return lambda result: [
        abs(result.arrays[f"one frequency, {norm}, {n} tokens: own weight (query)"].mean() - known[which])
        for norm, known in ONE_FREQUENCY.items()
    ]


def _closed(result: Result) -> list[float]:
    names = [f"one frequency, {norm}, {n} tokens" for norm in ONE_FREQUENCY for n in (16, 512)]
    pairs = [[result.arrays[f"{name}: {one} (query)"] for one in ("own weight", "closed form")] for name in names]
    return [float(np.abs(a - b).max()) for a, b in pairs]


BARBERO, OURS = "Barbero et al. 2024, arXiv:2410.06205", "this study; bounds set on seed 0, after 1000 updates"
HAND, ALMOST_ALL = "its weights, toy_models/constructed.py", Bound(low=0.99)
HALF = Bound(high=0.5 + 1e-12)
CLAIMS = (
    *(
        Claim(f"{name}: {column}", "calibration", HAND, ALMOST_ALL, _constructed(name, column, layer))
        for name, column, layer in (
            ("first-token head", "first_mass", 0),
            ("diagonal head", "diagonal", 0),
            ("previous-token head", "previous_token", 0),
            ("induction circuit", "prefix_matching", 1),
            ("diagonal head", "linear", 0),
        )
    ),
    Claim(
        "uniform head: its mass on the first of n tokens is (1 + 1/2 + ... + 1/n) / n (n = 64; difference)",
        *("calibration", "closed form, probes/theory/sinks.md", Bound(high=1e-12)),
        lambda result: [
            abs(mass - math.fsum(1 / i for i in range(1, n + 1)) / n)
            for n in [result.run["config"]["length"]]
            for mass in _constructed("uniform head", "first_mass")(result)
        ],
    ),
    Claim(
        "diagonal head: nothing is lost where it writes the map of its own token (nats)",
        *(
            "calibration",
            "probes/theory/own_token_map.md",
            Bound(-1e-6, 1e-6),
            _constructed("diagonal head", "lost_map"),
        ),
    ),
    Claim(
        "[bos, x, x], no positions: no random head of the first layer gives the last x more than 1/2 of itself",
        *("identity", f"{BARBERO}, proposition 5.2", HALF, _largest(f"{BOS_X_X}, no positions, random (seed, head)")),
    ),
    Claim(
        "Nor does one whose weights were optimised for it",
        *("identity", f"{BARBERO}, proposition 5.2", HALF),
        _largest(f"{BOS_X_X}, no positions, optimised (seed, head)"),
    ),
    Claim(
        "With rotation the same search finds one",
        *("replication", f"{BARBERO}, theorem 5.3", ALMOST_ALL, _largest(f"{BOS_X_X}, rotary, optimised (seed, head)")),
    ),
    Claim(
        "And the constructed head is one",
        *("calibration", f"{BARBERO}, theorem 5.3", ALMOST_ALL),
        lambda result: result.arrays[f"{BOS_X_X}, rotary, constructed (model)"].tolist(),
    ),
    Claim(
        "One frequency: every query's own weight is 1 / sum exp(|psi|^2 (cos r - 1)) (largest difference)",
        *("identity", f"{BARBERO}, theorem 5.3, in closed form", Bound(high=1e-9), _closed),
    ),
    Claim(
        "Which is .60, .79, .99 on average over 16 tokens at |psi|^2 = 5, 20, 100 (difference)",
        *("calibration", "the closed form, rounded to .01", Bound(high=0.005), _own_weight(16, 0)),
    ),
    Claim(
        "And .054, .094, .175 over 512 tokens: one frequency returns (difference)",
        *("calibration", "the closed form, rounded to .001", Bound(high=0.0005), _own_weight(512, 1)),
    ),
    Claim(
        "The slower half of the frequencies carries most of the norm of queries and keys (mean share)",
        *("replication", f"{BARBERO}, section 4, on Gemma 7B", Bound(low=0.5), slow_share),
    ),
    Claim(
        "The best previous-token head uses the faster half more than other heads do (difference in share)",
        *("replication", f"{BARBERO}, section 5, on Gemma 7B", Bound(low=0.0), positional_excess),
    ),
    Claim(
        "A map of the own token keeps much of what the heads of the last layer are worth (share of the loss)",
        *("finding", OURS, Bound(low=0.2), lambda result: kept(result, last=True)),
    ),
    Claim(
        "And little of what those of the first layer are (share of the loss)",
        *("finding", OURS, Bound(high=0.2), lambda result: kept(result, last=False)),
    ),
)
