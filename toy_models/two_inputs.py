"""Two small machines in which a context is exactly a change of weights, whatever the query.

    Bilinear    T_W(x, y)_a = sum_bc W_abc (1, x)_b y_c      a context is a new slice W_a0c
    Recurrent   h <- tanh(W h + U e_token)                   a context is a new column of U, the start token's

The first is the two-input linear model, the second Elman's network.  Derived in probes/theory/gradient_steps.md.
"""

from copy import deepcopy

import torch
from jaxtyping import Float, Int
from torch import nn

from toy_models.errors import ConfigError, InputError
from toy_models.seeding import generator

BOS = 0


class Bilinear(nn.Module):
    """`weight` is (out, 1 + d_x, d_y); slice 0 of its middle axis is what stands without a context."""

    def __init__(self, weight: Float[torch.Tensor, "out one_and_d_x d_y"]):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(
        self, y: Float[torch.Tensor, "batch d_y"], x: Float[torch.Tensor, " d_x"] | None = None
    ) -> Float[torch.Tensor, "batch out"]:
        return y @ self.at(x).T

    def at(self, x: Float[torch.Tensor, " d_x"] | None = None) -> Float[torch.Tensor, "out d_y"]:
        """The map of y under a context; without one it is slice 0."""
        return self.weight[:, 0] if x is None else self.weight[:, 0] + torch.einsum("abc,b->ac", self.weight[:, 1:], x)

    @torch.no_grad()
    def curried(self, x: Float[torch.Tensor, " d_x"]) -> "Bilinear":
        """The same class with W' that answers without x as this one does with it."""
        model = deepcopy(self)
        model.weight[:, 0] = self.at(x)
        return model


class Recurrent(nn.Module):
    """Elman's network over tokens, BOS in front of every text; `states` are its entities.

    Args: sizes, and the seed of weights that are normal with standard deviation 1 / sqrt(d_state), float64.

    Raises:
        ConfigError: a size below 1.
    """

    def __init__(self, d_vocab: int = 8, d_state: int = 12, seed: int = 0):
        super().__init__()
        for name, value in (("d_vocab", d_vocab), ("d_state", d_state)):
            if value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")
        for name, width in (("W", d_state), ("U", d_vocab)):
            drawn = torch.randn(d_state, width, generator=generator(seed, "recurrent", name), dtype=torch.float64)
            setattr(self, name, nn.Parameter(drawn / d_state**0.5))

    def forward(self, tokens: Int[torch.Tensor, "batch pos"]) -> Float[torch.Tensor, "batch pos d_state"]:
        """The state after every token of [BOS, tokens], BOS's own left out."""
        return self.states(tokens)[:, 1:]

    def states(self, tokens: Int[torch.Tensor, "batch pos"]) -> Float[torch.Tensor, "batch longer d_state"]:
        """The state after BOS and after every token.

        Raises:
            InputError: ids out of range, BOS among them.
        """
        if tokens.numel() and (int(tokens.min()) <= BOS or int(tokens.max()) >= self.U.shape[1]):
            raise InputError(f"token ids must lie in [1, {self.U.shape[1]}): BOS={BOS} is put in front here")
        text = torch.nn.functional.pad(tokens, (1, 0), value=BOS)
        state, found = self.W.new_zeros(len(tokens), self.W.shape[0]), []
        for token in text.T:
            state = torch.tanh(state @ self.W.T + self.U.T[token])
            found.append(state)
        return torch.stack(found, dim=1)

    @torch.no_grad()
    def curried(self, context: Int[torch.Tensor, " pos"]) -> "Recurrent":
        """The same class with U' = U + shift e_BOS^T, whose state after BOS is this one's after BOS and the context.

        The first state is zero, so that BOS's column alone decides the next: it becomes artanh of the state wanted.
        """
        model = deepcopy(self)
        model.U[:, BOS] = torch.atanh(self.states(context[None])[0, -1])
        return model
