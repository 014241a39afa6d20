"""Views on weights: another model that computes the same function, with weights that are easier to read.

Each view returns a new Transformer of the same configuration, with the same hooks and none of the hooks that
somebody had added; the model given stays as it was.  A tied unembedding is untied, because the two are then changed
differently.  Where a view would change the function it is refused.
Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", on folding LayerNorm.
"""

from dataclasses import replace

import torch
from torch import nn

from toy_models.block import Norm
from toy_models.errors import ModelError
from toy_models.transformer import Transformer


@torch.no_grad()
def fold_layer_norm(model: Transformer) -> Transformer:
    """Move every norm's gain and bias into the weights that read from it: W <- w W, b <- b + b_norm W.

    The norms stay, with gain one and bias zero; those of what layers write stay as they are, and so do those of
    queries and keys.  `ln_final.b @ W_U` goes into b_U.  A LayerNorm's output then has mean zero over d_model, so a
    reading weight's mean over d_model acts on nothing: it is taken off as well.
    W_E W_Q W_K^T W_E^T, for one, is then the circuit that the head computes, up to the scale of each token.
    Logits agree to rounding; the folding itself is done in float64.

    Raises:
        ModelError: no norm; norm_position="post", where the stream itself carries the gain on; shortformer
            positions, added after the norm to what queries and keys read; a gated MLP behind a LayerNorm whose
            bias is not zero, because its product has no bias to move it into.
    """
    if reason := _unfoldable(model):
        raise ModelError(f"fold_layer_norm does not apply: {reason}")
    view = _copy(model)
    for block in view.blocks:
        for reader in ("Q", "K", "V", *(["gate"] * model.cfg.gated_attention)):
            _fold(block.ln1, block.attn, f"W_{reader}", f"b_{reader}")
        _neutral(block.ln1)
        if block.mlp is not None:
            if block.mlp.W_gate is not None:
                _fold(block.ln2, block.mlp, "W_gate", None)
            _fold(block.ln2, block.mlp, "W_in", None if block.mlp.W_gate is not None else "b_in")
            _neutral(block.ln2)
    _fold(view.ln_final, view.unembed, "W_U", "b_U")
    _neutral(view.ln_final)
    return view


@torch.no_grad()
def centre_writing_weights(model: Transformer) -> Transformer:
    """Take the mean over d_model off whatever writes to the stream: W_E, W_pos, W_O, b_O, W_out, b_out.

    Everything reads the stream through a LayerNorm, which takes that mean off anyway.  The stream itself changes by
    it, and is then centred at every hook (but for a sinusoidal code, which has no weights to centre).
    Logits agree to rounding.

    Raises:
        ModelError: a norm that keeps the mean (RMS), no norm, norm_position="post", where the first layer
            reads the embedding as it is, or norms of what the layers write.
    """
    if reason := _reads_the_mean(model):
        raise ModelError(f"centre_writing_weights does not apply: {reason}")
    view = _copy(model)
    writers = [view.W_E]
    if model.cfg.position.where == "embed":  # a shortformer's W_pos is not written to the stream
        writers += view.pos_embed.parameters()
    for block in view.blocks:
        writers += [block.attn.W_O, block.attn.b_O]
        if block.mlp is not None:
            writers += [block.mlp.W_out, block.mlp.b_out]
    for weight in writers:
        wide = weight.double()
        weight.copy_(wide - wide.mean(-1, keepdim=True))
    return view


def _copy(model: Transformer) -> Transformer:
    copy = Transformer(replace(model.cfg, tie_word_embeddings=False))
    copy.load_state_dict({**model.state_dict(), "unembed.W_U": model.W_U})
    copy.tokenizer = model.tokenizer
    return copy


def _unfoldable(model: Transformer) -> str | None:
    cfg = model.cfg
    if cfg.normalization_type is None:
        return "normalization_type=None leaves no norm to fold"
    if cfg.norm_position == "post":
        return "norm_position='post' hands the gain on in the stream, use norm_position='pre'"
    if cfg.position.where == "embed_attention":
        return f"position={cfg.position} adds W_pos after the norm, and a gain in W_Q and W_K would scale W_pos too"
    if cfg.gated_mlp and cfg.normalization_type == "LN":
        for layer, block in enumerate(model.blocks):
            if (largest := block.ln2.b.abs().max().item()) > 0:
                return f"blocks.{layer}.ln2.b reaches {largest:.3g}, and a gated MLP has no bias inside its product"
    return None


def _reads_the_mean(model: Transformer) -> str | None:
    cfg = model.cfg
    if cfg.normalization_type != "LN":
        return f"normalization_type={cfg.normalization_type!r} lets the mean over d_model through, only 'LN' does not"
    if cfg.use_normalization_before_and_after:
        return "use_normalization_before_and_after=True puts a gain between the writing weights and the stream"
    if cfg.norm_position == "post":
        return "norm_position='post' lets the first layer read the embedding as it is, use norm_position='pre'"
    return None


def _fold(norm: Norm, reader: nn.Module, weight_name: str, bias_name: str | None) -> None:
    """The reader's weight is (..., d_model, out), its bias (..., out)."""
    weight = getattr(reader, weight_name)
    wide = weight.double()
    if norm.centred and bias_name is not None:
        bias = getattr(reader, bias_name)
        bias.copy_(bias.double() + norm.b.double() @ wide)
    folded = norm.gain.double()[:, None] * wide
    weight.copy_(folded - folded.mean(-2, keepdim=True) if norm.centred else folded)


def _neutral(norm: Norm) -> None:
    norm.w.fill_(0.0 if norm.uses_weight_offset else 1.0)
    if norm.centred:
        norm.b.zero_()
