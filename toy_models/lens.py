"""What TransformerLens's tools ask of a model, beside its hooks: weights by name, tokens, caches; row statistics."""

import re
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from transformer_lens import ActivationCache, HookedRootModule

from toy_models.attention import RowStatistics
from toy_models.block import AskedStatistics
from toy_models.errors import InputError

# A copy of the stream per head costs n_heads times its memory: cached when asked for by name, or switched on.
COSTLY = {"use_attn_result": ("hook_result",), "use_split_qkv_input": ("hook_q_input", "hook_k_input", "hook_v_input")}
# Row statistics cost more than attention alone, and no tool of TransformerLens knows them: cached by name only.
BY_NAME_ONLY = ("hook_row_statistics",)
# What a classic TransformerLens state dict carries beside its weights.
_CLASSIC_BUFFER = re.compile(r"\.attn\.(mask|IGNORE|rotary_sin|rotary_cos)$")


class LensSurface(HookedRootModule):
    """Mixed into `Transformer`; nothing here computes the forward pass."""

    tokenizer = None  # of transformers, where the model came with one

    def __init__(self):
        super().__init__()
        self.register_load_state_dict_pre_hook(_translate_classic)

    # Caches -------------------------------------------------------------------------------------

    def run_with_cache(self, *args, names_filter=None, return_cache_object=True, remove_batch_dim=False, **kwargs):
        """Output and ActivationCache.  Without `names_filter` everything but the per-head copies (`hook_result`,
        `hook_{q,k,v}_input`) and the row statistics is cached; name those, or switch on the copies, to have them."""
        if names_filter is None:
            off = [point for flag, points in COSTLY.items() if not getattr(self.cfg, flag) for point in points]

            def names_filter(name):
                return not name.endswith((*off, *BY_NAME_ONLY))

        out, cache = super().run_with_cache(
            *args, names_filter=names_filter, remove_batch_dim=remove_batch_dim, **kwargs
        )
        if return_cache_object:
            cache = ActivationCache(cache, self, has_batch_dim=not remove_batch_dim)
        return out, cache

    @torch.no_grad()
    def attention_statistics(
        self,
        tokens,
        *,
        attention_mask: Bool[torch.Tensor, "batch key"] | None = None,
        targets: Int[torch.Tensor, "#batch #head query"] | None = None,
        received: bool = False,
    ) -> tuple[RowStatistics, ...]:
        """What every query of every head does with its keys, per layer, without the (query, key) pattern.

        Each entry holds `(batch, head, query)` numbers, see `toy_models.attention.RowStatistics`; memory grows with
        the number of tokens, not with its square (`model.backends` says what ran).  No logits are computed, nothing
        is left behind, and hooks are live: in a layer whose scores or pattern one listens to, the statistics are of
        what it left there.  Without gradients; `hook_row_statistics` has those of the entropy.

        Args:
            attention_mask: True where a key may be attended.  A query that sees no key is a dead row.
            targets: for `target_mass`, the key to watch per row, the same in every layer, or -1 for none.
            received: for `received_mass`, what each key gets from all queries.

        Raises:
            InputError: tokens, masks or targets that do not fit, or an attention backend that has no statistics.
        """
        asked = AskedStatistics(targets, received)
        self(tokens, attention_mask=attention_mask, stop_at_layer=self.cfg.n_layers, statistics=asked)
        return tuple(asked.found)

    def set_use_attn_result(self, on: bool) -> None:
        """Cache `hook_result` without being asked.  A hook on it works either way."""
        self.cfg = replace(self.cfg, use_attn_result=on)

    def set_use_split_qkv_input(self, on: bool) -> None:
        """Cache `hook_{q,k,v}_input` without being asked.  Hooks on them work either way."""
        self.cfg = replace(self.cfg, use_split_qkv_input=on)

    # Tokens -------------------------------------------------------------------------------------

    def to_tokens(self, tokens, prepend_bos: bool | None = None, **_) -> torch.Tensor:
        """Token ids unchanged, with a batch dimension; of a text, or of texts of one length, its tokenizer's.

        `prepend_bos` puts `cfg.bos_id` before a text; None: if there is one.
        """
        if isinstance(tokens, str):
            tokens = [tokens]
        if isinstance(tokens, list | tuple) and tokens and all(isinstance(text, str) for text in tokens):
            tokens = self._tokenised(tokens, prepend_bos)
        if not isinstance(tokens, torch.Tensor):
            if not isinstance(tokens, list | tuple):
                raise InputError(f"give token ids, not {tokens!r}")
            tokens = torch.tensor(tokens)
        if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise InputError(f"tokens are {tokens.dtype}: give whole-number ids, such as tokens.long()")
        if tokens.ndim not in (1, 2) or tokens.shape[-1] == 0:
            raise InputError(
                f"tokens have shape {tuple(tokens.shape)}: give (batch, pos) or (pos,), at least one token"
            )
        return tokens[None] if tokens.ndim == 1 else tokens

    def _tokenised(self, texts, prepend_bos: bool | None):
        if self.tokenizer is None:
            raise InputError(f"this model has no tokenizer: give token ids, not {texts[0]!r}")
        if prepend_bos and self.cfg.bos_id is None:
            raise InputError("prepend_bos=True needs cfg.bos_id, which is None: leave it out")
        first = [self.cfg.bos_id] if self.cfg.bos_id is not None and prepend_bos is not False else []
        rows = [first + self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        lengths = sorted({len(row) for row in rows})
        if len(lengths) > 1:
            raise InputError(f"texts of {lengths[0]} to {lengths[-1]} tokens make no batch: give them one at a time")
        return torch.tensor(rows, dtype=torch.long)

    def to_single_token(self, token) -> int:
        """The id of a text that is one token; an id stays as it is."""
        if isinstance(token, int):
            return token
        if not isinstance(token, str):
            raise InputError(f"give a token id or a text, not {token!r}")
        ids = self._tokenised([token], prepend_bos=False)[0].tolist()
        if len(ids) != 1:
            raise InputError(f"{token!r} is {len(ids)} tokens, not one")
        return ids[0]

    def tokens_to_residual_directions(self, tokens) -> Float[torch.Tensor, "*tokens d_model"]:
        """The columns of W_U: a stream along one raises that token's logit most."""
        ids = tokens if isinstance(tokens, torch.Tensor) else torch.tensor(self.to_single_token(tokens))
        if not 0 <= int(ids.min()) <= int(ids.max()) < self.cfg.d_vocab_out:
            raise InputError(f"tokens {int(ids.min())} to {int(ids.max())} must lie in [0, {self.cfg.d_vocab_out})")
        if ids.numel() == 1:  # TransformerLens answers one token with one bare direction
            ids = ids.reshape(())
        return self.W_U.T[ids.to(self.W_U.device)]

    # Weights ------------------------------------------------------------------------------------

    def tl_parameters(self) -> dict[str, torch.Tensor]:
        """Parameters by name, keys and values repeated per query head: SVDInterpreter looks heads up so."""
        share = self.cfg.n_heads // self.cfg.n_key_value_heads
        grouped = (".W_K", ".W_V", ".b_K", ".b_V")
        return {
            name: p.repeat_interleave(share, 0) if share > 1 and name.endswith(grouped) else p
            for name, p in self.named_parameters()
        }

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[torch.Tensor, " d_model"]:
        """Sum of b_O (and b_out) of the layers before `layer`; with `mlp_input`, of all that its MLP reads.

        Raises:
            InputError: what layers write is normalised before it is added, so their biases are not summed.
        """
        if self.cfg.use_normalization_before_and_after:
            raise InputError(
                "accumulated_bias does not apply with use_normalization_before_and_after=True: biases are not summed"
            )
        mlp_input = mlp_input and not self.cfg.parallel_attn_mlp
        total = torch.zeros(self.cfg.d_model, dtype=self.cfg.dtype, device=self.cfg.device)
        for block in self.blocks[:layer]:
            total = total + block.attn.b_O
            if include_mlp_biases and block.mlp is not None:
                total = total + block.mlp.b_out
        return total + self.blocks[layer].attn.b_O if mlp_input else total

    @property
    def W_E(self) -> Float[torch.Tensor, "d_vocab d_model"]:
        return self.embed.W_E

    @property
    def W_U(self) -> Float[torch.Tensor, "d_model d_vocab_out"]:
        return self.unembed.W_U

    @property
    def b_U(self) -> Float[torch.Tensor, " d_vocab_out"]:
        return self.unembed.b_U

    @property
    def W_pos(self) -> Float[torch.Tensor, "n_ctx d_model"]:
        if not hasattr(self.pos_embed, "W_pos"):
            raise InputError(f"position={self.cfg.position} has no table W_pos")
        return self.pos_embed.W_pos

    def _stack(self, part: str, name: str) -> torch.Tensor:
        return torch.stack([getattr(getattr(block, part), name) for block in self.blocks])

    W_Q = property(lambda self: self._stack("attn", "W_Q"), doc="(layer, head, d_model, d_head)")
    W_K = property(lambda self: self._stack("attn", "W_K"), doc="(layer, kv_head, d_model, d_head)")
    W_V = property(lambda self: self._stack("attn", "W_V"), doc="(layer, kv_head, d_model, d_head)")
    W_O = property(lambda self: self._stack("attn", "W_O"), doc="(layer, head, d_head, d_model)")
    b_Q = property(lambda self: self._stack("attn", "b_Q"), doc="(layer, head, d_head)")
    b_K = property(lambda self: self._stack("attn", "b_K"), doc="(layer, kv_head, d_head)")
    b_V = property(lambda self: self._stack("attn", "b_V"), doc="(layer, kv_head, d_head)")
    b_O = property(lambda self: self._stack("attn", "b_O"), doc="(layer, d_model)")
    W_in = property(lambda self: self._stack("mlp", "W_in"), doc="(layer, d_model, d_mlp)")
    W_out = property(lambda self: self._stack("mlp", "W_out"), doc="(layer, d_mlp, d_model)")


def _translate_classic(model, state_dict, *_) -> None:
    """Drop a classic state dict's buffers; its grouped-query `_W_K` is our `W_K`.  Strictness does the rest."""
    for key in list(state_dict):
        if _CLASSIC_BUFFER.search(key):
            del state_dict[key]
        elif re.search(r"\.attn\._[Wb]_[KV]$", key):
            state_dict[key.replace("attn._", "attn.")] = state_dict.pop(key)
