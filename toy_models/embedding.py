"""Where tokens enter the stream and where logits leave it."""

import torch
from jaxtyping import Float, Int
from torch import nn

from toy_models.config import TransformerConfig
from toy_models.norm import parameter


class Embed(nn.Module):
    """Rows of W_E, times `embed_scale`."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.W_E, self.scale = parameter(config, config.d_vocab, config.d_model), config.embed_scale

    def forward(self, tokens: Int[torch.Tensor, "batch pos"]) -> Float[torch.Tensor, "batch pos d_model"]:
        rows = self.W_E[tokens]
        # The factor is rounded to the weights' type first, as Gemma rounds it.
        return rows if self.scale == 1 else rows * rows.new_tensor(self.scale)


class Unembed(nn.Module):
    """x W_U + b_U, and c tanh(. / c) of it under a cap of c = `output_logits_soft_cap`."""

    def __init__(self, config: TransformerConfig, embed: Embed):
        super().__init__()
        self.cap = config.output_logits_soft_cap
        self._make_weight(config, embed)
        self.b_U = parameter(config, config.d_vocab_out)

    def _make_weight(self, config: TransformerConfig, embed: Embed) -> None:
        self.W_U = parameter(config, config.d_model, config.d_vocab_out)

    def forward(self, resid: Float[torch.Tensor, "batch pos d_model"]) -> Float[torch.Tensor, "batch pos d_vocab_out"]:
        logits = resid @ self.W_U + self.b_U
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


class TiedUnembed(Unembed):
    """An Unembed whose W_U is W_E transposed: a view of the same memory, and no parameter of its own."""

    def _make_weight(self, config: TransformerConfig, embed: Embed) -> None:
        self._embed = (embed,)  # in a tuple, so that it is not a part of this module as well

    @property
    def W_U(self) -> Float[torch.Tensor, "d_model d_vocab_out"]:
        return self._embed[0].W_E.T
