"""Where does counting stop?

Prompts of many lengths ask a model to count (ones, ones among bits, a sum of ones, a word in a sentence) or to copy
(the last, the first digit), with and without commas.  Nothing is sampled: the answer is the candidate of the largest
log probability, among 0 to twice the length, or among the two digits.  Told per prompt: whether it is right, by how
many nats it leads or trails, and how far off it is; per question the longest length at which 90% or more are right; and
how far apart the last tokens of n and of n + 1 ones are, beside what bfloat16 can hold.

`--set model=DIRECTORY` asks a checkpoint of Hugging Face, through its own tokenizer, beside a twin with random weights.
By default a small transformer is trained here on the same prompts as bytes, so that it counts up to some length.

Source: Barbero et al. 2024, arXiv:2406.04267, sections 3, 4 and 6: the tasks; that last tokens of growing runs become
indistinguishable, in low precision exactly so (theorem 4.2 and figure 5).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analyses.core.claims import Bound, Claim
from analyses.core.directories import checked_files
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.counting.asking.prompts import COPYING, COUNTING, DIGITS, KINDS, ONES, prompt
from analyses.counting.asking.reading import log_probabilities, one_by_one
from analyses.counting.asking.subjects import BOS, BytePrompts, Directory, Trained
from probes.collapse import collapse
from toy_models.config import TransformerConfig
from toy_models.errors import ConfigError
from toy_models.progress import progress
from toy_models.seeding import generator
from toy_models.train import TrainConfig

ASKED, UNTRAINED = "trained", "untrained"
COMMAS = ", commas"
ENOUGH = 0.9  # of the answers right: the longest length where this holds is where an ability stops
# (of a model trained here, of a directory)
LENGTHS = ((2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48), (2, 4, 8, 16, 32, 64))
EXAMPLES = (0, 2)
SEEDS = ((10, 11, 12, 13, 14), (0,))  # settings and the findings' bounds were chosen on seeds 0 and 1


@dataclass(frozen=True)
class Config:
    """Args: kinds: of prompt;  separate: digits between commas;  lengths: digits or words asked about;  texts: prompts
    of each length, in two phrases;  examples: solved ones before each.  lengths, examples and seeds that are None are
    filled in: for a directory shorter, with two examples, and one seed.  A `model` that is a Hugging Face directory has
    its content named in `files`, which is filled in."""

    model: TransformerConfig | str = field(
        default_factory=lambda: TransformerConfig(
            **{"n_layers": 2, "n_heads": 4, "d_model": 64, "d_mlp": 128, "d_vocab": BOS + 1, "n_ctx": 256},
            **{"position": "rope", "normalization_type": "RMS", "bos_id": BOS},
        )
    )
    task: BytePrompts = field(default_factory=BytePrompts)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=800, batch_size=32, lr=5e-3))
    kinds: tuple[str, ...] = KINDS
    separate: int = 3
    lengths: tuple[int, ...] | None = None
    texts: int = 4
    examples: int | None = None
    seeds: tuple[int, ...] | None = None
    device: str = "cpu"
    files: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "files", checked_files(self.model, self.files))
        for name, values in (("lengths", LENGTHS), ("examples", EXAMPLES), ("seeds", SEEDS)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, values[isinstance(self.model, str)])
        if unknown := sorted(set(self.kinds) - set(KINDS)):
            raise ConfigError(f"kinds={self.kinds}: there is no {unknown[0]!r}, only {', '.join(KINDS)}")
        rising = list(self.lengths) == sorted(set(self.lengths))
        if len(self.lengths) < 2 or not rising or self.lengths[0] < 2:
            raise ConfigError(f"lengths={self.lengths} must be two or more and rise, from 2 on")
        if self.texts < 4 or self.texts % 4 or min(self.examples, self.separate) < 0:
            raise ConfigError(
                f"texts={self.texts} must be a multiple of 4 (two phrases, either digit), examples={self.examples} "
                f"and separate={self.separate} 0 or more"
            )


QUICK = {"train.steps": 250, "lengths": (2, 4, 8, 12, 16, 24), "seeds": (0,)}

COLUMNS = {
    "arm": "trained: here, or the directory's model; untrained: the same with random weights",
    "question": "what is asked: " + ", ".join(KINDS) + "; with commas or without",
    "family": "counting or copying",
    "seed": "of the weights and the prompts",
    "length": "digits or words asked about",
    "text": "number of the prompt",
    "value": "the right answer (count or digit)",
    "candidates": "how many answers were weighed",
    "answer": "the likeliest of them (count or digit)",
    "right": "1 where that is the right one, else 0",
    "error": "how far the answer is from the right one (counts)",
    "log_probability": "of the right answer (nats)",
    "margin": "the right answer's log probability less that of the best other (nats)",
}


def questions(config: Config) -> dict[str, tuple[str, int]]:
    """Name -> kind of prompt and digits between commas."""
    found = {}
    for kind in config.kinds:
        found[kind] = (kind, 0)
        if kind in DIGITS and config.separate:
            found[kind + COMMAS] = (kind, config.separate)
    return found


def run(config: Config) -> Result:
    """Train every seed, or open the directory, and ask it everything."""
    if isinstance(config.model, str):  # one copy of its weights serves every seed
        subject = Directory(config)
        done = [_seed((subject, seed)) for seed in progress(config.seeds, "seeds")]
    else:
        done = run_jobs(_seed, [(Trained(config), seed) for seed in config.seeds], label="seeds")
    table = pd.DataFrame([row for rows, _ in done for row in rows], columns=list(COLUMNS))
    arrays = {name: np.stack([found[name] for _, found in done]) for name in done[0][1]}
    asked = list(questions(config))
    arrays["stops (seed, arm, question)"] = np.array(
        [
            [[_stop(table, arm, question, seed) for question in asked] for arm in (ASKED, UNTRAINED)]
            for seed in config.seeds
        ]
    )
    told = {"device": config.device, "dtype": "float32", "questions": asked, "arms": [ASKED, UNTRAINED]}
    return Result(table, arrays, told)


def _seed(job: tuple) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Rows of one seed, and arrays (arm, ...) or (question,)."""
    subject, seed = job
    models = {ASKED: subject.model(seed), UNTRAINED: subject.untrained(seed)}
    rows = [row for arm, model in models.items() for row in _asked(subject, model, arm, seed)]
    found = [_last_tokens(subject, model) for model in models.values()]
    return rows, {
        "distance (seed, arm, length)": np.stack([one[0] for one in found]),
        "identical (seed, arm, length)": np.stack([one[1] for one in found]),
        "reading error (seed, question)": _reading_errors(subject, models[ASKED], seed),
    }


def _prompt(config: Config, kind: str, separate: int, length: int, text: int, seed: int):
    draw = generator(seed, "assay", kind, separate, length, text)
    return prompt(kind, length, draw, text=text, separate=separate, examples=config.examples)


def _asked(subject: Trained | Directory, model, arm: str, seed: int):
    """A row for every prompt; one that comes twice is read once."""
    config, known = subject.config, {}
    for question, (kind, separate) in questions(config).items():
        for length in config.lengths:
            for text in range(config.texts):
                one = _prompt(config, kind, separate, length, text, seed)
                if one not in known:
                    known[one] = log_probabilities(model, subject.encode, one)
                place = {"arm": arm, "question": question, "seed": seed, "length": length, "text": text}
                family = "counting" if kind in COUNTING else "copying"
                yield place | {"family": family} | _numbers(known[one], one.right)


def _numbers(found, right: int) -> dict[str, float]:
    chosen = int(found.argmax())
    others = found.clone()
    others[right] = -np.inf
    return {
        **{"value": right, "candidates": len(found), "answer": chosen, "right": int(chosen == right)},
        **{"error": abs(chosen - right), "log_probability": found[right].item()},
        "margin": (found[right] - others.max()).item(),
    }


def _last_tokens(subject: Trained | Directory, model) -> tuple[np.ndarray, np.ndarray]:
    """Of n and of n + 1 ones behind the phrase's beginning, (length,) each: the inf-norm between the last tokens behind
    the final norm, and the share of coordinates that bfloat16 does not tell apart."""
    import torch

    head = subject.encode([ONES[0].split(" {}")[0]])[0]
    one = subject.encode(["+1"])[0][-1]
    found = []
    for n in subject.config.lengths:
        texts = [torch.tensor([head + [one] * ones]).to(subject.config.device) for ones in (n, n + 1)]
        pair = collapse(model, *texts, norms=("inf",))
        found.append((pair.stream[0, -1, 0].item(), pair.identical[-1, 0].item()))
    return tuple(np.array(found).T)


def _reading_errors(subject: Trained | Directory, model, seed: int) -> np.ndarray:
    """Largest difference (nats) of any answer from its text read alone, (question,), at the two shortest lengths."""
    config, errors = subject.config, []
    for kind, separate in questions(config).values():
        asked = [_prompt(config, kind, separate, length, 0, seed) for length in config.lengths[:2]]
        ways = [[way(model, subject.encode, one) for one in asked] for way in (log_probabilities, one_by_one)]
        errors.append(max((a - b).abs().max().item() for a, b in zip(*ways, strict=True)))
    return np.array(errors)


def _stop(table: pd.DataFrame, arm: str, question: str, seed: int) -> float:
    """The longest length at which enough answers are right; nan where they are at none."""
    rows = table[(table.arm == arm) & (table.question == question) & (table.seed == seed)]
    share = rows.groupby("length").right.mean()
    return share.index[share >= ENOUGH].max()


# The claims -----------------------------------------------------------------------------------------


def _stops(result: Result, question: str) -> np.ndarray:
    """One per seed, of the trained model; 0 where even the shortest is not answered."""
    at = result.run["questions"].index(question)
    found = result.arrays["stops (seed, arm, question)"][:, 0, at]
    return np.where(np.isnan(found), 0, found)


def _past_training(question: str) -> Callable[[Result], list[float]]:
    """Length at which it stops less the longest trained, one per seed."""
    return lambda result: (_stops(result, question) - result.run["config"]["task"]["longest"]).tolist()


def _beyond_ones(result: Result, *questions: str) -> list[float]:
    """Shortest length at which one of these stops, less that of the ones; one per seed."""
    return (np.min([_stops(result, question) for question in questions], axis=0) - _stops(result, "ones")).tolist()


def _untrained(family: str) -> Callable[[Result], list[float]]:
    """Share that the untrained model answers right, one per seed."""

    def measured(result: Result) -> list[float]:
        table = result.table[(result.table.arm == UNTRAINED) & (result.table.family == family)]
        return table.groupby("seed").right.mean().tolist()

    return measured


def _approach(result: Result) -> list[float]:
    """Distance of the last tokens at the longest length over that at the shortest, the larger of both arms."""
    distance = result.arrays["distance (seed, arm, length)"]
    return (distance[..., -1] / distance[..., 0]).max(1).tolist()


PAPER, OURS = "arXiv:2406.04267", "this study, pilots on seeds 0 and 1"
CLAIMS = (
    Claim("A cached prompt and padded answers give what each text gives alone: largest difference (nats)", "identity",
          "causal attention; float32 rounding", Bound(high=1e-4),
          lambda result: result.arrays["reading error (seed, question)"].max(1).tolist()),
    Claim("Ones are counted as far as in training: longest length less the longest trained", "finding", OURS,
          Bound(-2, 2), _past_training("ones")),
    Claim("To know the number is not enough: sums, trained to twice the length, go on longer than ones by (digits)",
          "finding", OURS, Bound(low=4), lambda result: _beyond_ones(result, "sum")),
    Claim("Copying outlasts counting: longest length of copying, the shorter of last and first, less that of the ones",
          "finding", OURS, Bound(low=4), lambda result: _beyond_ones(result, *COPYING)),
    Claim("Untrained, counts are guesses: share right", "calibration", "among 5 to 97 answers; at most one in five",
          Bound(high=0.2), _untrained("counting"), every=False),
    Claim("Untrained, the two digits are a coin: share right", "calibration", "both digits are right as often",
          Bound(0.4, 0.6), _untrained("copying"), every=False),
    Claim("The last tokens of n and n + 1 ones approach each other: distance at the longest over the shortest length",
          "replication", f"theorem 4.2, {PAPER}: it tends to 0", Bound(high=1.0), _approach),
)  # fmt: skip
