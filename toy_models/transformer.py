"""The transformer: embed, blocks, unembed.  Read this first, then block.py.

Hook names, parameter names and layouts are TransformerLens's, so its caches, hooks and tools work
unchanged.  The forward pass is written out; nothing is fetched from a registry at run time.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import nn
from transformer_lens.hook_points import HookPoint

from toy_models import generation
from toy_models.block import AskedStatistics, Block
from toy_models.config import TransformerConfig
from toy_models.embedding import Embed, TiedUnembed, Unembed
from toy_models.errors import ConfigError, InputError
from toy_models.generation import KeyValueCache
from toy_models.lens import LensSurface
from toy_models.norm import Norm
from toy_models.seeding import generator

RETURN_TYPES = ("logits", "loss", "both", None)


class Transformer(LensSurface):
    """A decoder (or, with `causal=False`, an encoder) with a hook on every activation.

    The weights are normal with standard deviation 0.8 / sqrt(d_model), biases zero, gains one, as
    TransformerLens draws them; each parameter has a stream of its own, so the same seed gives the same
    bits and an added layer changes no other.  There is no dropout: the model is born in eval mode.
    `seed=None` draws nothing and leaves the memory as it is, for weights that come from elsewhere.
    """

    def __init__(self, config: TransformerConfig, seed: int | None = 0):
        super().__init__()
        self.cfg = config
        self.embed = Embed(config)
        self.hook_embed = HookPoint()  # batch pos d_model
        self.pos_embed = config.position.build(config)
        if config.position.where == "embed":
            self.hook_pos_embed = HookPoint()  # batch pos d_model, added to the stream
        elif config.position.where == "embed_attention":
            self.hook_pos_embed_attention = HookPoint()  # batch pos d_model, read by queries and keys alone
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        final = config.normalization_type and config.norm_position == "pre"
        self.ln_final = Norm(config) if final else nn.Identity()
        self.unembed = (TiedUnembed if config.tie_word_embeddings else Unembed)(config, self.embed)
        if seed is not None:
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
        std = 0.8 / self.cfg.d_model**0.5
        for name, param in self.named_parameters():
            *_, owner, kind = name.split(".")
            if owner == "per_head":
                param.fill_(self.cfg.normaliser.per_head[kind])
            elif kind.startswith("W_"):
                param.copy_(torch.randn(param.shape, generator=generator(seed, "init", name)) * std)
            else:  # gains are one, be they w or 1 + w; biases and smear (an even mix) are zero
                param.fill_(1.0 if kind == "w" and not self.cfg.rmsnorm_uses_offset else 0.0)

    def forward(
        self,
        tokens: Any = None,
        *,
        residual: Float[torch.Tensor, "batch pos d_model"] | None = None,
        attention_mask: Bool[torch.Tensor, "batch key"] | None = None,
        past: KeyValueCache | None = None,
        position_offset: int | Int[torch.Tensor, " batch"] = 0,
        start_at_layer: int = 0,
        stop_at_layer: int | None = None,
        return_type: str | None = "logits",
        loss_per_token: bool = False,
        statistics: AskedStatistics | None = None,
    ) -> Any:
        """Run the model.

        Args:
            tokens: ids, (batch, pos) or (pos,); beside a `residual` they serve the loss alone.
            residual: enters in place of the token embedding (positions are still added), or, with
                `start_at_layer > 0`, in place of the stream before that layer.
            attention_mask: True where a key may be attended; covers the cached keys too.
            past: keys and values of earlier tokens; the new ones are appended.
            position_offset: added to every position; per row, to undo left padding.
            stop_at_layer: return the stream (batch, pos, d_model) before that layer, hooks fired up to there.
            return_type: "logits" (batch, pos, d_vocab_out), "loss" (mean next-token cross entropy, nats), "both"
                or None.  `loss_per_token` keeps the loss as (batch, pos - 1).
            statistics: where every layer leaves its row statistics; `attention_statistics` is the way to ask.

        Raises:
            InputError: ids out of range, too many positions, shapes that do not fit.
        """
        if return_type not in RETURN_TYPES:
            raise InputError(f"return_type={return_type!r} must be one of {', '.join(map(str, RETURN_TYPES))}")
        start, stop = self._span(start_at_layer, stop_at_layer)
        resid, tokens = self._enter(tokens, residual, start)
        seen = past.length if past is not None else 0
        positions = self._positions(resid, seen, position_offset)
        key_padding = self._check_mask(attention_mask, resid.shape[0], positions.shape[1])

        new = positions[:, seen:]
        if start == 0 and self.cfg.position.where == "embed":
            code = self.pos_embed.embed(new).to(resid.dtype).repeat(resid.shape[0] // new.shape[0], 1, 1)
            resid = resid + self.hook_pos_embed(code)
        embed_attention = self.pos_embed.embed_attention(new)
        if embed_attention is not None:
            embed_attention = embed_attention.repeat(resid.shape[0] // new.shape[0], 1, 1)
            embed_attention = self.hook_pos_embed_attention(embed_attention)
        rotate = self._rotations(new, positions)
        shared = self._score_terms(resid, new, positions)
        shared |= {"key_padding": key_padding, "past": past, "asked": statistics}
        for layer in range(start, stop):
            resid = self.blocks[layer](resid, embed_attention, layer=layer, rotate=rotate[layer], **shared)
        if past is not None:
            past.length += resid.shape[1]
        if stop_at_layer is not None:
            return resid
        if return_type is None:
            return None
        logits = self.unembed(self.ln_final(resid))
        return self._outputs(logits, tokens, key_padding, return_type, loss_per_token)

    # The steps of forward -----------------------------------------------------------------------

    def _span(self, start: int, stop: int | None) -> tuple[int, int]:
        n = self.cfg.n_layers
        last = n if stop is None else stop + n if stop < 0 else stop
        if not 0 <= start <= last <= n:
            raise InputError(f"start_at_layer={start}, stop_at_layer={stop} must satisfy 0 <= start <= stop <= {n}")
        return start, last

    def _enter(self, tokens, residual, start: int):
        """The stream at the entrance, and the token ids if there are any."""
        if tokens is None and residual is None:
            raise InputError("give tokens, or a residual in their place")
        if tokens is not None:
            tokens = self.to_tokens(tokens)
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or (high >= self.cfg.d_vocab and residual is None):
                raise InputError(self._outside(low if low < 0 else high))
        if residual is None:
            if start:
                raise InputError(f"start_at_layer={start} needs the residual that enters there")
            return self.hook_embed(self.embed(tokens.long().to(self.cfg.device))), tokens
        if residual.ndim != 3 or residual.shape[-1] != self.cfg.d_model:
            raise InputError(
                f"residual has shape {tuple(residual.shape)}: it must be (batch, pos, d_model={self.cfg.d_model})"
            )
        residual = residual.to(self.cfg.device, self.cfg.dtype, copy=True)  # hooks may write in place
        return self.hook_embed(residual) if start == 0 else residual, tokens

    def _outside(self, token: int) -> str:
        return f"token {token} is outside the vocabulary: ids must lie in [0, {self.cfg.d_vocab})"

    def _positions(self, resid, seen: int, offset) -> Int[torch.Tensor, "#batch key"]:
        n_key = seen + resid.shape[1]
        if n_key > self.cfg.n_ctx:
            raise InputError(f"{n_key} positions go beyond n_ctx={self.cfg.n_ctx}: shorten the input or raise n_ctx")
        positions = torch.arange(n_key, device=resid.device)[None]
        if isinstance(offset, torch.Tensor):
            if offset.shape != resid.shape[:1]:
                raise InputError(
                    f"position_offset has shape {tuple(offset.shape)}: "
                    f"give a number, or one per row ({resid.shape[0]},)"
                )
            return positions + offset.to(resid.device).reshape(-1, 1)
        return positions + offset

    def _rotations(self, new, positions):
        """Per layer, what turns its queries and its keys; layers with a window may turn otherwise than the rest."""
        local = [window is not None for window in self.cfg.windows]
        turned = {}
        for kind in set(local):
            keys = self.pos_embed.rotation(positions, kind)
            turned[kind] = (self.pos_embed.rotation(new, kind), keys) if keys else None
        return [turned[kind] for kind in local]

    def _score_terms(self, resid, new, positions) -> dict[str, torch.Tensor | None]:
        """What positions do to the scores: slopes, from which attention makes the penalty itself, or a table."""
        slopes = self.pos_embed.alibi_slopes()
        bias = self.pos_embed.bias(new, positions) if slopes is None else None
        like = {"device": resid.device, "dtype": torch.promote_types(resid.dtype, torch.float32)}
        terms = {"alibi_slopes": slopes, "bias": bias}
        return {name: None if term is None else term.to(**like) for name, term in terms.items()}

    def _check_mask(self, mask, batch: int, n_key: int):
        if mask is None:
            return None
        if mask.shape != (batch, n_key):
            raise InputError(
                f"attention_mask has shape {tuple(mask.shape)}: it must be (batch={batch}, key={n_key}), "
                f"True where a key may be attended, cached keys included"
            )
        return mask.bool().to(self.cfg.device)

    def _outputs(self, logits, tokens, key_padding, return_type, loss_per_token):
        if return_type == "logits":
            return logits
        if tokens is None:
            raise InputError("the loss needs tokens: give them beside the residual, or ask for return_type='logits'")
        if self.cfg.d_vocab_out != self.cfg.d_vocab:
            raise InputError(
                f"next-token loss needs d_vocab_out={self.cfg.d_vocab_out} to equal d_vocab={self.cfg.d_vocab}: "
                f"take the logits and your own loss"
            )
        if tokens.shape != logits.shape[:2] or tokens.shape[1] < 2:
            raise InputError(
                f"the loss needs tokens of shape {tuple(logits.shape[:2])}, "
                f"at least 2 in a row, not {tuple(tokens.shape)}"
            )
        if int(tokens.max()) >= self.cfg.d_vocab:
            raise InputError(self._outside(int(tokens.max())))
        wide = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
        per_token = F.cross_entropy(wide.transpose(1, 2), tokens[:, 1:].long().to(logits.device), reduction="none")
        loss = per_token
        if not loss_per_token:
            real = torch.ones_like(per_token) if key_padding is None else key_padding[:, 1:].to(per_token.dtype)
            loss = (per_token * real).sum() / real.sum()
        return loss if return_type == "loss" else (logits, loss)

    # Around forward -----------------------------------------------------------------------------

    def generate(
        self,
        tokens: Int[torch.Tensor, "*batch pos"],
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        use_past: bool = True,
    ) -> Int[torch.Tensor, "batch longer"]:
        """`tokens` with `max_new_tokens` more: greedy at temperature 0, else drawn with `generator`.

        Hooks stay live: with `use_past` they see the new positions alone, without it the whole text.
        """
        return generation.generate(
            self, tokens, max_new_tokens, temperature=temperature, generator=generator, use_past=use_past
        )

    def empty_cache(self) -> KeyValueCache:
        """What `past` takes for a text that begins here."""
        return KeyValueCache(self.cfg.n_layers)

    @property
    def backends(self) -> tuple[str | None, ...]:
        """The attention backend that ran last, per layer; None before the first run."""
        return tuple(block.attn.ran for block in self.blocks)

    def set_attention(self, backend: str) -> None:
        """Switch the attention backend of every layer; "auto" fuses unless a hook listens."""
        self.cfg = replace(self.cfg, attention=backend)  # refuses what does not fit
        for block in self.blocks:
            block.attn.backend = backend

    def _apply(self, fn, recurse: bool = True):
        """`.to`, `.double()`, `.cuda()` come through here: the config follows."""
        becomes = fn(self.unembed.W_U.detach()[:0])  # refused before any weight has changed
        try:
            self.cfg = replace(self.cfg, dtype=becomes.dtype, device=str(becomes.device))
        except ConfigError as error:
            raise InputError(f"a model cannot compute in {becomes.dtype}: {error}") from None
        return super()._apply(fn, recurse)
