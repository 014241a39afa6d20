"""The trigger task: at a trigger write the mean of the tokens so far, anywhere else write nothing.

Every token is a vector of d_content + 3 numbers:

    first token          1 0 | 0 ... 0     | 0
    another one          0 0 | U(-1, 1)    | 1
    the trigger          0 1 | U(-1, 1)    | 0

Tokens go into `Transformer(residual=...)`; what the layers add to the stream should be, at the trigger, the mean of all
tokens up to itself but the first, and 0 at every other position.  One trigger a text, anywhere from position 2 on.
Two controls: `first=False` puts an ordinary token in front, and the mean is over it as well; `always=True` asks
for the mean at every position, so that there is never nothing to do.

A batch has the fields of every task's, but numbers stand where ids do, and there is no vocabulary: the list of
tasks, which promises one, leaves it out.

Source: Ran-Milo 2026, arXiv:2603.11487, and its code, from which the widths and the place of the trigger are.  Both
controls are this project's.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float

from toy_models.errors import ConfigError


@dataclass(frozen=True)
class Triggered:
    """What a model reads, what it should write, where the trigger stands, and where the answer counts: everywhere."""

    tokens: Float[torch.Tensor, "batch pos d_model"]
    targets: Float[torch.Tensor, "batch pos d_model"]
    is_trigger: Bool[torch.Tensor, "batch pos"]

    @property
    def scored(self) -> Bool[torch.Tensor, "batch pos"]:
        return torch.ones_like(self.is_trigger)

    def to(self, device) -> "Triggered":
        """The same batch on another device."""
        return Triggered(self.tokens.to(device), self.targets.to(device), self.is_trigger.to(device))


@dataclass(frozen=True)
class Trigger:
    """Args: d_content: random numbers in a token;  n_ctx: tokens;  first: whether the first token is a fixed one;
    always: whether the mean is asked for everywhere."""

    d_content: int = 13
    n_ctx: int = 16
    first: bool = True
    always: bool = False

    def __post_init__(self):
        for name, least in (("d_content", 1), ("n_ctx", 3)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name}={value!r} must be a whole number of at least {least}")

    @property
    def d_model(self) -> int:
        """Numbers in a token: first, trigger, content, neither."""
        return self.d_content + 3

    def sample(self, n: int, generator: torch.Generator) -> Triggered:
        """n texts."""
        tokens = torch.zeros(n, self.n_ctx, self.d_model)
        tokens[..., 2:-1] = 2 * torch.rand(n, self.n_ctx, self.d_content, generator=generator) - 1
        tokens[..., -1] = 1.0
        at = torch.randint(2, self.n_ctx, (n, 1), generator=generator)
        is_trigger = torch.arange(self.n_ctx) == at
        tokens[..., 1] = is_trigger.float()
        tokens[..., -1] -= is_trigger.float()
        counted = torch.ones(self.n_ctx)
        if self.first:
            counted[0] = 0.0
            tokens[:, 0] = torch.eye(self.d_model)[0]
        means = (tokens * counted[:, None]).cumsum(1) / counted.cumsum(0).clamp(min=1)[:, None]
        return Triggered(tokens, means if self.always else means * is_trigger[..., None], is_trigger)
