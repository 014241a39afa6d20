"""The rows of `counting_vs_length`: one net and kind trained on short texts, asked about short and long ones."""

from collections.abc import Iterator

import torch

from analyses.counting.counts.asking import count_logits
from analyses.counting.growing.columns import BFLOAT16, LSTM, TRAINED, UNTRAINED
from analyses.counting.nets.arms import lstm, transformer
from analyses.counting.nets.learning import born, learned
from toy_models.tasks.count_symbols import BERNOULLI, ONES, SUM, WORD, CountSymbols, uniform


def task_of(kind: str, longest: int) -> CountSymbols:
    """Texts of 1 to `longest` symbols.  Among other symbols all counts that fit are equally likely, and so stay within
    the answers on longer texts; ones alone and a sum are as long as they count."""
    return CountSymbols(kind, 1, longest, most=longest, prior=uniform(longest) if kind in (BERNOULLI, WORD) else None)


def lengths_of(config, kind: str) -> tuple[int, ...]:
    """Test lengths: of ones and sums, which have one text each, all that training has answers for."""
    return tuple(range(1, config.longest + 1)) if kind in (ONES, SUM) else config.lengths


def rows(config, net: str, kind: str, seed: int) -> list[dict]:
    """One row for every moment, length and true count."""
    task = task_of(kind, config.longest)
    n_ctx = max(task.at(n).n_ctx for n in (*lengths_of(config, kind), config.longest))
    size = {"d_model": config.d_model, "d_mlp": 2 * config.d_model, "device": config.device}
    build = lstm(task, n_ctx, config.d_model) if net == LSTM else transformer(task, n_ctx, position=net, **size)
    model = learned(build, task, config.train, seed)
    asked = {UNTRAINED: born(build, seed), TRAINED: model}
    found = []
    for moment, subject in asked.items():
        found += _asked(config, subject, task, kind, seed, moment)
    found += _asked(config, model.to(torch.bfloat16), task, kind, seed, BFLOAT16)
    return [{"net": net, "kind": kind, "seed": seed, **row} for row in found]


def _asked(config, model: torch.nn.Module, task: CountSymbols, kind: str, seed: int, moment: str) -> Iterator[dict]:
    for length in lengths_of(config, kind):
        texts = 1 if kind in (ONES, SUM) else config.test_texts  # there is one text of each length
        logits, true = count_logits(model, task.at(length), texts, seed, kind, length)
        told = logits.argmax(-1)
        for count in true.unique().tolist():
            answers = told[true == count].double()
            yield {
                "moment": moment,
                "length": length,
                "count": count,
                "texts": len(answers),
                "right": int((answers == count).sum()),
                "error": (answers - count).abs().mean().item(),
                "bias": (answers - count).mean().item(),
            }
