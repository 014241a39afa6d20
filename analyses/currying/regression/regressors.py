"""Models that answer a linear regression in context: trained, untrained, set by hand, and how each compares with one
gradient step of the best rate on the same held-out tasks."""

from dataclasses import replace

import numpy as np
import torch

from probes.gradient_steps import agreement, best_step
from toy_models.config import TransformerConfig
from toy_models.seeding import generator
from toy_models.tasks.linear_regression import LinearRegression, Regressions

BY_HAND, LINEAR, TWO, ONE, SHUFFLED, UNTRAINED = (
    "gradient step set by hand",
    "linear attention",
    "softmax, 2 heads",
    "softmax, 1 head",
    "linear, shuffled labels",
    "linear, untrained",
)
CONDITIONS = (BY_HAND, LINEAR, TWO, ONE, SHUFFLED, UNTRAINED)
TRAINED = (LINEAR, TWO, ONE, SHUFFLED)
RATIO, NOTHING = "loss over that of the gradient step", "loss over that of no answer"
COSINE = "cosine of the sensitivities"
ANSWERS, DISTANCE = "difference of the answers", "distance of the sensitivities"
SCALED = "scaled inputs: largest |loss ratio - 1|"
UNITS = {RATIO: "1", NOTHING: "1", COSINE: "1", ANSWERS: "r.m.s. answer", DISTANCE: "norm of the step's", SCALED: "1"}
ALIKE = {RATIO: 1.0, COSINE: 1.0, ANSWERS: 0.0, DISTANCE: 0.0, SCALED: 0.0}  # of a model that is the step


def measure(config, condition: str, seed: int) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """One model: its comparisons, its loss after each of `marks(config)`, and at each scale."""
    test = config.task.sample(config.tasks, generator(seed, "held-out tasks")).to(config.device)
    model, curve = _model(config, condition, seed), []
    if condition in TRAINED:
        curve = _train(config, model, condition == SHUFFLED, seed, test)
    else:
        curve = [_loss(config.task, model, test)] * len(marks(config))
    scaled = [replace(test, tokens=a * test.tokens, targets=a * test.targets) for a in config.scales]
    losses = np.array([_loss(config.task, model, one) for one in scaled])
    compared = _compare(config.task, model, test)
    steps = np.array([config.task.loss(_step(config.task, one), one.answer).item() for one in scaled])
    return compared | {SCALED: float(np.abs(losses / steps - 1).max())}, np.array(curve), losses


def marks(config) -> list[int]:
    """The updates after which the loss is measured."""
    return [*range(0, config.train.steps, config.eval_every), config.train.steps]


def _model(config, condition: str, seed: int):
    from toy_models import Transformer
    from toy_models.linear_machines import gradient_descent

    task = config.task
    if condition == BY_HAND:
        rate = _best_rate(task)
        return gradient_descent(task.d_in, task.d_out, task.n_examples, [rate]).float().to(config.device)
    options = TransformerConfig(
        n_layers=1,
        n_heads=2 if condition == TWO else 1,
        d_model=task.d_model,
        d_head=task.d_model,
        d_vocab=1,
        n_ctx=task.n_ctx,
        d_mlp=0,
        normalization_type=None,
        position="none",
        normaliser="softmax" if condition in (ONE, TWO) else "linear",
        attn_scale=1.0,
        causal=False,
        device=config.device,
    )
    return Transformer(options, seed=seed)


def answers(model, batch: Regressions) -> torch.Tensor:
    """(batch, d_out): minus what the layer leaves in the query's y; nobody reads the query."""
    left = model(residual=batch.tokens, attention_mask=batch.examples, stop_at_layer=1)
    return -left[:, -1, batch.d_in :]


@torch.no_grad()
def _loss(task: LinearRegression, model, batch: Regressions) -> float:
    return task.loss(answers(model, batch), batch.answer).item()


def _best_rate(task: LinearRegression) -> float:
    return best_step(task.d_in, task.n_examples, task.moment(2), task.moment(4), task.noise).rate


def _step(task: LinearRegression, batch: Regressions) -> torch.Tensor:
    """The answers of one gradient step from 0 at the best rate: linear in the query."""
    return (_step_weight(task, batch) @ batch.query[..., None])[..., 0]


def _step_weight(task: LinearRegression, batch: Regressions) -> torch.Tensor:
    return _best_rate(task) / task.n_examples * batch.y.mT @ batch.x


def _compare(task: LinearRegression, model, batch: Regressions) -> dict[str, float]:
    """By the first output; a sensitivity is the gradient of the answer with respect to the query's x."""
    tokens = batch.tokens.clone().requires_grad_()
    said = answers(model, replace(batch, tokens=tokens))
    heard = torch.autograd.grad(said[:, 0].sum(), tokens)[0][:, -1, : task.d_in]
    step, weight = _step(task, batch), _step_weight(task, batch)[:, 0]
    found = agreement(said[:, 0].detach(), step[:, 0], heard, weight)
    loss, best, none = (task.loss(one, batch.answer).item() for one in (said.detach(), step, torch.zeros_like(step)))
    return {
        RATIO: loss / best,
        NOTHING: loss / none,
        COSINE: found.cosine,
        ANSWERS: found.prediction_difference / step[:, 0].square().mean().sqrt().item(),
        DISTANCE: found.sensitivity_difference / weight.norm(dim=-1).mean().item(),
    }


def _train(config, model, shuffled: bool, seed: int, test: Regressions) -> list[float]:
    """Train in place on new tasks at every update; the loss on `test` after each of `marks`."""
    from toy_models.train import train

    for name, parameter in model.named_parameters():  # as in the source, nothing but the four matrices learns
        parameter.requires_grad_(".attn.W_" in name)

    def loss(model, batch: Regressions) -> torch.Tensor:
        return config.task.loss(answers(model, batch.relabelled() if shuffled else batch), batch.answer)

    losses = [_loss(config.task, model, test)]
    for step, _ in train(model, config.task, config.train, loss=loss, seed=seed, show_progress=False):
        if step in marks(config):
            losses.append(_loss(config.task, model, test))
    return losses
