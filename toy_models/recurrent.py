"""Recurrent nets: embed, layers of cells, unembed, with a hook on every gate.

    LSTM    i, f, o = sigmoid(x_t W_in + h_{t-1} W_rec + b)    input, forget and output gate, each with its own weights
            g       = tanh(x_t W_in + h_{t-1} W_rec + b)       candidate
            c_t     = f c_{t-1} + i g                          cell: what is kept, unbounded
            h_t     = o tanh(c_t)                              state: what is read, between -1 and 1
    RNN     h_t     = tanh(x_t W_in + h_{t-1} W_rec + b)

c and h are 0 before the first token.  The input's part is one product over all positions; the rest is a loop, in
cells.py.

Hooks of layer l, under `blocks.{l}.`:

    hook_input_gate, hook_forget_gate, hook_output_gate, hook_candidate, hook_cell    LSTM, (batch, pos, d_hidden)
    hook_state                                                                        both, (batch, pos, d_hidden)
    hook_cell_before, hook_state_before        what step t starts from, (batch, 1, d_hidden); t is hook.ctx["pos"]

The first two lines are told once, after the loop, all positions at once.  What a hook leaves at `hook_state` goes to
the next layer or to the logits, at that position alone.  The gates, the candidate and the cell are history by then: an
edit there could change nothing and is refused.  To change what follows, edit at `hook_cell_before` or
`hook_state_before`: they fire at every step if somebody listens, and all later steps go on from what was left there.

Sources: Hochreiter & Schmidhuber 1997; Gers et al. 2000 for the forget gate; Elman 1990 for the RNN.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import nn
from transformer_lens import ActivationCache, HookedRootModule
from transformer_lens.hook_points import HookPoint

from toy_models.cells import LAYERS, memory
from toy_models.config import DTYPES
from toy_models.errors import ConfigError, InputError
from toy_models.seeding import generator

RETURN_TYPES = ("logits", "loss")
# They fire at every step: a cache would hold the last step only.
BY_NAME_ONLY = ("hook_cell_before", "hook_state_before")


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig:
    """Options of a Recurrent.

    Args: kind: "lstm" or "rnn";  n_ctx: the longest text, beyond which tokens are refused as a Transformer refuses
    them;  d_hidden: cells in a layer;  d_vocab_out: width of the logits, `d_vocab` unless given.

    Raises:
        ConfigError: one line with the value and the remedy.
    """

    kind: str = "lstm"
    d_vocab: int
    n_ctx: int
    d_model: int
    d_hidden: int
    n_layers: int = 1
    d_vocab_out: int | None = None
    dtype: Any = torch.float32
    device: str = "cpu"

    def __post_init__(self):
        if self.kind not in LAYERS:
            raise ConfigError(f"kind={self.kind!r} must be one of {', '.join(LAYERS)}")
        if self.d_vocab_out is None:
            object.__setattr__(self, "d_vocab_out", self.d_vocab)
        for name in ("d_vocab", "n_ctx", "d_model", "d_hidden", "n_layers", "d_vocab_out"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be a whole number of at least 1")
        if isinstance(self.dtype, str) and self.dtype in DTYPES:
            object.__setattr__(self, "dtype", DTYPES[self.dtype])
        if self.dtype not in DTYPES.values():
            raise ConfigError(f"dtype={self.dtype!r} must be one of {', '.join(DTYPES)}")
        object.__setattr__(self, "device", str(self.device))


class Embed(nn.Module):
    """Rows of W_E."""

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.W_E = memory(config.dtype, config.d_vocab, config.d_model)

    def forward(self, tokens: Int[torch.Tensor, "batch pos"]) -> Float[torch.Tensor, "batch pos d_model"]:
        return self.W_E[tokens]


class Unembed(nn.Module):
    """h W_U + b_U."""

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.W_U = memory(config.dtype, config.d_hidden, config.d_vocab_out)
        self.b_U = memory(config.dtype, config.d_vocab_out)

    def forward(self, x: Float[torch.Tensor, "batch pos d_hidden"]) -> Float[torch.Tensor, "batch pos d_vocab_out"]:
        return x @ self.W_U + self.b_U


class Recurrent(HookedRootModule):
    """An LSTM or an RNN over tokens.

    W_E is standard normal, the other weights normal with variance 1 / (number of inputs), biases zero, but for the
    forget gates', which are one, so that cells remember from the start.  Each parameter has a stream of its own, as
    those of a Transformer have.  Born in eval mode; there is no dropout.
    """

    def __init__(self, config: RecurrentConfig, seed: int = 0):
        super().__init__()
        self.cfg = config
        self.embed = Embed(config)
        self.hook_embed = HookPoint()  # batch pos d_model
        widths = (config.d_model, *[config.d_hidden] * (config.n_layers - 1))
        self.blocks = nn.ModuleList(LAYERS[config.kind](d_in, config.d_hidden, config.dtype) for d_in in widths)
        self.unembed = Unembed(config)
        self.reset_parameters(seed)
        self.setup()
        self.eval()
        try:
            self.to(config.device)
        except (AssertionError, RuntimeError) as error:  # torch has no word of its own for a device that is not there
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"device={config.device!r} cannot be used here ({reason}): try device='cpu'") from None

    @torch.no_grad()
    def reset_parameters(self, seed: int) -> None:
        """Draw every weight again, from `seed` and the parameter's own name."""
        for name, param in self.named_parameters():
            kind = name.rsplit(".", 1)[-1]
            if kind.startswith("W_"):
                std = 1.0 if kind == "W_E" else param.shape[-2] ** -0.5
                param.copy_(torch.randn(param.shape, generator=generator(seed, "init", name)) * std)
            else:
                param.zero_()
        for block in self.blocks:
            if "forget_gate" in block.gates:
                block.b[block.gates.index("forget_gate")] = 1.0

    def forward(self, tokens: Any, return_type: str = "logits") -> torch.Tensor:
        """Logits (batch, pos, d_vocab_out) of ids (batch, pos) or (pos,); return_type="loss": mean next-token cross
        entropy, nats.

        Raises:
            InputError: ids out of range, more than n_ctx of them, or an edit that could change nothing.
        """
        if return_type not in RETURN_TYPES:
            raise InputError(f"return_type={return_type!r} must be one of {', '.join(RETURN_TYPES)}")
        tokens = self._checked(tokens)
        x = self.hook_embed(self.embed(tokens))
        for block in self.blocks:
            x = block(x)
        logits = self.unembed(x)
        if return_type == "logits":
            return logits
        if self.cfg.d_vocab_out != self.cfg.d_vocab or tokens.shape[1] < 2:
            raise InputError(
                f"next-token loss needs two tokens or more and d_vocab_out={self.cfg.d_vocab_out} equal to "
                f"d_vocab={self.cfg.d_vocab}, for {tokens.shape[1]} tokens: take the logits and your own loss"
            )
        wide = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(wide.flatten(0, 1), tokens[:, 1:].flatten())

    def run_with_cache(self, *args, names_filter=None, return_cache_object=True, remove_batch_dim=False, **kwargs):
        """Output and ActivationCache.  Without `names_filter` all but the points that fire at every step."""
        if names_filter is None:

            def names_filter(name):
                return not name.endswith(BY_NAME_ONLY)

        out, cache = super().run_with_cache(
            *args, names_filter=names_filter, remove_batch_dim=remove_batch_dim, **kwargs
        )
        if return_cache_object:
            cache = ActivationCache(cache, self, has_batch_dim=not remove_batch_dim)
        return out, cache

    def _checked(self, tokens: Any) -> Int[torch.Tensor, "batch pos"]:
        if not isinstance(tokens, torch.Tensor) or tokens.dtype not in (torch.int64, torch.int32):
            raise InputError(f"give token ids as whole numbers, not {getattr(tokens, 'dtype', type(tokens).__name__)}")
        if tokens.ndim not in (1, 2) or tokens.shape[-1] == 0:
            raise InputError(f"tokens have shape {tuple(tokens.shape)}: give (batch, pos) or (pos,), at least one")
        if tokens.shape[-1] > self.cfg.n_ctx:
            raise InputError(
                f"{tokens.shape[-1]} positions go beyond n_ctx={self.cfg.n_ctx}: shorten the input or raise n_ctx"
            )
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.cfg.d_vocab:
            raise InputError(
                f"token {low if low < 0 else high} is outside the vocabulary: ids must lie in [0, {self.cfg.d_vocab})"
            )
        return (tokens[None] if tokens.ndim == 1 else tokens).long().to(self.cfg.device)

    @property
    def W_E(self) -> Float[torch.Tensor, "d_vocab d_model"]:
        """The rows that tokens are embedded as."""
        return self.embed.W_E

    @property
    def W_U(self) -> Float[torch.Tensor, "d_hidden d_vocab_out"]:
        """What the logits read of the last layer's state."""
        return self.unembed.W_U

    def _apply(self, fn, recurse: bool = True):
        """`.to`, `.double()`, `.cuda()` come through here: the config follows."""
        becomes = fn(self.unembed.W_U.detach()[:0])
        self.cfg = replace(self.cfg, dtype=becomes.dtype, device=str(becomes.device))
        return super()._apply(fn, recurse)
