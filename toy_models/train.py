"""One training loop: AdamW, linear warm-up and decay, data drawn from the step's own stream."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import nn

from toy_models.errors import ConfigError, TrainingError
from toy_models.progress import progress
from toy_models.seeding import generator
from toy_models.tasks import Batch


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Args: steps: updates;  batch_size: sequences a step;  lr: peak learning rate;  warmup: steps of linear rise;
    decay: share of the run, at its end, over which the rate falls linearly to zero;  clip: largest gradient norm;
    checkpoint_every: steps between checkpoints, 0 for the first and last only."""

    steps: int = 600
    batch_size: int = 32
    lr: float = 1e-2
    warmup: int = 50
    decay: float = 0.2
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    checkpoint_every: int = 0

    def __post_init__(self):
        for name in ("steps", "batch_size", "warmup", "checkpoint_every"):
            value, least = getattr(self, name), int(name in ("steps", "batch_size"))
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name}={value!r} must be a whole number of at least {least}")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name}={getattr(self, name)} must be positive and finite")
        shares = {"decay": self.decay, "betas[0]": self.betas[0], "betas[1]": self.betas[1]}
        for name, value in shares.items():
            if not 0 <= value <= 1 or (value == 1 and name != "decay"):
                raise ConfigError(f"{name}={value} must lie in [0, 1{']' if name == 'decay' else ')'}")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay={self.weight_decay} must be finite and not negative")

    def rate(self, step: int) -> float:
        """Learning rate of update `step` (counted from 0)."""
        rise = (step + 1) / (self.warmup + 1)
        fall = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.lr * min(1.0, rise, fall)


def optimiser(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices alone, not on gains and biases."""
    params = list(model.named_parameters())
    matrices = [p for name, p in params if name.rsplit(".", 1)[-1].startswith("W_")]
    others = [p for name, p in params if not name.rsplit(".", 1)[-1].startswith("W_")]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def task_loss(logits: Float[torch.Tensor, "batch pos d_vocab"], batch: Batch) -> Float[torch.Tensor, ""]:
    """Mean cross entropy over the scored positions, in nats."""
    return F.cross_entropy(logits[batch.scored].float(), batch.targets[batch.scored])


def answers_loss(model: nn.Module, batch: Batch) -> Float[torch.Tensor, ""]:
    """`task_loss` of what the model says to the batch's tokens."""
    return task_loss(model(batch.tokens), batch)


def train(
    model: nn.Module,
    task: Any,
    config: TrainConfig,
    *,
    loss: Callable[[nn.Module, Any], torch.Tensor] = answers_loss,
    seed: int = 0,
    start: int = 0,
    optimizer: torch.optim.Optimizer | None = None,
    show_progress: bool | None = None,
) -> Iterator[tuple[int, float]]:
    """Train in place; yield (updates done, loss of the last one), after each update.

    The batch of update s depends on (seed, s) alone, so a run that starts again at `start` with the
    optimizer of that moment goes on bit for bit.

    Args:
        model: has `cfg.device`.
        task: `sample(n, generator)` gives what `loss` reads, with a `to(device)`; a Task, or vectors in place of ids.
        loss: of the model on one batch; a scalar.

    Raises:
        TrainingError: the loss or its gradient is not finite; the weights are those before the bad update.
    """
    optimizer = optimizer or optimiser(model, config)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    bar = progress(range(start, config.steps), f"train seed {seed}", show_progress, initial=start, total=config.steps)
    for step in bar:
        batch = task.sample(config.batch_size, generator(seed, "data", step)).to(model.cfg.device)
        optimizer.zero_grad(set_to_none=True)
        found = loss(model, batch)
        value = found.item()
        found.backward()
        norm = torch.nn.utils.clip_grad_norm_(params, config.clip).item()
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise TrainingError(
                f"the loss is {value:.3g} and its gradient's norm {norm:.3g} at step {step} (seed {seed}, "
                f"lr {config.rate(step):.3g}): lower lr={config.lr:g}, or lengthen warmup={config.warmup}"
            )
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step)
        optimizer.step()
        bar.set_postfix(loss=f"{value:.3f}", refresh=False)
        yield step + 1, value
