"""Does the last token still tell n from n + 1 when the text grows?

A text and the same text with its last token once more; how far apart are they at the last position?  Random
transformers (pre-RMSNorm, float64) read ones, random digits, ones with a separator after every third, and alternating
digits, without positions or with one of four codes.  Beside each pair stands a control of the same length that differs
in one token of the middle: does the last token drown, or does the model forget any single token?

Below them the cases that are known: one head of random vectors (the two slopes, and figure 10's four codes), the
softmax of a perturbed prefix and of alternating logits, and a text beside its doubling, which a model without mask and
positions cannot tell apart.

`--set model=DIRECTORY` measures a checkpoint of Hugging Face as well, beside an untrained twin: its own tokens for
digits and commas, or random ids where it has none.

Source: Barbero et al. 2024, arXiv:2406.04267: theorem 4.2, lemma B.2, propositions 6.1 and B.4, figures 5, 9 and 10.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product

import pandas as pd
import torch

import analyses.glasses.pairs.models as models
import analyses.glasses.pairs.one_head as one_head
import analyses.glasses.pairs.texts as texts
from analyses.core.directories import checked_files
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.glasses.pairs.collapse_claims import CLAIMS
from analyses.glasses.pairs.models import CHECKPOINT, LEARNED, NONE, POSITIONS, ROPE, STEEP, TWIN
from probes.collapse import NORMS, collapse, distance, identical
from toy_models.canonical import added
from toy_models.config import TransformerConfig
from toy_models.errors import ConfigError

__all__ = ["CLAIMS", "COLUMNS", "QUICK", "Config", "run"]

MODEL, HEAD, WEIGHTS, DOUBLED, MASKED = "model", "one head", "weights", "doubled, no mask", "doubled, causal mask"
REPEATED, MIDDLE = "repeated", "middle"


@dataclass(frozen=True)
class Config:
    """Args: model: a Hugging Face directory to measure as well, whose `files` names the content, and is filled in;
    shape: of the random models;  prompt: tokens before the body;  separate_every: ones between separators;
    head_lengths: of the one-head cases, all even."""

    model: str | None = None
    shape: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(
            **{"n_layers": 4, "n_heads": 4, "d_model": 64, "d_vocab": 32, "n_ctx": 1025},
            **{"normalization_type": "RMS", "position": NONE, "dtype": torch.float64},
        )
    )
    positions: tuple[str, ...] = POSITIONS
    texts: tuple[str, ...] = texts.TEXTS
    lengths: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024)
    prompt: int = 10
    separate_every: int = 3
    head_lengths: tuple[int, ...] = tuple(2**power for power in range(3, 16))
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14, 15, 16, 17)
    device: str = "cpu"
    files: str | None = added(None)

    def __post_init__(self):
        object.__setattr__(self, "files", checked_files(self.model, self.files))
        models.check_lengths(self.lengths, self.shape.n_ctx, self.prompt)
        for position in self.positions:
            models.with_position(self.shape, position)
        for kind in self.texts:
            if kind not in texts.TEXTS:
                raise ConfigError(f"unknown text {kind!r}: choose among {', '.join(texts.TEXTS)}")
        if self.separate_every < 2:
            raise ConfigError(f"separate_every={self.separate_every} must be 2 or more: a text ends in a one")
        rising = list(self.head_lengths) == sorted(set(self.head_lengths))
        if len(self.head_lengths) < 4 or not rising or any(n < 8 or n % 2 for n in self.head_lengths):
            raise ConfigError(
                f"head_lengths={self.head_lengths} must be four or more even lengths of 8 or more, rising"
            )


QUICK = {
    "lengths": (16, 32, 64, 128, 256),
    "head_lengths": tuple(2**power for power in range(3, 15)),
    "seeds": (0, 1, 2),
}

COLUMNS = {
    "case": "model, one head, weights (of a softmax), or a text doubled with or without a causal mask",
    "position": "what it knows of positions; or checkpoint, or its untrained twin",
    "text": "ones, digits, separated, alternating; of weights: which logits",
    "pair": "repeated: the last token once more; middle: another token in the middle; doubled; other logits",
    "seed": "of weights and texts",
    "length": "tokens of the first text",
    "l1": "1-norm between the two: of a model behind its final norm, else of z, weights or logits",
    "l2": "2-norm",
    "linf": "inf-norm; of doubled texts the largest difference of any logit (nats)",
    "relative": "2-norm over the mean 2-norm of the two; of doubled texts linf over the largest logit (0 to 2)",
    "identical": "share of coordinates equal once rounded to bfloat16 (0 to 1)",
    "logit_distance": "largest difference of a logit (nats); NaN where there are none",
    "margin": "best less second best logit, the smaller of both texts (nats); NaN where there are none",
    "same_answer": "1 where both have the same best token, else 0; NaN where there are no logits",
    "head_low": "inf-norm of z in the last layer, the head where it is least; NaN outside models",
    "head_mean": "the same, mean over heads",
    "head_high": "the same, the head where it is largest",
    "theory": "the 1-norm that theory gives; NaN where it gives none",
    "off": "largest coordinate of what theory says less what was measured; NaN where it names no vector",
}
EMPTY = dict.fromkeys(COLUMNS, float("nan"))


def run(config: Config) -> Result:
    """Measure every seed; a checkpoint, if there is one, with one copy of its weights for all of them."""
    done = run_jobs(_measure_seed, [(config, seed) for seed in config.seeds], label="seeds")
    if config.model is not None:
        found = models.open_checkpoint(config.model, config.lengths[-1] + 1, config.device)
        done += [list(_checkpoint_rows(config, found, seed)) for seed in config.seeds]
    table = pd.DataFrame([row for rows in done for row in rows], columns=list(COLUMNS))
    return Result(table, {}, {"device": config.device, "dtype": str(config.shape.dtype).removeprefix("torch.")})


def _measure_seed(job: tuple[Config, int]) -> list[dict]:
    config, seed = job
    rows = []
    words = texts.own_words(config.shape.d_vocab, config.prompt, config.lengths[-1], seed, config.separate_every)
    for position in config.positions:
        model = models.random_model(replace(config.shape, device=config.device), position, seed)
        rows += _pairs(config, model, position, words, seed)
    return [*rows, *_one_head(config, seed), *_weights(config, seed), *_doubled(config, seed)]


# The models -----------------------------------------------------------------------------------------


def _pairs(config: Config, model, position: str, words: texts.Words, seed: int) -> Iterator[dict]:
    """Every text at every length, with both its pairs; texts of one length go through the model together."""
    for n in config.lengths:
        first = torch.cat([texts.text(kind, n, words) for kind in config.texts]).to(config.device)
        for pair in (REPEATED, MIDDLE):
            second = texts.repeated(first) if pair == REPEATED else texts.middle(first, words)
            found = collapse(model, first, second, pair=pair)
            for at, kind in enumerate(config.texts):
                place = {"case": MODEL, "position": position, "text": kind, "pair": pair, "seed": seed, "length": n}
                yield EMPTY | place | _numbers(found, at)


def _numbers(found, at: int) -> dict[str, float]:
    heads = found.heads[NORMS.index("inf"), -1, at]
    one, two, inf, relative = found.stream[:, -1, at].tolist()
    return {
        **{"l1": one, "l2": two, "linf": inf, "relative": relative},
        **{"identical": found.identical[-1, at].item(), "logit_distance": found.logit_distance[at].item()},
        **{"margin": found.margin[:, at].min().item(), "same_answer": float(found.same_answer[at])},
        **{"head_low": heads.min().item(), "head_mean": heads.mean().item(), "head_high": heads.max().item()},
    }


def _checkpoint_rows(config: Config, found, seed: int) -> Iterator[dict]:
    words = texts.checkpoint_words(found, config.prompt, config.lengths[-1], seed, config.separate_every)
    for name, model in ((CHECKPOINT, found), (TWIN, models.twin(found, seed))):
        yield from _pairs(config, model, name, words, seed)


# The cases that are known ---------------------------------------------------------------------------


def _vectors(x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    norms = dict(zip(("l1", "l2", "linf", "relative"), (distance(x, y, norm).item() for norm in NORMS), strict=True))
    return norms | {"identical": identical(x, y, "bfloat16").item()}


def _one_head(config: Config, seed: int) -> Iterator[dict]:
    made = one_head.head(seed, config.head_lengths[-1])
    for position, kind, n in product(POSITIONS, ("ones", "digits"), config.head_lengths):
        x, y = (one_head.mixed(made, kind, n, position, repeats) for repeats in (0, 1))
        place = {"case": HEAD, "position": position, "text": kind, "pair": REPEATED, "seed": seed, "length": n}
        theory = {}
        if position == NONE:
            law = one_head.identity(made, kind, n)
            theory = {"theory": law.abs().sum().item(), "off": (x - y - law).abs().max().item()}
        yield EMPTY | place | _vectors(x, y) | theory


def _weights(config: Config, seed: int) -> Iterator[dict]:
    """Figure 9 and proposition B.4."""
    longest = config.head_lengths[-1]
    for n in config.head_lengths:
        place = {"case": WEIGHTS, "position": NONE, "seed": seed, "length": n}
        made = {"text": "alternating logits", "pair": "other logits", "theory": one_head.ALTERNATED}
        yield EMPTY | place | made | _vectors(*one_head.alternated(n))
        if n > one_head.CHANGED:
            made = {"text": "perturbed prefix", "pair": "other logits", "theory": one_head.PERTURBED / n}
            yield EMPTY | place | made | _vectors(*one_head.perturbed(seed, n, longest))


@torch.no_grad()
def _doubled(config: Config, seed: int) -> Iterator[dict]:
    """Proposition 6.1: every token of a text, and the same token in both halves of the text written twice."""
    from toy_models import Transformer

    n = config.lengths[0]
    words = texts.own_words(config.shape.d_vocab, config.prompt, n, seed)
    once = texts.text("digits", n, words)
    for position in (NONE, ROPE, LEARNED, STEEP):
        for causal in (False, True):
            shape = replace(config.shape, dtype=torch.float64)
            model = Transformer(replace(models.with_position(shape, position), causal=causal), seed=seed)
            x, y = model(once)[0], model(torch.cat([once, once], 1))[0]
            off = (torch.cat([x, x]) - y).abs().max().item()
            place = {"case": MASKED if causal else DOUBLED, "position": position, "text": "digits", "pair": "doubled"}
            size = {"linf": off, "relative": off / x.abs().max().item()}
            yield EMPTY | place | {"seed": seed, "length": n} | size
