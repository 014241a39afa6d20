"""Do induction heads form on real text, and when?

Three attention-only models read the source text of Python's standard library byte by byte: two layers; one layer,
as the control; and one layer whose keys are smeared with their predecessor's.  At every checkpoint, beside the loss
on files that training never shows: the heads on repeats of random bytes; the in-context score; how much an earlier
copy of a text helps; and how strongly the layers compose.  What holds here is said of these models on this text: it
does not say what in-context learning is made of elsewhere.

A trained model opens in one line, `trained(Config(), "2 layers", 10)`; its checkpoints lie in the results' folder
under `checkpoints`, named by the hash of what decides them, the bytes of the text included.

Source: Olsson et al. 2022, arXiv:2209.11895: scores of heads, in-context score, and what two layers do
that one does not, unless its keys are smeared.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result, results_root
from analyses.core.sweep import run_jobs
from toy_models import byte_models
from toy_models.byte_models import ONE_LAYER as ONE
from toy_models.byte_models import SMEARED
from toy_models.byte_models import TWO_LAYERS as TWO
from toy_models.config import TransformerConfig
from toy_models.errors import ConfigError
from toy_models.tasks.text import BOS, Text
from toy_models.train import TrainConfig

CONDITIONS = byte_models.CONDITIONS
SHIFTS = range(1, 7)  # how far after an earlier occurrence a displaced circuit is looked for


@dataclass(frozen=True)
class Config:
    """Args: windows: of each part, that losses are measured on;  repeats: texts of random bytes;  period, copies: of
    their blocks.  Checkpoints are measured every `train.checkpoint_every` updates."""

    model: TransformerConfig = byte_models.MODEL
    task: Text = byte_models.TASK
    train: TrainConfig = byte_models.TRAIN
    windows: int = 128
    repeats: int = 32
    period: int = 25
    copies: int = 4
    seeds: tuple[int, ...] = (10, 11)  # the settings above were chosen on seed 0
    device: str = "cpu"

    def __post_init__(self):
        whole = min(self.period, self.copies, self.windows) >= 2 and self.repeats >= 1 and self.task.n_ctx >= 32
        if not whole or 1 + self.period * self.copies > self.model.n_ctx:
            raise ConfigError(
                f"period={self.period}, copies={self.copies}, windows={self.windows} must be 2 or more, "
                f"repeats={self.repeats} 1 or more, task.n_ctx={self.task.n_ctx} 32 or more, and BOS and the copies "
                f"must fit n_ctx={self.model.n_ctx}"
            )


QUICK = {"train.steps": 200, "train.checkpoint_every": 40, "windows": 32, "repeats": 8, "seeds": (0,)}

COLUMNS = {
    "condition": "which model: " + "; ".join(CONDITIONS),
    "seed": "of the weights and of the training windows",
    "step": "updates done",
    "train_loss": "mean cross entropy on windows of the training files (nats per byte)",
    "loss": "the same on windows of files that training never shows (nats per byte)",
    "in_context": "held-out loss in the last quarter of a window less that in its second eighth (nats per byte)",
    "text_gain": "loss on the second copy of a held-out text less that on its first (nats per byte)",
    "random_gain": "loss on the later copies of random bytes less that on the first (nats per byte)",
    "prefix_matching": "best head of the last layer on random repeats: attention on tokens after earlier ones (0 to 1)",
    "displaced": "the same at the shift that suits it best (0 to 1)",
    "shift": "that shift: positions after the earlier occurrence (1 is prefix matching)",
    "previous_token": "best head of the first layer on random repeats: attention on the position before (0 to 1)",
    "k_composition": "best pair of heads, first to last layer, over random heads' (1 is chance; nan for one layer)",
}


def run(config: Config) -> Result:
    """Train every condition and seed side by side, or find the checkpoints, and measure each of them."""
    task = config.task.pinned()
    jobs = [(replace(config, task=task), condition, seed) for seed in config.seeds for condition in CONDITIONS]
    done = run_jobs(_measure_one, jobs, label="training runs")
    table = pd.DataFrame([row for rows, _, _ in done for row in rows], columns=list(COLUMNS))
    arrays = {}
    for condition in CONDITIONS:
        maps = [heads for (_, heads, _), (_, of, _) in zip(done, jobs, strict=True) if of == condition]
        for score in maps[0]:
            arrays[f"{condition}: {score} (seed, step, layer, head)"] = np.stack([one[score] for one in maps])
    text = {"digest": task.text_digest, "bytes": len(task.text), "unigram_loss": _unigram_loss(task)}
    backends = sorted({backend for _, _, ran in done for backend in ran})
    measured_with = {"device": config.device, "dtype": "float32", "backend": backends, "text": text}
    return Result(table, arrays, measured_with)


def trained(config: Config, condition: str, seed: int):
    """The trained run of one condition and seed, from disk if it is there: `.model`, and `.at(step)`.

    Raises:
        ModelError: the text cannot be read, or a checkpoint is damaged.
    """
    from toy_models.checkpoints import train_or_load

    of_run = {"model": config.model, "task": config.task, "train": config.train, "device": config.device}
    run_config = byte_models.byte_model(condition, seed, **of_run)
    return train_or_load(run_config, results_root() / "checkpoints", show_progress=False)


def _measure_one(job: tuple[Config, str, int]):
    """Rows of one model, its heads' scores (step, layer, head), and the attention backends that ran."""
    config, condition, seed = job
    found = trained(config, condition, seed)
    texts = _texts(config)
    rows, maps, ran = [], [], set()
    for step in found.steps:
        model = found.at(step)
        row, heads = _heads(model, texts["random"])
        losses = _losses(model, texts, config.period)
        rows.append({"condition": condition, "seed": seed, "step": step, **losses, **row})
        maps.append(heads)
        ran.update(model.backends)
    return rows, {name: np.stack([one[name] for one in maps]) for name in maps[0]}, sorted(ran)


# The texts, the same for every model and checkpoint -------------------------------------------------


def _texts(config: Config) -> dict:
    """Windows of both parts; held-out texts of half a window, twice; blocks of distinct random bytes, repeated."""
    import torch

    from toy_models.seeding import generator

    held_out = config.task.held_out()
    half = (config.task.n_ctx - 1) // 2
    once = held_out.sample(config.windows, generator(0, "twice")).targets[:, :half]
    common = config.task.common()  # a rare byte is hardly trained, and all noise
    if len(common) < config.period:
        raise ConfigError(
            f"period={config.period} distinct bytes cannot be drawn from the {len(common)} that the text often has"
        )
    drawn = torch.rand(config.repeats, len(common), generator=generator(0, "repeats"))
    blocks = common[drawn.argsort(-1)[:, : config.period]].repeat(1, config.copies)
    texts = {
        "training": config.task.sample(config.windows, generator(0, "training")),
        "held out": held_out.sample(config.windows, generator(0, "held out")),
        "twice": torch.cat([torch.full((config.windows, 1), BOS), once, once], dim=1),
        "random": torch.cat([torch.full((config.repeats, 1), BOS), blocks], dim=1),
    }
    return {name: one.to(config.device) for name, one in texts.items()}


def _unigram_loss(task: Text) -> float:
    """Held-out cross entropy, in nats per byte, of the byte frequencies of the training text (each count one up)."""
    counts, test = (one.text.int().bincount(minlength=256).double() for one in (task, task.held_out()))
    shares = (counts + 1) / (counts + 1).sum()
    return float(-(test * shares.log()).sum() / test.sum())


# The measurements -----------------------------------------------------------------------------------


def _losses(model, texts: dict, period: int) -> dict[str, float]:
    """Losses, and the three comparisons of late with early predictions."""
    import torch

    from probes.model import target_losses, token_losses

    with torch.no_grad():
        training, held_out = (
            target_losses(model(texts[part].tokens), texts[part].targets) for part in ("training", "held out")
        )
        twice, random = (token_losses(model(texts[name]), texts[name]) for name in ("twice", "random"))
    n, half = held_out.shape[1], twice.shape[1] // 2
    skip = half // 4  # the first bytes of a text are hard for want of any context, not for want of a copy
    return {
        "train_loss": training.mean().item(),
        "loss": held_out.mean().item(),
        "in_context": _late_less_early(held_out, slice(n // 8, n // 4), slice(3 * n // 4, n)),
        "text_gain": _late_less_early(twice, slice(skip, half), slice(half + skip, 2 * half)),
        # The first byte of the second copy stands after a byte that has not been seen before.
        "random_gain": _late_less_early(random, slice(0, period), slice(period + 1, None)),
    }


def _late_less_early(losses, early: slice, late: slice) -> float:
    """The in-context score between two stretches of the texts instead of two positions, which takes out noise."""
    import torch

    from probes.in_context import in_context

    stretches = torch.stack([losses[:, early].mean(-1), losses[:, late].mean(-1)], dim=-1)
    return in_context(stretches, early=0, late=1).mean.item()


def _heads(model, tokens) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Scores on random repeats: of the best heads, and of all (layer, head)."""
    from probes.circuits import composition
    from probes.induction import prefix_matching, previous_token
    from probes.model import patterns

    found = patterns(model, tokens)
    by_shift = np.array([[prefix_matching(pattern, tokens, shift).tolist() for pattern in found] for shift in SHIFTS])
    back = np.array([previous_token(pattern).tolist() for pattern in found])
    last = by_shift[:, -1].max(-1)
    between = composition(model, fold=True) if len(found) > 1 else None
    row = {
        "prefix_matching": float(last[0]),
        "displaced": float(last.max()),
        "shift": SHIFTS[int(last.argmax())],
        "previous_token": float(back[0].max()),
        "k_composition": between.k[0, :, -1].max().item() / between.random_rms if between else np.nan,
    }
    return row, {"prefix matching": by_shift[0], "previous token": back}


# The claims -----------------------------------------------------------------------------------------


def _at(condition: str, column: str, end: bool = True) -> Callable[[Result], list[float]]:
    """The value of `column` at the end of training, or before it, one per seed."""

    def measure(result: Result) -> list[float]:
        table = result.table
        step = table.step.max() if end else table.step.min()
        return table[(table.condition == condition) & (table.step == step)].sort_values("seed")[column].tolist()

    return measure


def _above_unigram(result: Result) -> list[float]:
    of_all = [np.array(_at(condition, "loss")(result)) for condition in CONDITIONS]
    return (np.max(of_all, axis=0) - result.run["text"]["unigram_loss"]).tolist()


def _difference(column: str, condition: str, other: str) -> Callable[[Result], list[float]]:
    one, two = _at(condition, column), _at(other, column)
    return lambda result: np.subtract(one(result), two(result)).tolist()


OLSSON, OURS = "Olsson et al. 2022, arXiv:2209.11895", "this study"
TOO_EARLY = {
    "explanation": "after 6e6 bytes (the source: 1e9 tokens and more) heads read the last few bytes; "
    "nor does one model of d_model 128 by 2.8e7 bytes",
    "source_verdict": "not reached at this size",
}
UNIFORM = "probes/theory/induction.md: even attention on blocks of 25, four times, scores 0.03"
CLAIMS = (
    Claim(
        "Before training heads attend evenly: prefix matching, best head of two layers",
        *("calibration", UNIFORM, Bound(0.025, 0.045), _at(TWO, "prefix_matching", end=False)),
    ),
    Claim(
        "All models know more than how frequent a byte is: held-out loss above the unigram loss (nats)",
        *("finding", OURS, Bound(high=-0.8), _above_unigram),
    ),
    Claim(
        "Two layers form a prefix-matching head on text (best head of the last layer, on random bytes)",
        *("replication", OLSSON, Bound(low=0.3), _at(TWO, "prefix_matching")),
        **TOO_EARLY,
    ),
    Claim(
        "Their first layer leans on the previous byte (best head, on random bytes)",
        *("replication", OLSSON, Bound(low=0.2), _at(TWO, "previous_token")),
    ),
    Claim(
        "One layer forms no prefix-matching head",
        *("replication", OLSSON, Bound(high=0.06), _at(ONE, "prefix_matching")),
    ),
    Claim(
        "One layer with smeared keys does, at twice what even attention scores or more",
        *("replication", OLSSON, Bound(low=0.06), _at(SMEARED, "prefix_matching")),
        **TOO_EARLY,
    ),
    Claim(
        "Context helps two layers more than one: difference of the in-context scores (nats per byte)",
        *("replication", OLSSON, Bound(high=0.0), _difference("in_context", TWO, ONE)),
        every=False,
    ),
    Claim(
        "An earlier copy of the text helps two layers (nats per byte)",
        *("finding", OURS, Bound(high=-0.1), _at(TWO, "text_gain")),
    ),
    Claim(
        "It helps one layer with smeared keys more than one without (nats per byte)",
        *("finding", OURS, Bound(high=0.0), _difference("text_gain", SMEARED, ONE)),
    ),
    Claim(
        "The two layers compose through their keys: best pair of heads over random heads'",
        *("finding", OURS, Bound(low=1.5), _at(TWO, "k_composition")),
    ),
)
