"""When does attention need a sink, and does it make one where it does not?

On the trigger task (`toy_models.tasks.trigger`) a head must average at one token and write nothing at all others.
Rows of softmax sum to 1, so writing nothing takes a key whose value says nothing.  Six ways to weigh learn the task,
each with a fixed first token and without one: softmax; a virtual key of score 0 (off by one); one of a learned score;
ReLU; sigmoid; softmax behind a gate.  Controls: the untrained models; softmax where every position averages, so that
there is never nothing to write; the first token hidden after training.  Two layers of two heads test softmax and ReLU
again.

Steps and batches are equal; rates of 0.003 to 0.1 were tried on seeds 1 and 2: 0.03 did best or as well as any, for
ReLU 0.01.

Sources: Ran-Milo 2026, arXiv:2603.11487: a layer of softmax that solves the task has its mass on the first token at
every position but the trigger (theorem 1), several layers have such a position somewhere (theorem 2), ReLU needs none
(theorem 3).  Miller 2023, "Attention is off by one"; gpt-oss (OpenAI 2025, arXiv:2508.10925); Qiu et al. 2025,
arXiv:2505.06708, gated attention.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.glasses.trigger.arms import ARMS, NOT_QUICK, TRAINED, UNTRAINED
from analyses.glasses.trigger.claims import CLAIMS
from toy_models.config import TransformerConfig
from toy_models.tasks.trigger import Trigger
from toy_models.train import TrainConfig

__all__ = ["CLAIMS", "COLUMNS", "QUICK", "Config", "run"]


@dataclass(frozen=True)
class Config:
    """Args: arms: which of ARMS to run;  test_texts: to measure on."""

    arms: tuple[str, ...] = tuple(ARMS)
    model: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(
            n_layers=1,
            n_heads=1,
            d_model=16,
            d_head=16,
            d_vocab=1,
            n_ctx=16,
            d_mlp=0,
            normalization_type=None,
            position="none",
        )
    )
    task: Trigger = field(default_factory=Trigger)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=800, batch_size=64, lr=0.03, decay=0.5, weight_decay=0.0, betas=(0.9, 0.95)
        )
    )
    test_texts: int = 512
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)  # the settings above were chosen on seeds 0 to 7
    device: str = "cpu"


QUICK = {
    **{"train.steps": 200, "test_texts": 256, "seeds": (0,)},
    "arms": tuple(arm for arm in ARMS if arm not in NOT_QUICK),
}

COLUMNS = {
    "arm": "which model and task",
    "seed": "of the weights and of the training data",
    "moment": f"{UNTRAINED} or {TRAINED}",
    "error_other": "mean squared error per number at ordinary tokens: neither first nor trigger",
    "error_trigger": "the same at the trigger",
    "worst": "largest error of any number, the first token's aside",
    "hidden_error_other": "error_other where no later token may look at the first",
    "hidden_error_trigger": "error_trigger where no later token may look at the first",
    "hidden_worst": "worst where no later token may look at the first",
    "first_other": "mean weight on the first token at ordinary tokens, of the head where it is largest (and so below)",
    "first_trigger": "mean weight on the first token at the trigger",
    "first_most": "mean weight on the first token at the ordinary tokens of one position, the largest of any head",
    "total_other": "mean of all weights on real keys at ordinary tokens",
    "virtual_other": "mean weight of the virtual key at ordinary tokens; empty where there is none",
    "virtual_trigger": "the same at the trigger",
    "mass": "mean weight on the first token over all queries, texts and heads (probes.sinks)",
    "rate_gu": "share of texts and heads with mass above 0.3",
    "rate_barbero": "share of texts and heads with mass above 0.8",
    "carried": "the first token's share of weight times size of what is written (0 to 1)",
    "value_ratio": "size of what the first token's value writes over the others' mean size",
    "massive": "energy of the first token over that of all others, in the stream behind the last layer",
    "top": "share of the stream's energy in its largest direction (0 to 1)",
    "bound": "lower bound of top from massive and the others' cosines to the first token",
    "slack": "smallest difference of top and bound of any text",
    "gate_other": "mean opening of the gate at ordinary tokens; empty where there is none",
    "gate_trigger": "the same at the trigger",
}


def run(config: Config) -> Result:
    """Train every arm and seed side by side, and measure before and after."""
    if unknown := [name for name in config.arms if name not in ARMS]:
        raise WorkbenchError(f"sink_necessity has no arm {unknown[0]!r}: choose from {', '.join(map(repr, ARMS))}")
    jobs = [(config, name, seed) for name in config.arms for seed in config.seeds]
    done = run_jobs(_train_one, jobs, label="training runs")
    table = pd.DataFrame([row for rows, _, _ in done for row in rows], columns=list(COLUMNS))
    arrays = {}
    for name in config.arms:
        maps = [pattern for (_, pattern, _), (_, of, _) in zip(done, jobs, strict=True) if of == name]
        arrays[f"{name}: pattern (seed, query, key)"] = np.stack(maps)
    backends = sorted({backend for _, _, ran in done for backend in ran})
    return Result(table, arrays, {"device": config.device, "dtype": "float32", "backend": backends})


def _train_one(job: tuple[Config, str, int]):
    """Rows before and after training, the pattern after it, and the attention backends that ran."""
    from analyses.glasses.trigger.measures import measure
    from analyses.glasses.trigger.training import build, fit
    from toy_models.seeding import generator

    config, name, seed = job
    arm = ARMS[name]
    model, task = build(arm, replace(config.model, device=config.device), config.task, seed)
    texts = task.sample(config.test_texts, generator(seed, "test")).to(config.device)
    before, _ = measure(model, texts)
    fit(model, task, replace(config.train, lr=config.train.lr * arm.pace), seed)
    ran = set(model.backends)
    after, pattern = measure(model, texts)
    rows = [
        {"arm": name, "seed": seed, "moment": moment, **row} for moment, row in ((UNTRAINED, before), (TRAINED, after))
    ]
    return rows, pattern.cpu().numpy(), sorted(ran)
