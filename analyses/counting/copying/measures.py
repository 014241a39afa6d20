"""What is measured of a net that copies: answers, margins and distances by length; recall; a text and its doubling."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from jaxtyping import Bool, Float

from analyses.counting.copying.claims import BELOW, OVER
from probes.collapse import distance, identical
from toy_models import Transformer
from toy_models.seeding import generator
from toy_models.tasks import Batch
from toy_models.tasks.copy_end import CopyEnd
from toy_models.tasks.recall import Recall


def in_dtype(model: Transformer, dtype: str) -> Transformer:
    """The model itself in float32, else a copy whose weights and arithmetic have that dtype."""
    return model if dtype == "float32" else deepcopy(model).to(getattr(torch, dtype))


@torch.no_grad()
def answers(
    model: Transformer, batch: Batch
) -> tuple[Float[torch.Tensor, "text d"], Bool[torch.Tensor, " text"], Float[torch.Tensor, " text"]]:
    """At the one scored position: what the unembedding reads, is the answer right, and its margin (nats).

    The margin is the logit of the right token less the best of the others; right means a margin above 0."""
    stream = model(batch.tokens, stop_at_layer=model.cfg.n_layers)[batch.scored]
    x = model.ln_final(stream[:, None])
    logits, target = model.unembed(x)[:, 0].float(), batch.targets[batch.scored][:, None]
    margin = logits.gather(1, target)[:, 0] - logits.scatter(1, target, -torch.inf).amax(-1)
    return x[:, 0], margin > 0, margin


def copied(model: Transformer, task: CopyEnd, lengths: Sequence[int], texts: int, seed: int) -> Iterator[dict]:
    """A row per length: texts whose end is odd, and the same texts with an end that is not."""
    for length in lengths:
        odd, same = (
            answers(model, task.at(length, odd=kind).sample(texts, generator(seed, "test", length)))
            for kind in (True, False)
        )
        yield {
            **{"length": length, "texts": texts},
            **{"accuracy": odd[1].double().mean().item(), "accuracy_same": same[1].double().mean().item()},
            **{"margin": odd[2].mean().item(), "margin_same": same[2].mean().item()},
            "apart": distance(odd[0], same[0], "relative").mean().item(),
            "identical": identical(odd[0], same[0], "bfloat16").mean().item(),
        }


def recalled(model: Transformer, task: Recall, lengths: Sequence[int], texts: int, seed: int) -> Iterator[dict]:
    """A row per length."""
    for length in lengths:
        _, right, margin = answers(model, task.at(length).sample(texts, generator(seed, "test", length)))
        yield {
            **{"length": length, "texts": texts},
            **{"accuracy": right.double().mean().item(), "margin": margin.mean().item()},
        }


@torch.no_grad()
def doubled(model: Transformer, task: CopyEnd, length: int, seed: int) -> Iterator[dict]:
    """A text and the same text twice in a row, with these weights in float64, seen both ways and through the mask.

    `apart` is the largest difference of a logit between a token and the same token in either half, over the largest
    logit."""
    once = task.at(length).sample(1, generator(seed, "doubled")).tokens
    for causal in (False, True):
        shape = replace(model.cfg, causal=causal, dtype=torch.float64, n_ctx=2 * once.shape[1])
        twin = Transformer(shape, seed=None)
        twin.load_state_dict(model.state_dict())
        x, y = twin(once)[0], twin(torch.cat([once, once], 1))[0]
        apart = (torch.cat([x, x]) - y).abs().max() / x.abs().max()
        yield {"test": "causal mask" if causal else "no mask", "length": once.shape[1], "apart": apart.item()}


def updates_until(losses: Sequence[float]) -> float:
    """After how many updates the mean of the last OVER losses is below BELOW nats; all of them where it never is."""
    for done in range(OVER, len(losses) + 1):
        if sum(losses[done - OVER : done]) < OVER * BELOW:
            return float(done)
    return float(len(losses))
