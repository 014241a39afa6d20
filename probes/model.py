"""What a probe needs of a model: TransformerLens hooks, and a count of layers."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int

from probes import names
from probes.errors import ProbeInputError


@runtime_checkable
class HookedModel(Protocol):
    """Our Transformer, a TransformerBridge, or any HookedRootModule with a `cfg.n_layers`."""

    cfg: Any

    def run_with_cache(self, *args: Any, **kwargs: Any) -> Any: ...


def require_hooks(model: HookedModel, wanted: Sequence[str]) -> None:
    """Refuse a model that lacks one of these hook points.

    Raises:
        ProbeInputError: with the first name that is missing, and the nearest ones that are there.
    """
    there = list(getattr(model, "hook_dict", {}))
    for name in wanted:
        if name not in there:
            raise ProbeInputError(f"the model has no hook {name}: the nearest are {nearest(name, there)}")


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Of the known names up to three that are like this one, best first, for an error to offer; or "none".

    Args:
        cutoff: how like they must be, from 0 (all are) to 1 (the same); difflib's ratio.
    """
    return ", ".join(get_close_matches(name, known, n=3, cutoff=cutoff)) or "none"


@torch.no_grad()
def cached(
    model: HookedModel, tokens: Int[torch.Tensor, "batch pos"], wanted: Sequence[str], optional: Sequence[str] = ()
) -> tuple[Any, Any]:
    """The model's output and the activations at the hooks `wanted`, by name, from one forward pass.

    Those of `optional` are there as well if the model has them and they fire.

    Raises:
        ProbeInputError: the model has no hook of that name, it did not fire, or the tokens are of another vocabulary.
    """
    check_vocabulary(model, tokens)
    require_hooks(model, wanted)
    also = [name for name in optional if name in model.hook_dict]
    out, cache = model.run_with_cache(tokens, names_filter=[*wanted, *also])
    silent = [name for name in wanted if name not in cache]
    if silent:
        raise ProbeInputError(f"the hook {silent[0]} did not fire in the forward pass: the probe needs it to")
    return out, cache


def patterns(model: HookedModel, tokens: Int[torch.Tensor, "batch pos"]) -> list[Float[torch.Tensor, "..."]]:
    """The attention pattern of every layer, each (batch, head, query, key), from one forward pass.

    Raises:
        ProbeInputError: the model has no hook of that name, or it did not fire.
    """
    wanted = [names.pattern(layer) for layer in range(model.cfg.n_layers)]
    _, cache = cached(model, tokens, wanted)
    return [cache[name] for name in wanted]


def token_losses(
    logits: Float[torch.Tensor, "batch pos d_vocab"], tokens: Int[torch.Tensor, "batch pos"]
) -> Float[torch.Tensor, "batch prediction"]:
    """Cross entropy in nats of each prediction: entry i, made at position i, is of token i + 1.

    In float32 or better; one column fewer than there are tokens, since what follows the last is not known.

    Raises:
        ProbeInputError: a text of one token, or a token that the logits have no column for.
    """
    if tokens.shape[1] < 2:
        raise ProbeInputError(f"a text of {tokens.shape[1]} token has no next one: give at least 2")
    return target_losses(logits[:, :-1], tokens[:, 1:])


def target_losses(
    logits: Float[torch.Tensor, "batch pos d_vocab"], targets: Int[torch.Tensor, "batch pos"]
) -> Float[torch.Tensor, "batch pos"]:
    """Cross entropy in nats of each target under the logits at its own position, in float32 or better.

    Raises:
        ProbeInputError: a target that the logits have no column for.
    """
    check_tokens(targets, logits.shape[-1])
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return -wide.log_softmax(-1).gather(-1, targets.long().to(logits.device)[..., None])[..., 0]


def check_tokens(tokens: Int[torch.Tensor, "..."], d_vocab: int) -> None:
    """Refuse token ids that a vocabulary of this size does not hold.

    Raises:
        ProbeInputError: with the first such id and the range.
    """
    outside = tokens[(tokens < 0) | (tokens >= d_vocab)]
    if outside.numel():
        raise ProbeInputError(f"token {outside[0].item()} must lie in [0, {d_vocab}), the vocabulary")


def check_vocabulary(model: HookedModel, tokens: Int[torch.Tensor, "batch pos"]) -> None:
    """Refuse a text that holds tokens which the model does not know, where its `cfg.d_vocab` tells.

    Raises:
        ProbeInputError: with the first such id and the range.
    """
    d_vocab = getattr(model.cfg, "d_vocab", None)
    if d_vocab is not None and d_vocab > 0:  # TransformerLens writes -1 where it has not been told
        check_tokens(tokens, d_vocab)


def check_heads(model: HookedModel, heads: Sequence[tuple[int, int]]) -> None:
    """Refuse (layer, head) pairs that the model does not have.

    Raises:
        ProbeInputError: no head at all, or the first that is out of range, with the range.
    """
    if not heads:
        raise ProbeInputError("heads is empty: name at least one (layer, head)")
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    for layer, head in heads:
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise ProbeInputError(
                f"(layer, head) = ({layer}, {head}) is not in the model: "
                f"layer must lie in [0, {n_layers}), head in [0, {n_heads})"
            )
