"""What does each attention head of a model do?

Every head of any model, on blocks of distinct random tokens that repeat, made of the model's own vocabulary:
induction (prefix matching), previous token, duplicate token, first token, diagonal, entropy, and the copying
score of its weights.  `--set model=` takes a Hugging Face directory or a name; "byte model" is the two-layer model
that `induction_in_text` trains on real text, and "constructed" a circuit set by hand.  The claims are calibrations:
in every run the same code scores models whose heads are known.

Source: Olsson et al. 2022, arXiv:2209.11895, "head activation evaluators": 25 random tokens, four times, a
start token in front.  The scores' own sources stand in probes/theory.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from analyses.core.claims import Bound, Claim
from analyses.core.directories import checked_files
from analyses.core.results import Result, results_root
from toy_models import byte_models
from toy_models.errors import ConfigError, ModelError
from toy_models.tasks.repeated_blocks import RepeatedBlocks

BYTE_MODEL, CONSTRUCTED = "byte model", "constructed"
BYTE_MODEL_SEED = 10  # the first that `induction_in_text` trains in full
PERIOD = 25  # of Olsson et al.; shorter where the model's vocabulary or context is too small for it
ON_TEXT = (
    *("prefix_matching", "previous_token", "duplicate_token"),
    *("first_token", "diagonal", "entropy", "relative_entropy"),
)


@dataclass(frozen=True)
class Config:
    """Args: model: a Hugging Face directory or name, "byte model" or "constructed";  period: tokens in a block,
    as many as fit and 25 at most by default;  copies: of the block in a text;  texts: per seed;  files: sha256 of a
    directory's files, filled in, so that a directory with other weights is another configuration."""

    model: str = BYTE_MODEL
    period: int | None = None
    copies: int = 4
    texts: int = 8
    files: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    device: str = "cpu"

    def __post_init__(self):
        if (self.period is not None and self.period < 2) or self.copies < 2 or self.texts < 1:
            raise ConfigError(
                f"period={self.period}, copies={self.copies}, texts={self.texts}: a text needs a block of 2 tokens or "
                f"more, 2 copies or more, and there must be a text"
            )
        directory = None if self.model in (BYTE_MODEL, CONSTRUCTED) else self.model
        object.__setattr__(self, "files", checked_files(directory, self.files))


QUICK = {"model": CONSTRUCTED, "copies": 3, "texts": 2, "seeds": (0, 1)}

COLUMNS = {
    "model": "directory or name",
    "layer": "layer, from 0",
    "head": "head of the layer, from 0",
    "seed": "of the texts",
    "prefix_matching": "induction: attention on tokens after earlier occurrences (0 to 1)",
    "previous_token": "attention on the position before (0 to 1)",
    "duplicate_token": "attention on earlier occurrences (0 to 1)",
    "first_token": "attention on position 0 (0 to 1)",
    "diagonal": "attention on the own position (0 to 1)",
    "entropy": "entropy of the attention (nats)",
    "relative_entropy": "entropy over that of uniform attention (0 to 1)",
    "copying": "copying score: eigenvalues of the OV circuit, norms folded in (-1 to 1; nan where it is zero)",
    "output_norm": "Frobenius norm of the full OV circuit, norms folded in (logits)",
}


def run(config: Config) -> Result:
    """Score every head on every seed's texts, then the models with a known answer."""
    from probes.circuits import copying
    from toy_models.progress import progress

    model = _model(config)
    content, bos = _vocabulary(model, config)
    period = _period(config, len(content), bos is not None, model.cfg.n_ctx)
    tokens = [_texts(config, content, bos, period, seed) for seed in config.seeds]
    scores = [_scores(model, one.to(config.device)) for one in progress(tokens, "seeds")]
    of_weights = copying(model, fold=True)
    fixed = {"copying": of_weights.score, "output_norm": of_weights.output_norm}
    fixed = {name: np.array(values.tolist()) for name, values in fixed.items()}
    rows = [
        {"model": config.model, "layer": layer, "head": head, "seed": seed}
        | {name: float(values[layer, head]) for name, values in (found | fixed).items()}
        for seed, found in zip(config.seeds, scores, strict=True)
        for layer, head in np.ndindex(*fixed["copying"].shape)
    ]
    text = {"bos": bos, "period": period, "copies": config.copies, "positions": tokens[0].shape[1]}
    if config.model == BYTE_MODEL:
        text["checkpoint"] = _byte_model(config).hash  # that of its training text included
    backends = sorted({*getattr(model, "backends", ("eager",))})  # a loaded model has transformers' own attention
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    arrays = {"tokens (seed, text, position)": np.stack([one.numpy() for one in tokens])}
    return Result(
        pd.DataFrame(rows, columns=list(COLUMNS)),
        arrays | _calibrate(config.seeds),
        {"device": config.device, "dtype": dtype, "backend": backends, "text": text},
    )


# The model and its texts --------------------------------------------------------------------------


def _model(config: Config):
    import toy_models
    from toy_models.checkpoints import train_or_load
    from toy_models.constructed import induction_circuit

    if config.model == BYTE_MODEL:
        return train_or_load(_byte_model(config), results_root() / "checkpoints").model
    if config.model != CONSTRUCTED:
        return toy_models.load(config.model, device=config.device)
    period = config.period or PERIOD
    return induction_circuit(d_vocab=period + 1, n_ctx=1 + config.copies * period).to(config.device)


def _byte_model(config: Config):
    return byte_models.byte_model(byte_models.TWO_LAYERS, BYTE_MODEL_SEED, device=config.device)


def _vocabulary(model, config: Config) -> tuple[list[int], int | None]:
    """The ids that a text is drawn from, without the special ones, and that of the start token, if there is one.

    Raises:
        ModelError: the tokenizer knows ids that the model does not.
    """
    tokenizer, d_vocab = getattr(model, "tokenizer", None), model.cfg.d_vocab
    if config.model == BYTE_MODEL:
        return _byte_model(config).task.common().tolist(), model.cfg.bos_id
    if tokenizer is None:  # one of ours: every id is a token
        return [i for i in range(d_vocab) if i != model.cfg.bos_id], model.cfg.bos_id
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | {*tokenizer.all_special_ids}
    ids = tokenizer.get_vocab()
    content = sorted({*ids.values()} - special)
    if content and content[-1] >= d_vocab:
        raise ModelError(
            f"the tokenizer of {config.model} knows token {content[-1]}, the model embeds {d_vocab}: "
            f"put the tokenizer that the model was trained with beside it"
        )
    # TransformerLens knows which families start with one; a tokenizer without any it gives one that is no token of it.
    start = ids.get(tokenizer.bos_token, d_vocab) if model.cfg.default_prepend_bos else d_vocab
    return content, start if start < d_vocab else None


def _period(config: Config, n_content: int, bos: bool, n_ctx: int) -> int:
    """How many tokens a block has.

    Raises:
        ModelError: the vocabulary or the context is too small.
    """
    longest = min(n_content, (n_ctx - bos) // config.copies)
    period = config.period or min(PERIOD, longest)
    if not 2 <= period <= longest:
        raise ModelError(
            f"{config.copies} copies of {max(period, 2)} distinct tokens do not fit {config.model}, which has "
            f"{n_content} tokens to draw from and {n_ctx} positions: set a period of 2 to {longest}, or fewer copies"
            if longest >= 2
            else f"{config.model} has {n_content} tokens to draw from and {n_ctx} positions: too few for "
            f"{config.copies} copies of a block of 2"
        )
    return period


def _texts(config: Config, content: list[int], bos: int | None, period: int, seed: int):
    """(text, position): the task counts 1 to n through the list of ids, and its own BOS stands for the model's."""
    import torch

    from toy_models.seeding import generator

    n = len(content)
    task = RepeatedBlocks(n + 1, 1 + config.copies * period, shortest=period, longest=period, held_out=())
    places = task.sample(config.texts, generator(seed, "head_scores")).tokens
    ids = torch.tensor([-1 if bos is None else bos, *content])
    return ids[places][:, bos is None :]


def _scores(model, tokens) -> dict[str, np.ndarray]:
    """Every score on a text, (layer, head), from one forward pass."""
    from probes import heads, induction
    from probes.model import patterns

    of_pattern = {name: getattr(heads, name) for name in ("first_token", "diagonal", "entropy", "relative_entropy")}
    of_pattern["previous_token"] = induction.previous_token
    for name in ("prefix_matching", "duplicate_token"):
        of_pattern[name] = partial(getattr(induction, name), tokens=tokens)
    found = patterns(model, tokens)
    return {name: np.array([of_pattern[name](one).tolist() for one in found]) for name in ON_TEXT}


# Calibration: models whose heads are known --------------------------------------------------------

CALIBRATED = Config(model=CONSTRUCTED, period=12, copies=4, texts=4)
N = 1 + CALIBRATED.copies * CALIBRATED.period
SHARE = math.fsum(1 / (i + 1) for i in range(1, N)) / (N - 1)  # of one key, attention being uniform
COPIES = math.fsum((i - 1) // CALIBRATED.period / (i + 1) for i in range(CALIBRATED.period + 1, N))
MEAN_COPIES = COPIES / (N - 1 - CALIBRATED.period)  # of all earlier copies: position i has seen (i - 1) // period
# (constructed model, layer, score) -> its value, from the model's construction.
KNOWN = {
    ("induction_circuit", 1, "prefix_matching"): 1.0,
    ("induction_circuit", 0, "previous_token"): 1.0,
    ("induction_circuit", 1, "copying"): 1.0,
    ("previous_token_head", 0, "previous_token"): 1.0,
    ("previous_token_head", 0, "first_token"): 1 / (N - 1),
    ("diagonal_head", 0, "diagonal"): 1.0,
    ("uniform_head", 0, "prefix_matching"): MEAN_COPIES,
    ("uniform_head", 0, "duplicate_token"): MEAN_COPIES,
    ("uniform_head", 0, "previous_token"): SHARE,
    ("uniform_head", 0, "first_token"): SHARE,
    ("uniform_head", 0, "diagonal"): SHARE,
    ("uniform_head", 0, "entropy"): math.lgamma(N + 1) / (N - 1),
    ("uniform_head", 0, "relative_entropy"): 1.0,
}


def _calibrate(seeds) -> dict[str, np.ndarray]:
    """What each known model scores, (seed,), in float64: the softmax beside a match is exp(-20) per key."""
    from probes.circuits import copying
    from toy_models import constructed

    found = {}
    for made in dict.fromkeys(name for name, _, _ in KNOWN):
        model = getattr(constructed, made)(d_vocab=CALIBRATED.period + 1, n_ctx=N).double()
        content, bos = _vocabulary(model, CALIBRATED)
        weights = {"copying": np.array(copying(model, fold=True).score.tolist())}
        by_seed = [
            _scores(model, _texts(CALIBRATED, content, bos, CALIBRATED.period, seed)) | weights for seed in seeds
        ]
        for name, layer, score in KNOWN:
            if name == made:
                found[_array(name, layer, score)] = np.array([scores[score][layer, 0] for scores in by_seed])
    return found


def _array(made: str, layer: int, score: str) -> str:
    return f"{made}, layer {layer}: {score} (seed)"


def _values(made: str, layer: int, score: str) -> Callable[[Result], list[float]]:
    return lambda result: result.arrays[_array(made, layer, score)].tolist()


def _known(made: str, layer: int, score: str, value: float) -> Claim:
    """Uniform attention is exact up to rounding; a match leaves (n - 1) exp(-20) < 1e-6 of the mass to other keys."""
    tolerance = 1e-12 if made == "uniform_head" else 1e-6
    note = "circuits" if score == "copying" else "heads" if score in ON_TEXT[3:] else "induction"
    return Claim(
        sentence=f"{made.replace('_', ' ')}, layer {layer}: {score} as its weights were set",
        kind="identity" if made == "uniform_head" else "calibration",
        source=f"closed form, probes/theory/{note}.md",
        expected=Bound(value - tolerance, value + tolerance),
        measure=_values(made, layer, score),
    )


CLAIMS = tuple(_known(*key, value) for key, value in KNOWN.items())
