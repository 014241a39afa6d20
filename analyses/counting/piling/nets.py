"""The rows and confusions of `count_saturation`: one seed, a net under each prior, and the predictions between them."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int

from analyses.counting.counts.asking import count_logits
from analyses.counting.nets.arms import transformer
from analyses.counting.nets.learning import born, learned
from analyses.counting.piling.columns import EVERY, FLAT, PEAKED, PRIORS, TRAINED, UNTRAINED
from analyses.counting.piling.observer import confusions
from toy_models.tasks.count_symbols import BERNOULLI, CountSymbols, round_numbers, uniform


def task_of(config, prior: str) -> CountSymbols:
    """Ones among zeros in texts of one length, which holds every count."""
    chances = {FLAT: uniform(config.most), PEAKED: round_numbers(config.most, config.exponent, EVERY, config.favour)}
    return CountSymbols(BERNOULLI, config.length, config.length, most=config.most, prior=chances[prior])


def asked(
    config, prior: str, seed: int
) -> dict[str, tuple[Float[torch.Tensor, "text count"], Int[torch.Tensor, " text"]]]:
    """Per moment the logits and true counts of the net trained under a prior; all counts are asked equally often."""
    task, test = task_of(config, prior), task_of(config, FLAT)
    size = {"n_layers": config.n_layers, "d_model": config.d_model, "d_mlp": 2 * config.d_model}
    build = transformer(task, task.n_ctx, position=config.position, device=config.device, **size)
    nets = {UNTRAINED: born(build, seed), TRAINED: learned(build, task, config.train, seed)}
    return {moment: count_logits(net, test, config.test_texts, seed) for moment, net in nets.items()}


def of_seed(config, seed: int) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Rows (prior, moment, true count), and the confusions of both trained nets and of the shifted logits."""
    rows, tables = [], {}
    for prior in PRIORS:
        for moment, (logits, true) in asked(config, prior, seed).items():
            table = confusions(true, logits)
            texts = true.bincount(minlength=len(table)).tolist()
            rows += [{"seed": seed, "prior": prior, "moment": moment, **row} for row in _by_count(table, texts)]
            if moment == TRAINED:
                tables[prior] = table
            if (prior, moment) == (FLAT, TRAINED):
                tables["shifted"] = confusions(true, logits + torch.tensor(task_of(config, PEAKED).prior).log())
    return rows, tables


def _by_count(table: Float[np.ndarray, "true told"], texts: list[int]) -> Iterator[dict]:
    told = np.arange(len(table))
    rounded = (told > 0) & (told % EVERY == 0)
    for count, (shares, asked_) in enumerate(zip(table, texts, strict=True)):
        mean = shares @ told
        yield {
            "count": count,
            "texts": asked_,
            "right": shares[count],
            "wrong_round": shares[rounded & (told != count)].sum(),
            "bias": mean - count,
            "spread": np.sqrt(shares @ (told - mean) ** 2),
        }
