"""The rows of `counting_vs_width`."""

from collections.abc import Iterator

import torch
from jaxtyping import Int
from scipy.stats import binom

from analyses.counting.counts.asking import count_logits
from analyses.counting.widths.columns import CONSTRUCTED, TRAINED, UNTRAINED
from analyses.counting.widths.constructed import ORTHOGONAL, RANDOM, SIMPLEX, counter, frame, readings
from analyses.counting.widths.layers import Layers, counted, fit
from toy_models.seeding import generator
from toy_models.tasks.count_query import CountQuery


def trained(config, vocabulary: int, d_model: int) -> list[dict]:
    """Rows of all seeds before and after training."""
    task = config.task(vocabulary)
    layers = Layers(task, d_model, config.d_mlp, config.seeds).to(config.device)
    rows = [{"model": UNTRAINED, **row} for row in _asked(layers, config.test_texts)]
    fit(layers, config.train)
    rows += [{"model": TRAINED, **row} for row in _asked(layers, config.test_texts)]
    return [row | {"frame": "", "d_model": d_model} for row in rows]


@torch.no_grad()
def _asked(layers: Layers, texts: int) -> list[dict]:
    """One row for each seed."""
    task = layers.task
    batches = [task.sample(texts, generator(seed, "test", task.vocabulary)) for seed in layers.seeds]
    counts, query, true = counted(task, batches)
    told = layers(counts, query).argmax(-1)
    return [{"seed": seed, **_scored(task, told[at], true[at])} for at, seed in enumerate(layers.seeds)]


def constructed(config, seed: int) -> list[dict]:
    """Rows of the nets by hand: orthogonal from d = m on, the simplex at d = m - 1, random directions below."""
    rows = []
    for m, d, kind in _frames(config):
        task, vectors = config.task(m), frame(kind, m, d, seed)
        model = counter(task, vectors)
        logits, true = count_logits(model, task, config.test_texts, seed, m)
        batch = task.sample(config.test_texts, generator(seed, "readings", m, d))
        exact = (batch.tokens[:, 1:-1] == batch.tokens[:, -1:]).sum(-1)
        off = (readings(model, task, vectors, batch.tokens) - exact).abs().max().item()
        rows.append(
            {"model": CONSTRUCTED, "frame": kind, "seed": seed, "d_model": d, "reading_error": off}
            | _scored(task, logits.argmax(-1), true)
        )
    return rows


def _frames(config) -> Iterator[tuple[int, int, str]]:
    for m in config.vocabularies:
        for d in sorted({*config.widths, m - 1, m}):
            yield m, d, ORTHOGONAL if d >= m else SIMPLEX if d == m - 1 else RANDOM


def _scored(task: CountQuery, told: Int[torch.Tensor, " text"], true: Int[torch.Tensor, " text"]) -> dict[str, float]:
    return {
        "vocabulary": task.vocabulary,
        "length": task.longest,
        "accuracy": (told == true).double().mean().item(),
        "error": (told - true).abs().double().mean().item(),
        "guess": guess(task),
        "chance": 1 / (task.largest + 1),
    }


def guess(task: CountQuery) -> float:
    """Accuracy of the likeliest answer: counts are Binomial(length, 1 / vocabulary), `largest` and more are one."""
    chances = binom.pmf(range(task.largest), task.longest, 1 / task.vocabulary)
    return float(max(chances.max(), 1 - chances.sum()))
