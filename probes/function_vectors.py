"""Function-vector score: how much of a task does one head carry to the end of the prompt?

A function is shown by examples, x f(x) x f(x) ... x, and f of the last x is asked.  With zbar the mean over proper
prompts of f of what a head reads at the last position (z, before W_O), and P the probability of the right answer
on a prompt whose examples have exchanged their answers,

    effect = P(answer | z at the last position := zbar) - P(answer)       -1 to 1
    log_effect = the same of ln P                                         nats

each the mean over the shuffled prompts, one head at a time, for every function; positive where the head brings the
task along.  The score of a head is the mean of its effect over functions.  A head that says the same on every text
scores 0; so does one of many that do the same work, where one alone does not turn the answer.

Source: Todd et al. 2023, arXiv:2310.15213, section 2.3: average indirect effect of a head's mean output.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes import names
from probes.errors import ProbeInputError
from probes.model import HookedModel, cached, check_vocabulary, target_losses


@dataclass(frozen=True)
class FunctionVectors:
    """Gain of every head, for each function, and the probability of the answer before: its mean, 0 to 1."""

    effect: Float[Tensor, "function layer head"]
    log_effect: Float[Tensor, "function layer head"] = field(metadata={"unit": "nats"})
    before: Float[Tensor, " function"]

    @property
    def score(self) -> Float[Tensor, "layer head"]:
        """Mean of `effect` over the functions."""
        return self.effect.mean(0)


@torch.no_grad()
def function_vectors(
    model: HookedModel,
    prompts: Int[Tensor, "function prompt pos"],
    shuffled: Int[Tensor, "function text length"],
    answers: Int[Tensor, "function text"],
) -> FunctionVectors:
    """Score every head, in one forward pass on the prompts and one per head on the shuffled ones.

    Args:
        prompts: proper ones of each function, that end where the answer is due; the means are theirs.
        shuffled: prompts that do not show the function, and end in the same way.
        answers: the right answer to each of them, a token.

    Raises:
        ProbeInputError: functions or texts that are not as many, none at all, tokens outside the vocabulary, or a
            model without the hooks.
    """
    _check(prompts, shuffled, answers)
    n, texts = shuffled.shape[:2]
    layers = range(model.cfg.n_layers)
    _, cache = cached(model, prompts.flatten(0, 1), [names.z(layer) for layer in layers])
    check_vocabulary(model, shuffled.flatten(0, 1))

    def log_probability() -> Float[Tensor, "function text"]:
        return -target_losses(model(shuffled.flatten(0, 1))[:, -1:], answers.reshape(-1, 1)).reshape(n, texts)

    before = log_probability()
    effects, log_effects = [], []
    for layer in layers:
        last = cache[names.z(layer)][:, -1]
        wide = last.to(torch.promote_types(last.dtype, torch.float32))
        mean = wide.unflatten(0, (n, -1)).mean(1).repeat_interleave(texts, 0)  # (function and text, head, d_head)
        for head in range(mean.shape[1]):
            with model.hooks(fwd_hooks=[(names.z(layer), _saying(mean[:, head], head))]):
                after = log_probability()
            effects.append((after.exp() - before.exp()).mean(-1))
            log_effects.append((after - before).mean(-1))
    shape = (n, len(layers), -1)
    return FunctionVectors(
        effect=torch.stack(effects, -1).reshape(shape),
        log_effect=torch.stack(log_effects, -1).reshape(shape),
        before=before.exp().mean(-1),
    )


def _saying(mean: Float[Tensor, "text d_head"], head: int) -> Callable[..., Tensor]:
    """An edit of z, (text, pos, head, d_head), that puts one row of `mean` at the end of each text."""

    def edit(z: Tensor, hook: Any) -> Tensor:
        new = z.clone()
        new[:, -1, head] = mean.to(z)
        return new

    return edit


def _check(prompts: Tensor, shuffled: Tensor, answers: Tensor) -> None:
    for name, tensor, axes in (("prompts", prompts, 3), ("shuffled", shuffled, 3), ("answers", answers, 2)):
        if tensor.ndim != axes or not tensor.numel():
            shape = "(function, text, pos)" if axes == 3 else "(function, text)"
            raise ProbeInputError(f"{name} has shape {tuple(tensor.shape)}: give {shape}, none of them 0")
    if len(prompts) != len(shuffled) or answers.shape != shuffled.shape[:2]:
        raise ProbeInputError(
            f"prompts {tuple(prompts.shape)}, shuffled {tuple(shuffled.shape)} and answers {tuple(answers.shape)} must "
            f"be of as many functions, with an answer to each shuffled text"
        )
