"""Layers of cells: the loop over positions of an LSTM and of an RNN, with a hook on every gate.

`toy_models.recurrent` says what they compute and what an edit at each hook does.
"""

import torch
from jaxtyping import Float
from torch import nn
from transformer_lens.hook_points import HookPoint

from toy_models.errors import InputError


class Layer(nn.Module):
    """What both kinds share: weights by gate, and the points that fire at every step."""

    gates: tuple[str, ...]  # the order of the weights

    def __init__(self, d_in: int, d_hidden: int, dtype: torch.dtype):
        super().__init__()
        n = len(self.gates)
        self.W_in = memory(dtype, n, d_in, d_hidden)
        self.W_rec = memory(dtype, n, d_hidden, d_hidden)
        self.b = memory(dtype, n, d_hidden)
        self.hook_state_before = HookPoint()
        self.hook_state = HookPoint()

    def _driven(self, x: Float[torch.Tensor, "batch pos d_in"]) -> tuple[torch.Tensor, ...]:
        """x W_in + b, one (batch, gate * d_hidden) for each position."""
        return (torch.einsum("bpd,gdh->pbgh", x, self.W_in) + self.b).flatten(2).unbind(0)

    def _recurrent(self) -> Float[torch.Tensor, "d_hidden gate_and_hidden"]:
        return self.W_rec.transpose(0, 1).flatten(1)


class RNNLayer(Layer):
    """h_t = tanh(x_t W_in + h_{t-1} W_rec + b)."""

    gates = ("candidate",)

    def forward(self, x: Float[torch.Tensor, "batch pos d_in"]) -> Float[torch.Tensor, "batch pos d_hidden"]:
        state, states, recurrent = x.new_zeros(len(x), self.b.shape[-1]), [], self._recurrent()
        for at, driven in enumerate(self._driven(x)):
            state = torch.addmm(driven, _before(self.hook_state_before, state, at), recurrent).tanh()
            states.append(state)
        return self.hook_state(torch.stack(states, 1))


class LSTMLayer(Layer):
    """c_t = f c_{t-1} + i g, h_t = o tanh(c_t); the gates of all cells of a step in one product."""

    gates = ("input_gate", "forget_gate", "output_gate", "candidate")

    def __init__(self, d_in: int, d_hidden: int, dtype: torch.dtype):
        super().__init__(d_in, d_hidden, dtype)
        for gate in self.gates:
            setattr(self, f"hook_{gate}", HookPoint())
        self.hook_cell_before, self.hook_cell = HookPoint(), HookPoint()

    def forward(self, x: Float[torch.Tensor, "batch pos d_in"]) -> Float[torch.Tensor, "batch pos d_hidden"]:
        d_hidden, recurrent = self.b.shape[-1], self._recurrent()
        cell = state = x.new_zeros(len(x), d_hidden)
        steps = []
        for at, driven in enumerate(self._driven(x)):
            cell, state = _before(self.hook_cell_before, cell, at), _before(self.hook_state_before, state, at)
            total = torch.addmm(driven, state, recurrent)
            i, f, o = total[:, : 3 * d_hidden].sigmoid().chunk(3, -1)
            g = total[:, 3 * d_hidden :].tanh()
            cell = torch.addcmul(f * cell, i, g)
            state = o * cell.tanh()
            steps.append((i, f, o, g, cell, state))
        *history, states = zip(*steps, strict=True)
        for name, values in zip((*self.gates, "cell"), history, strict=True):
            _tell(getattr(self, f"hook_{name}"), values)
        return self.hook_state(torch.stack(states, 1))


LAYERS = {"lstm": LSTMLayer, "rnn": RNNLayer}


def memory(dtype: torch.dtype, *shape: int) -> nn.Parameter:
    """A parameter without values: `Recurrent` draws them, each from its own stream."""
    return nn.Parameter(torch.empty(*shape, dtype=dtype))


def _before(point: HookPoint, value: Float[torch.Tensor, "batch d_hidden"], at: int) -> torch.Tensor:
    """What step `at` starts from, after the hooks; a copy for them, since they may write in place."""
    if not (point.fwd_hooks or point.bwd_hooks):
        return value
    point.ctx["pos"] = at
    left = point(value[:, None].clone())[:, 0]
    del point.ctx["pos"]
    return left


def _tell(point: HookPoint, values: tuple[torch.Tensor, ...]) -> None:
    """Show what was computed, all positions at once, and refuse an edit of it."""
    if not point.fwd_hooks:
        return
    told = torch.stack(values, 1)
    left = point(told.clone())
    if left.shape != told.shape or not torch.allclose(left, told, rtol=0, atol=0, equal_nan=True):
        raise InputError(
            f"an edit of {point.name} would change nothing, since its steps are over: edit hook_cell_before or "
            f"hook_state_before"
        )
