"""At which length do two texts become one, in numbers of this many bits?

A text and the same text with its last token once more ("ones": a prompt, then ones; "digits": random ones).  For each
number format: the first length, by bisection, at which the last token of both is the same number in half of the
coordinates ("half") or in all ("all") once rounded to the format, and at which both have the same best token
("answer").  Beside them stands how many coordinates are equal there as the model holds them, not rounded.

First one head with its residual, in float64, rounded at the end: there the length is predicted.  With unit roundoff u a
coordinate x is rounded in steps of about 1.4 u |x|, and half of the coordinates agree once their distance is half a
step: with a prefix whose weight is that of c copies of the last token at (c + n)^2 = c r / 0.7 u, r the typical
relative difference of prefix and last token; with random text at n = c' / 0.7 u, c' the last token's weight over the
mean one.  Then random transformers in float32, where weights, activations or sums alone are in the format:
`probes.precision` has the arms.  There rounding makes
the collapse come and go from one length to the next: a length counts with the next ones, and what is read is their
mean.  `--set model=DIRECTORY` measures a checkpoint of Hugging Face as well.

Formats with a scale (int8, ternary) agree in little until the two scales are one number.

Source: Barbero et al. 2024, arXiv:2406.04267, section 4 and figure 5; the predictions are derived here from the rates
in probes/theory/collapse.md.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product

import pandas as pd
import torch

import analyses.glasses.pairs.models as models
import analyses.glasses.pairs.one_head as one_head
import analyses.glasses.pairs.texts as texts
from analyses.core.directories import checked_files
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.glasses.pairs.models import NONE
from analyses.glasses.pairs.precision_claims import (
    ACTIVATIONS,
    ALL,
    ANSWER,
    CLAIMS,
    CRITERIA,
    DIGITS,
    HALF,
    HEAD,
    ONES,
    RANDOM,
    STORED,
    SUMS,
    WEIGHTS,
    roundoff,
)
from probes import names, precision
from probes.collapse import check_pair, critical_length, identical
from probes.model import cached
from toy_models.canonical import added
from toy_models.config import TransformerConfig
from toy_models.errors import ConfigError

__all__ = ["CLAIMS", "COLUMNS", "QUICK", "Config", "run"]

CHECKPOINT = "checkpoint"
STEP = 0.5**0.5  # half a step of rounding over u |x|, from 0.5 to 1: its geometric mean
LONGEST = {ONES: 2**24, DIGITS: 2**15}  # of one head, whose ones have a closed form


@dataclass(frozen=True)
class Config:
    """Args: model: a Hugging Face directory to measure as well, whose `files` names the content, and is filled in;
    shape: of the random models;  formats: names in `probes.precision.FORMATS`;  prompt: tokens before the body;
    longest: up to which lengths are looked for;  longest_summed: the same where sums are rounded, which is slow;
    every: terms between two roundings of a sum;  neighbours: lengths, from each on, whose mean is read in models."""

    model: str | None = None
    shape: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(
            **{"n_layers": 2, "n_heads": 4, "d_model": 64, "d_vocab": 32, "n_ctx": 1027},
            **{"normalization_type": "RMS", "position": NONE},
        )
    )
    formats: tuple[str, ...] = precision.FORMATS
    prompt: int = 10
    longest: int = 1024
    longest_summed: int = 128
    every: int = 4
    neighbours: int = 3
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    device: str = "cpu"
    files: str | None = added(None)

    def __post_init__(self):
        object.__setattr__(self, "files", checked_files(self.model, self.files))
        for name in self.formats:
            if name not in precision.FORMATS:
                raise ConfigError(f"unknown number format {name!r}: choose among {', '.join(precision.FORMATS)}")
        if not self.formats or self.every < 1 or self.neighbours < 1:
            raise ConfigError(
                f"formats={self.formats} must name one or more, every={self.every} and neighbours={self.neighbours} "
                f"be 1 or more"
            )
        shortest = self.prompt + 3
        if not shortest <= self.longest_summed <= self.longest:
            raise ConfigError(
                f"longest={self.longest} and longest_summed={self.longest_summed} must be prompt + 3 = {shortest} or "
                f"more, and the second not above the first"
            )
        if self.longest + self.neighbours > self.shape.n_ctx:
            raise ConfigError(
                f"longest={self.longest} goes beyond n_ctx={self.shape.n_ctx}: the longest of {self.neighbours} second "
                f"texts has {self.longest + self.neighbours} tokens; choose a shorter one, or a larger shape.n_ctx"
            )


QUICK = {
    "formats": ("float32", "bfloat16", "float16", "float8_e4m3fn"),
    **{"longest": 128, "longest_summed": 32, "neighbours": 1, "seeds": (0, 1)},
}

COLUMNS = {
    "subject": "one head; random model; checkpoint",
    "arm": "what is in the format: stored (the head's output with its residual), weights, activations, accumulation",
    "text": "ones, or random digits",
    "format": "of the numbers",
    "roundoff": "unit roundoff u of the format (1); NaN where it has a scale",
    "seed": "of weights and texts",
    "criterion": "half or all of the coordinates equal once rounded; answer: the same best token",
    "critical": "first length at which it is met (tokens of the first text); NaN where it is not, up to longest",
    "longest": "length up to which it was looked for (tokens)",
    "predicted": "the length for half of one head's coordinates (tokens); NaN elsewhere",
    "held_share": "share of coordinates equal, unrounded, at the critical length (0 to 1); NaN without one",
}


def run(config: Config) -> Result:
    """Measure every seed; a checkpoint, if there is one, with one copy of its weights for all of them."""
    done = run_jobs(_measure_seed, [(config, seed) for seed in config.seeds], label="seeds")
    if config.model is not None:
        found = models.open_checkpoint(config.model, config.longest + config.neighbours, config.device)
        for seed in config.seeds:
            words = texts.checkpoint_words(found, config.prompt, config.longest + config.neighbours, seed)
            done.append(list(_model_rows(config, found, CHECKPOINT, words, seed)))
    table = pd.DataFrame([row for rows in done for row in rows], columns=list(COLUMNS))
    return Result(table, {}, {"device": config.device, "dtype": "float32", "backend": ["sdpa", "reference"]})


def _measure_seed(job: tuple[Config, int]) -> list[dict]:
    config, seed = job
    model = models.random_model(replace(config.shape, device=config.device), NONE, seed)
    words = texts.own_words(config.shape.d_vocab, config.prompt, config.longest + config.neighbours, seed)
    return [*_head_rows(config, seed), *_model_rows(config, model, RANDOM, words, seed)]


# What is read off a pair: share equal once rounded, share equal unrounded, whether the best token is the same.
Readout = tuple[float, float, bool]


def _lengths(readout: Callable[[int], Readout], shortest: int, longest: int, criteria) -> Iterator[dict]:
    """A row for every criterion; a length that two of them ask for is measured once."""
    once = cache(readout)
    met = {HALF: lambda r: r[0] >= 0.5, ALL: lambda r: r[0] == 1, ANSWER: lambda r: r[2]}
    for criterion in criteria:
        found = critical_length(lambda n, name=criterion: met[name](once(n)), shortest, longest)
        row = {"criterion": criterion, "longest": longest, "critical": float("nan"), "held_share": float("nan")}
        yield row if found is None else row | {"critical": float(found), "held_share": once(found)[1]}


# One head -------------------------------------------------------------------------------------------


def _head_rows(config: Config, seed: int) -> Iterator[dict]:
    made = one_head.head(seed, LONGEST[DIGITS])
    for text, format in product((ONES, DIGITS), config.formats):

        def readout(n: int, text: str = text, format: str = format) -> Readout:
            x, y = (made.last_v + z for z in one_head.closed_form(made, text, n))
            return identical(x, y, format).item(), (x == y).double().mean().item(), False

        place = {"subject": HEAD, "arm": STORED, "text": text, "format": format, "roundoff": roundoff(format)}
        for row in _lengths(readout, one_head.PREFIX + 3, LONGEST[text], (HALF, ALL)):
            expected = predicted(made, text, roundoff(format)) if row["criterion"] == HALF else float("nan")
            yield place | {"seed": seed, "predicted": expected} | row


def predicted(made: one_head.Head, text: str, u: float) -> float:
    """The length at which half of the coordinates agree, as the docstring above has it; at least the shortest text."""
    scale = one_head.D_HEAD**0.5
    before = made.k[: one_head.PREFIX] if text == ONES else made.k
    a, own = (before @ made.q / scale).exp(), (made.last_k @ made.q / scale).exp()
    if text == DIGITS:
        length = own / a.mean() / (STEP * u)
    else:
        prefix = (a @ made.v[: one_head.PREFIX]) / a.sum()
        apart = ((prefix - made.last_v) / (2 * made.last_v)).abs().median()
        copies = a.sum() / own  # how many copies of the last token weigh as much as the prefix
        length = one_head.PREFIX + (copies * apart / (STEP * u)).sqrt() - copies
    return max(length.item(), one_head.PREFIX + 3.0) if u == u else float("nan")


# Models ---------------------------------------------------------------------------------------------


def _model_rows(config: Config, model, subject: str, words: texts.Words, seed: int) -> Iterator[dict]:
    arms = {
        WEIGHTS: lambda format: precision.rounded_weights(model, format),
        ACTIVATIONS: lambda format: precision.rounded_activations(model, format, per="row"),
        SUMS: lambda format: precision.rounded_accumulation(format, config.every),
    }
    for arm, format in product(arms, config.formats):
        if arm == SUMS and format in precision.LEVELS:  # they have no running sum of their own
            continue
        longest = config.longest_summed if arm == SUMS else config.longest
        # Whole rows in one sum: attention in blocks would add the blocks exactly.
        model.set_attention("reference" if arm == SUMS else "auto")
        for text in (ONES, DIGITS):
            readout = partial(_mean_readout, config.neighbours, model, arms[arm], format, words, text)
            place = {"subject": subject, "arm": arm, "text": text, "format": format, "roundoff": roundoff(format)}
            for row in _lengths(readout, config.prompt + 3, longest, CRITERIA):
                yield place | {"seed": seed, "predicted": float("nan")} | row
    model.set_attention("auto")


def _mean_readout(neighbours: int, *about) -> Readout:
    """Over the last argument, a length, and the next ones; the best tokens are the same if they all are."""
    *about, n = about
    rounded, held, same = zip(*(_readout(*about, n + more) for more in range(neighbours)), strict=True)
    return sum(rounded) / neighbours, sum(held) / neighbours, all(same)


@torch.no_grad()
def _readout(
    model, arm: Callable[[str], AbstractContextManager], format: str, words: texts.Words, text: str, n: int
) -> Readout:
    """What the unembedding reads at the last token, and the best token."""
    first = texts.text(text, n, words).to(model.cfg.device)
    second = texts.repeated(first)
    check_pair(first, second, "repeated")
    last, found = names.resid_post(model.cfg.n_layers - 1), []
    with arm(format):
        for tokens in (first, second):
            logits, kept = cached(model, tokens, [last])
            found.append((model.ln_final(kept[last][:, -1:])[0, 0], logits[0, -1].argmax()))
    (x, best), (y, other) = found
    return identical(x, y, format).item(), (x == y).double().mean().item(), bool(best == other)
