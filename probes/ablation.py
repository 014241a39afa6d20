"""Ablation: what does the model lose without these heads?

The output z of every named head is replaced in one forward pass, all heads of a group at once, and the losses are
taken before and after (nats per prediction; a positive change is what the heads were worth).  What replaces z:

    Zero               0
    Mean               the head's mean z over a reference batch, at each position or over all of them
    Resample           the head's z on another text, the same text for the whole group
    PatternPreserving  0, while every later head attends as it did before the ablation

Zero takes a bias along with the message and leads off the distribution; Mean keeps what does not depend on the text;
Resample stays on the distribution.  PatternPreserving keeps what the heads told later *queries and keys*, so the gap
to Zero is what went through later patterns.  theory/ablation.md has the cases where each is exact.

Source: Olsson et al. 2022, arXiv:2209.11895 (full and pattern-preserving ablation); Wang et al. 2022,
arXiv:2211.00593 (mean ablation); Chan et al. 2022, "Causal scrubbing" (resampling).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes import names
from probes.errors import ProbeInputError
from probes.model import HookedModel, cached, check_heads, check_vocabulary, require_hooks, target_losses, token_losses

Edit = tuple[str, Callable[..., Tensor]]  # a hook's name, and what its tensor becomes
ByLayer = dict[int, list[int]]


@dataclass(frozen=True)
class Ablation:
    """Cross entropy of every prediction, in nats, before and after."""

    before: Float[Tensor, "batch position"] = field(metadata={"unit": "nats"})
    after: Float[Tensor, "batch position"] = field(metadata={"unit": "nats"})

    @property
    def change(self) -> Float[Tensor, "batch position"]:
        """`after - before`, in nats: positive where the heads helped."""
        return self.after - self.before


@runtime_checkable
class Replacement(Protocol):
    """What an ablated head says instead."""

    def edits(self, model: HookedModel, heads: ByLayer) -> list[Edit]: ...


def ablate(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    heads: Sequence[tuple[int, int]],
    how: Replacement,
    targets: Int[Tensor, "batch position"] | None = None,
) -> Ablation:
    """Losses of the model with and without a group of heads.

    Args:
        heads: (layer, head) pairs, replaced together.
        how: Zero(), Mean(...), Resample(...) or PatternPreserving(...).
        targets: the right answer at every position; by default the next token, and none at the last position.

    Raises:
        ProbeInputError: a head that is not there, a reference that does not fit the texts, tokens or targets outside
            the vocabulary, targets of another shape, or a model without the hooks.
    """
    check_vocabulary(model, tokens)
    if targets is not None and targets.shape != tokens.shape:
        raise ProbeInputError(
            f"targets have shape {tuple(targets.shape)}: one per token is needed, {tuple(tokens.shape)}"
        )

    def losses() -> Float[Tensor, "batch position"]:
        logits = model(tokens)
        return token_losses(logits, tokens) if targets is None else target_losses(logits, targets)

    with torch.no_grad(), ablated(model, heads, how):
        after = losses()
    with torch.no_grad():
        return Ablation(before=losses(), after=after)


@contextmanager
def ablated(model: Any, heads: Sequence[tuple[int, int]], how: Replacement) -> Iterator[Any]:
    """The model without these heads, inside the `with` block: for its logits, its cache, or any other probe.

    References are read when the block is entered.  The hooks are gone when it is left, also by an exception.

    Raises:
        ProbeInputError: a head that is not there, or a model without the hooks; in a forward pass inside the block,
            a text that the reference does not fit.
    """
    check_heads(model, heads)
    by_layer: ByLayer = {}
    for layer, head in sorted(set(heads)):
        by_layer.setdefault(layer, []).append(head)
    require_hooks(model, [names.z(layer) for layer in by_layer])
    with model.hooks(fwd_hooks=how.edits(model, by_layer)):
        yield model


@dataclass(frozen=True)
class Zero:
    """The heads write nothing."""

    def edits(self, model: HookedModel, heads: ByLayer) -> list[Edit]:
        """One edit per layer."""
        return [(names.z(layer), _replacing(which, torch.zeros_like)) for layer, which in heads.items()]


@dataclass(frozen=True)
class Mean:
    """The heads write their mean over `reference`, (batch, pos) tokens: over texts and positions alike or, with
    `per_position`, over texts at each position, for which the texts must be as long as the reference.

    The first position of a text often is unlike all others; a mean over positions mixes it in.
    """

    reference: Int[Tensor, "batch pos"]
    per_position: bool = False

    def edits(self, model: HookedModel, heads: ByLayer) -> list[Edit]:
        """One edit per layer, from one forward pass on the reference."""
        return [
            (names.z(layer), _replacing(heads[layer], self._mean(z[:, :, heads[layer]])))
            for layer, z in _recorded(model, self.reference, heads).items()
        ]

    def _mean(self, z: Tensor) -> Callable[[Tensor], Tensor]:
        wide = z.to(torch.promote_types(z.dtype, torch.float32))
        mean = wide.mean(0 if self.per_position else (0, 1))

        def value(now: Tensor) -> Tensor:
            if self.per_position and now.shape[1] != len(mean):
                raise ProbeInputError(
                    f"the reference has {len(mean)} positions, the text {now.shape[1]}: "
                    f"a mean per position needs as many"
                )
            return mean.to(now).expand_as(now)

        return value


@dataclass(frozen=True)
class Resample:
    """Text i gets what the heads wrote on text `order[i]` of `reference`, position by position.

    `Resample.drawn(reference, generator)` draws the order; `order` of 0, 1, 2, ... on the same texts changes nothing.
    """

    reference: Int[Tensor, "batch pos"]
    order: Int[Tensor, " text"]

    def __post_init__(self):
        n = len(self.reference)
        outside = self.order[(self.order < 0) | (self.order >= n)]
        if outside.numel():
            raise ProbeInputError(f"order names text {outside[0].item()}: it must lie in [0, {n}), the reference")

    @classmethod
    def drawn(cls, reference: Int[Tensor, "batch pos"], generator: torch.Generator) -> "Resample":
        """A random permutation: every text of the reference is used once, perhaps by itself."""
        return cls(reference, torch.randperm(len(reference), generator=generator))

    def edits(self, model: HookedModel, heads: ByLayer) -> list[Edit]:
        """One edit per layer, from one forward pass on the reference."""
        return [
            (names.z(layer), _replacing(heads[layer], self._other(z[:, :, heads[layer]])))
            for layer, z in _recorded(model, self.reference, heads).items()
        ]

    def _other(self, z: Tensor) -> Callable[[Tensor], Tensor]:
        other = z[self.order.to(z.device)]

        def value(now: Tensor) -> Tensor:
            if now.shape != other.shape:
                raise ProbeInputError(
                    f"order and reference give {len(other)} texts of {other.shape[1]} tokens, the model runs on "
                    f"{len(now)} of {now.shape[1]}: give as many, as long"
                )
            return other

        return value


@dataclass(frozen=True)
class PatternPreserving:
    """The heads write nothing, and the patterns of all later layers stay those of `tokens`, the texts themselves.

    Patterns up to the first ablated layer cannot change and are left alone.
    """

    tokens: Int[Tensor, "batch pos"]

    def edits(self, model: HookedModel, heads: ByLayer) -> list[Edit]:
        """Zeros, and one forced pattern per later layer, from one forward pass."""
        silent = Zero().edits(model, heads)
        later = [names.pattern(layer) for layer in range(min(heads) + 1, model.cfg.n_layers)]
        if not later:
            return silent
        _, cache = cached(model, self.tokens, later)
        return silent + [(name, self._forced(cache[name])) for name in later]

    def _forced(self, pattern: Tensor) -> Callable[..., Tensor]:
        def edit(now: Tensor, hook: Any) -> Tensor:
            if now.shape != pattern.shape:
                raise ProbeInputError(
                    f"patterns of {len(pattern)} texts of {pattern.shape[-1]} tokens cannot be forced on {len(now)} "
                    f"of {now.shape[-1]}: record them on the texts themselves"
                )
            return pattern

        return edit


def _recorded(model: HookedModel, reference: Tensor, heads: ByLayer) -> dict[int, Tensor]:
    """z of each layer with a head to replace, on the reference."""
    _, cache = cached(model, reference, [names.z(layer) for layer in heads])
    return {layer: cache[names.z(layer)] for layer in heads}


def _replacing(heads: list[int], value: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """An edit of z, (batch, pos, head, d_head), that puts `value` of the named heads' z in its place."""

    def edit(z: Tensor, hook: Any) -> Tensor:
        new = z.clone()
        new[:, :, heads] = value(z[:, :, heads])
        return new

    return edit
