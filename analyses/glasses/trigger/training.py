"""From an arm to its model and task, and the training."""

from dataclasses import replace

import torch

from analyses.core.errors import WorkbenchError
from analyses.glasses.trigger.arms import Arm
from toy_models import Transformer
from toy_models.config import TransformerConfig
from toy_models.tasks.trigger import Trigger, Triggered
from toy_models.train import TrainConfig, train


def build(arm: Arm, model: TransformerConfig, task: Trigger, seed: int) -> tuple[Transformer, Trigger]:
    """The untrained model of an arm, and its task.

    Raises:
        WorkbenchError: the model's width is not the tokens'.
    """
    if model.d_model != task.d_model or model.n_ctx < task.n_ctx:
        raise WorkbenchError(
            f"tokens have {task.d_model} numbers and texts {task.n_ctx} tokens: model.d_model={model.d_model} must be "
            f"that, model.n_ctx={model.n_ctx} at least that"
        )
    options = {"normaliser": arm.normaliser, "gated_attention": arm.gated, "n_layers": arm.layers}
    config = replace(model, **options, n_heads=arm.heads, n_key_value_heads=arm.heads)
    return Transformer(config, seed=seed), replace(task, first=arm.first, always=arm.always)


def fit(model: Transformer, task: Trigger, settings: TrainConfig, seed: int) -> None:
    """Train in place on mean squared error; biases of queries, keys, values and outputs stay 0, as in the source.

    Raises:
        TrainingError: the loss stopped being finite.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.rsplit(".", 1)[-1] not in ("b_Q", "b_K", "b_V", "b_O"))
    for _ in train(model, task, settings, loss=_squared, seed=seed, show_progress=False):
        pass


def _squared(model: Transformer, batch: Triggered) -> torch.Tensor:
    return (written(model, batch) - batch.targets).square().mean()


def written(model: Transformer, batch: Triggered) -> torch.Tensor:
    """What the layers add to the stream, (batch, pos, d_model)."""
    return model(residual=batch.tokens, stop_at_layer=model.cfg.n_layers) - batch.tokens
