"""What does a transformer make of the k-th copy of a token, beside the same token alone?

Random models, and the same after reading text byte by byte, read a token again and again: with nothing before it,
behind a start token, and behind a start token and a prompt.  In the first layer the weight on the prefix and what is
written for the k-th copy have a closed form (`analyses.counting.repeats.copies`), held against the model; behind the
last layer only the limit is known: the lone token.  A model that knows its first token by what that token cannot see
then takes every copy for a first one; where first tokens are sinks, copies become sinks.  How many copies does that
take, before training and after?  And are there sinks in these models: what size has the copy in the stream, and what
does an ordinary token behind the copies look at?

Sources: Yona et al. 2025, arXiv:2503.08908, theorem 4.1 and section 4; Gu et al. 2024, arXiv:2410.10781, appendix C
(repeated tokens disperse the sink).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pandas as pd

from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.counting.repeats.claims import CLAIMS
from analyses.counting.repeats.subjects import BARE, PREFIXES, PROMPT, TRAINED, UNTRAINED
from toy_models.config import TransformerConfig
from toy_models.tasks.text import Text
from toy_models.train import TrainConfig

__all__ = ["CLAIMS", "COLUMNS", "QUICK", "Config", "run"]

CODES = ("none", "rope", "learned")


@dataclass(frozen=True)
class Config:
    """Args: shape: of the models, n_ctx for the longest text;  positions: codes;  text: of the training;
    copies: which ones are measured;  key_copies: after how many the next token is asked what it looks at."""

    shape: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(
            **{"n_layers": 2, "n_heads": 4, "d_model": 64, "d_mlp": 128, "d_vocab": Text.d_vocab, "n_ctx": 522},
            **{"normalization_type": "RMS", "position": "none"},
        )
    )
    positions: tuple[str, ...] = CODES
    text: Text = field(default_factory=lambda: Text(n_ctx=64))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=250, batch_size=8, lr=5e-3, decay=0.5))
    copies: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    key_copies: tuple[int, ...] = (4, 32, 256)
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)  # settings and the findings' bounds were chosen on seeds 0 and 1
    device: str = "cpu"

    def __post_init__(self):
        if odd := [one for one in self.positions if one not in CODES]:
            raise WorkbenchError(f"repeated_token has no position code {odd[0]!r}: choose from {', '.join(CODES)}")
        for name, least in (("copies", 1), ("key_copies", 3)):
            values = getattr(self, name)
            if len(values) < 2 or list(values) != sorted(set(values)) or values[0] < least:
                raise WorkbenchError(f"{name}={values} must be two or more and rise, from {least} on")
        if self.copies[0] != 1 or not set(self.key_copies) <= set(self.copies):
            raise WorkbenchError(f"copies={self.copies} must begin with 1 and hold key_copies={self.key_copies}")
        longest = self.copies[-1] + 10
        if self.shape.n_ctx < longest:
            raise WorkbenchError(
                f"shape.n_ctx={self.shape.n_ctx} must be at least {longest}: copies, prompt, start token and a question"
            )


QUICK = {
    **{"train.steps": 60, "seeds": (0,)},
    **{"copies": (1, 2, 4, 8, 16, 32, 64, 128, 256), "shape.n_ctx": 266},
}

COLUMNS = {
    "position": "code of the model",
    "start": "True where the model read (or will read) texts with a start token in front",
    "moment": f"{UNTRAINED} or {TRAINED}",
    "prefix": f"what stands before the copies: {', '.join(PREFIXES)}",
    "seed": "of the weights, the training text and the repeated byte",
    "k": "which copy (1 is the first)",
    "weight": "first layer: weight on the prefix, mean over heads (0 to 1)",
    "weight_theory": "the same by the closed form; empty where scores depend on the place, and so below",
    "weight_off": "largest difference of the two, of any head",
    "first_layer": "2-norm between what the first layer's attention writes for this copy and for the token alone, over "
    "the mean 2-norm (0 to 2)",
    "first_theory": "the same by the closed form",
    "first_off": "largest coordinate of what is written less the closed form",
    "last_layer": "as first_layer, of the stream behind the last layer",
    "size": "2-norm of that stream over the mean of ordinary tokens",
    "lone_size": "the same of the token alone",
    "first": "weight that an ordinary token behind k copies puts on position 0, last layer, mean over heads (0 to 1)",
    "each": "mean weight that it puts on a copy but the first of them",
    "text_first": "weight on position 0 behind k ordinary tokens in the copies' place",
    "text_each": "mean weight on one of these but the first",
}
EMPTY = dict.fromkeys(COLUMNS, float("nan"))


def run(config: Config) -> Result:
    """Train and measure every seed side by side."""
    done = run_jobs(_measure_seed, [(config, seed) for seed in config.seeds], label="seeds")
    table = pd.DataFrame([row for rows, _ in done for row in rows], columns=list(COLUMNS))
    text = {"digest": done[0][1]}
    return Result(table, {}, {"device": config.device, "dtype": "float64", "backend": ["reference"], "text": text})


def _measure_seed(job: tuple[Config, int]) -> tuple[list[dict], str]:
    """The rows of every model, and what the text was."""
    config, seed = job
    text = replace(config.text)  # one copy, read once
    subjects = [(position, True) for position in config.positions] + [("none", False)] * ("none" in config.positions)
    rows = [row for position, start in subjects for row in _rows(config, text, position, start, seed)]
    return rows, text.text_digest


def _rows(config: Config, text: Text, position: str, start: bool, seed: int) -> Iterator[dict]:
    import torch

    from analyses.counting.repeats.copies import as_keys, repeated, typical_size
    from analyses.counting.repeats.subjects import model, ordinary, prefix

    shape = replace(config.shape, device=config.device)
    windows = torch.stack([ordinary(text, 64, seed, "typical", str(i)) for i in range(8)])
    token, asking = ordinary(text, 2, seed, "repeated").tolist()
    for moment, train in ((UNTRAINED, None), (TRAINED, config.train)):
        found = model(shape, position, start, text, train, seed)
        typical = typical_size(found, windows)
        for kind in PREFIXES if start else (BARE, PROMPT):
            before, keys = prefix(kind, start, text, seed), {}
            for k in config.key_copies:
                bodies = (torch.full((k,), token), ordinary(text, k, seed, "control"))
                same, other = (as_keys(found, before, body, asking) for body in bodies)
                keys[k] = same | {f"text_{name}": value for name, value in other.items()}
            place = {"position": position, "start": start, "moment": moment, "prefix": kind, "seed": seed}
            for row in repeated(found, before, token, config.copies, typical):
                yield EMPTY | place | row | keys.get(row["k"], {})
