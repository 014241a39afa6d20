"""What a model of `WhoDidWhat` answers, with and without noise, and what its last layer looks at."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int

from probes import names
from toy_models.seeding import generator
from toy_models.tasks import Batch
from toy_models.tasks.who_did_what import WHO, WHOM, WhoDidWhat


def measure(model, task: WhoDidWhat, batch: Batch) -> dict[str, float]:
    """Loss (nats) and accuracy of the answers, the share of those that exchange the two roles (nan where one is asked),
    and the last layer's weights, means over its heads."""
    with torch.no_grad():
        logits = model(batch.tokens)[:, -1]
    answers, said = batch.targets[:, -1], logits.argmax(-1)
    looked = weights(model, batch).mean(0)
    both = len(task.asked) == 2
    return {
        "loss": torch.nn.functional.cross_entropy(logits, answers).item(),
        "accuracy": (said == answers).double().mean().item(),
        "swapped": (said == mirrored(task, answers)).double().mean().item() if both else float("nan"),
        "larger_share": (looked.amax(-1) / looked.sum(-1)).mean().item(),
        "named_weight": looked.sum(-1).mean().item(),
    }


def weights(model, batch: Batch) -> Float[torch.Tensor, "sentence head role"]:
    """The question's weights on the fillers of WHO and WHOM, in the last layer."""
    name = names.pattern(model.cfg.n_layers - 1)
    with torch.no_grad():
        _, cache = model.run_with_cache(batch.tokens, names_filter=[name])
    at = places(batch.tokens)[:, None].expand(-1, model.cfg.n_heads, -1)
    return cache[name][:, :, -1].gather(-1, at)


def places(tokens: Int[torch.Tensor, "sentence pos"]) -> Int[torch.Tensor, "sentence role"]:
    """Where the fillers of WHO and WHOM stand, each behind its marker."""
    return torch.stack([(tokens == marker).int().argmax(-1) + 1 for marker in (WHO, WHOM)], -1)


def mirrored(task: WhoDidWhat, answers: Int[torch.Tensor, " sentence"]) -> Int[torch.Tensor, " sentence"]:
    """The answers with the two roles exchanged."""
    return task.answer(task.named(answers).flip(-1))


def under_noise(
    model, task: WhoDidWhat, batch: Batch, noises: Sequence[float], width: int, seed: int
) -> Iterator[dict[str, float]]:
    """A row per noise: normal, on what all heads of the last layer hand to W_O at the question.

    The energy of the clean signal is that of its deviations from the mean sentence; noise 1 has as much in `width`
    coordinates, and the same in each.
    """
    name = names.z(model.cfg.n_layers - 1)
    with torch.no_grad():
        _, cache = model.run_with_cache(batch.tokens, names_filter=[name])
    signal = cache[name][:, -1]
    energy = (signal - signal.mean(0)).square().sum((-1, -2)).mean() / width
    for noise in noises:
        drawn = torch.randn(signal.shape, generator=generator(seed, "noise", str(noise)), dtype=signal.dtype)
        added = noise * energy.sqrt() * drawn.to(signal.device)

        def edit(z, hook, added=added):
            return torch.cat([z[:, :-1], z[:, -1:] + added[:, None]], 1)

        with model.hooks(fwd_hooks=[(name, edit)]):
            yield {"noise": noise} | measure(model, task, batch)
