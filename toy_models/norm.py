"""LayerNorm and RMSNorm, and the memory that every part of a model takes for its weights."""

import torch
from jaxtyping import Float
from torch import nn
from transformer_lens.hook_points import HookPoint

from toy_models.config import TransformerConfig


def parameter(config: TransformerConfig, *shape: int) -> nn.Parameter:
    """Memory without values: `Transformer` draws them, each from its own stream."""
    return nn.Parameter(torch.empty(*shape, dtype=config.dtype))


class Norm(nn.Module):
    """LayerNorm or RMSNorm: x / scale * w (+ b), with `scale` hooked before the division.

    Like TransformerLens: `hook_normalized` of LN is after the gain and bias, that of RMS before the
    gain.  16-bit inputs are normalised in float32; the gain comes after the cast, or before it where it is 1 + w
    (`rmsnorm_uses_offset`), as in the models that have each.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.centred, self.eps = self._centres(config), config.eps
        self.uses_weight_offset = config.rmsnorm_uses_offset
        width = self._width(config)
        self.w = parameter(config, width)
        if self.centred:
            self.b = parameter(config, width)
        self.hook_scale = HookPoint()  # batch pos 1
        self.hook_normalized = HookPoint()  # batch pos d_model

    def _centres(self, config: TransformerConfig) -> bool:
        return config.normalization_type == "LN"

    def _width(self, config: TransformerConfig) -> int:
        return config.d_model

    @property
    def gain(self) -> Float[torch.Tensor, " width"]:
        """What the normalised stream is multiplied by: w, or 1 + w."""
        return 1 + self.w if self.uses_weight_offset else self.w

    def forward(self, x: Float[torch.Tensor, "*rows width"]) -> Float[torch.Tensor, "*rows width"]:
        dtype = x.dtype
        x = x.to(torch.promote_types(dtype, torch.float32))
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        x = x / self.hook_scale((x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        if self.centred:
            return self.hook_normalized(x * self.w + self.b).to(dtype)
        if self.uses_weight_offset:
            return (self.hook_normalized(x) * (1 + self.w.to(x.dtype))).to(dtype)
        return self.hook_normalized(x).to(dtype) * self.w


class HeadNorm(Norm):
    """RMSNorm over d_head of every query or key, whatever the norms of the stream are: hooks have a head axis more.

    Source: Henry et al. 2020, arXiv:2010.04245, with RMSNorm as in Qwen3 and Gemma 3.
    """

    def _centres(self, config: TransformerConfig) -> bool:
        return False

    def _width(self, config: TransformerConfig) -> int:
        return config.d_head
