"""TransformerConfig: what a model is, in TransformerLens's words."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from toy_models import normalisers, positions
from toy_models.attention import FUSED, check_backend
from toy_models.canonical import added
from toy_models.errors import ConfigError
from toy_models.normalisers.spec import Normaliser

ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu")
DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Options of a Transformer.  Combinations that cannot work are refused here, with the values.

    Args:
        d_head: `d_model // n_heads` unless given.
        d_mlp: `4 * d_model` unless given; 0 makes an attention-only model.
        d_vocab_out: width of the logits, `d_vocab` unless given.
        act_fn: relu, gelu, gelu_new (the tanh approximation) or silu; `gated_mlp` multiplies it with a linear arm.
        normalization_type: "LN", "RMS" or None.
        norm_position: "pre" (GPT-2, Llama) or "post" (the original transformer; no final norm then).
        position: a name in `toy_models.positions.NAMES`, or a spec such as `Rope(base=5e5)`.
        normaliser: a name in `toy_models.normalisers.NAMES`, or a spec.
        attention: a backend, or "auto": fused, unless a hook listens on the scores or pattern of the layer.
        n_key_value_heads: fewer than n_heads for grouped-query attention.
        window: a query sees itself and the `window - 1` positions before it (either side, if not causal); a tuple
            has one entry per layer, None for a layer that sees everything.
        attn_scale: scores are *divided* by it, as in TransformerLens; `sqrt(d_head)` unless given.
        smeared_keys: keys mix with their predecessor's, k_j <- s k_j + (1 - s) k_{j-1} with a learned
            s = sigmoid(smear) per key-value head (Olsson et al. 2022, arXiv:2209.11895, section on smeared keys).
        gated_attention: what a head has gathered is multiplied, number by number, with sigmoid(x W_gate + b_gate) of
            what its query reads, before W_O (Qiu et al. 2025, arXiv:2505.06708).
        parallel_attn_mlp: the MLP reads the same stream as attention, not what attention has added to it (GPT-NeoX).
        use_qk_norm: RMSNorm over d_head on every query and key, before they are rotated (Qwen3, Gemma 3).
        use_normalization_before_and_after: what attention and MLP write is normalised as well (Gemma 2).
        rmsnorm_uses_offset: the gain of an RMSNorm is 1 + w (Gemma).
        attn_scores_soft_cap: c turns scaled scores s into c tanh(s / c), nats (Gemma 2).
        output_logits_soft_cap: the same for the logits.
        embed_scale: factor on the rows of W_E (Gemma: sqrt(d_model)).
        tie_word_embeddings: W_U is W_E transposed, in the same memory.
        bos_id: the token that the tasks put in front, if any.
        dtype, device: follow `model.to(...)`.
        use_attn_result, use_split_qkv_input: follow `model.set_use_attn_result(...)` and its twin, which put the
            per-head copies into `run_with_cache`.

    Raises:
        ConfigError: one line with the values and the remedy.
    """

    n_layers: int
    n_heads: int
    d_model: int
    d_vocab: int
    n_ctx: int
    d_head: int | None = None
    d_mlp: int | None = None
    d_vocab_out: int | None = None
    act_fn: str = "gelu"
    gated_mlp: bool = False
    normalization_type: str | None = "LN"
    norm_position: str = "pre"
    eps: float = 1e-5
    position: Any = "learned"
    normaliser: Any = "softmax"
    attention: str = "auto"
    n_key_value_heads: int | None = None
    window: int | tuple | None = None
    causal: bool = True
    attn_scale: float | None = None
    smeared_keys: bool = False
    gated_attention: bool = added(False)
    parallel_attn_mlp: bool = added(False)
    use_qk_norm: bool = added(False)
    use_normalization_before_and_after: bool = added(False)
    rmsnorm_uses_offset: bool = added(False)
    attn_scores_soft_cap: float | None = added(None)
    output_logits_soft_cap: float | None = added(None)
    embed_scale: float = added(1.0)
    tie_word_embeddings: bool = added(False)
    bos_id: int | None = None
    dtype: Any = torch.float32
    device: str = "cpu"
    use_attn_result: bool = False
    use_split_qkv_input: bool = False

    def __post_init__(self):
        for name in ("n_layers", "n_heads", "d_model", "d_vocab", "n_ctx"):
            self._whole(name, at_least=0 if name == "n_layers" else 1)
        if self.d_head is None and self.d_model % self.n_heads:
            raise ConfigError(
                f"d_model={self.d_model} does not split over n_heads={self.n_heads}: change one, or give d_head"
            )
        defaults = {
            "d_head": self.d_model // self.n_heads,
            "d_mlp": 4 * self.d_model,
            "d_vocab_out": self.d_vocab,
            "n_key_value_heads": self.n_heads,
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
            self._whole(name, at_least=0 if name == "d_mlp" else 1)
        if self.attn_scale is None:
            object.__setattr__(self, "attn_scale", math.sqrt(self.d_head))
        self._resolve_specs()
        self._refuse_impossible()

    def _whole(self, name: str, at_least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise ConfigError(f"{name}={value!r} must be a whole number of at least {at_least}")

    def _resolve_specs(self) -> None:
        try:
            check_backend(self.attention)
            for name, room in (("position", positions), ("normaliser", normalisers)):
                if isinstance(getattr(self, name), str):
                    object.__setattr__(self, name, room.find(getattr(self, name))())
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if isinstance(self.dtype, str) and self.dtype in DTYPES:
            object.__setattr__(self, "dtype", DTYPES[self.dtype])
        object.__setattr__(self, "device", str(self.device))

    def _refuse_impossible(self) -> None:
        one_of = {
            "act_fn": ACTIVATIONS,
            "normalization_type": ("LN", "RMS", None),
            "norm_position": ("pre", "post"),
            "dtype": tuple(DTYPES.values()),
        }
        for name, allowed in one_of.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be one of {', '.join(map(str, allowed))}")
        if not isinstance(self.position, positions.PositionSpec):
            raise ConfigError(f"position={self.position!r} must be a name or a spec from toy_models.positions")
        if not isinstance(self.normaliser, Normaliser):
            raise ConfigError(f"normaliser={self.normaliser!r} must be a name or a spec from toy_models.normalisers")
        if isinstance(self.window, list):  # as JSON has it
            object.__setattr__(self, "window", tuple(self.window))
        bad = (self._bad_number(), self._bad_window(), self._bad_combination(), self._bad_wiring())
        for reason in (*bad, self.position.refuses(self)):
            if reason:
                raise ConfigError(reason)

    def _bad_number(self) -> str | None:
        if not (isinstance(self.attn_scale, int | float) and 0 < self.attn_scale < math.inf):
            return f"attn_scale={self.attn_scale!r} must be positive and finite: scores are divided by it"
        for name in ("eps", "embed_scale", "attn_scores_soft_cap", "output_logits_soft_cap"):
            value = getattr(self, name)
            if value is None and name.endswith("soft_cap"):
                continue
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                return f"{name}={value!r} must be positive and finite"
        if self.bos_id is not None and not (type(self.bos_id) is int and 0 <= self.bos_id < self.d_vocab):
            return f"bos_id={self.bos_id!r} must lie in [0, d_vocab={self.d_vocab})"
        return None

    def _bad_window(self) -> str | None:
        if isinstance(self.window, tuple) and len(self.window) != self.n_layers:
            return f"window={self.window} has {len(self.window)} entries: give one for each of n_layers={self.n_layers}"
        for window in self.window if isinstance(self.window, tuple) else (self.window,):
            if window is not None and not (type(window) is int and window >= 1):
                return f"window={self.window!r} must be a whole number of at least 1, None, or one of these per layer"
        return None

    def _bad_wiring(self) -> str | None:
        if self.parallel_attn_mlp and self.attn_only:
            return "parallel_attn_mlp=True needs an MLP: d_mlp=0 makes the model attention-only"
        pre = self.norm_position == "pre"
        for name in ("parallel_attn_mlp", "use_normalization_before_and_after"):
            if getattr(self, name) and not pre:
                return f"{name}=True needs norm_position='pre', not {self.norm_position!r}"
        if self.use_normalization_before_and_after and self.normalization_type is None:
            return "use_normalization_before_and_after=True needs normalization_type 'LN' or 'RMS', not None"
        if self.rmsnorm_uses_offset and self.normalization_type != "RMS":
            return f"rmsnorm_uses_offset=True needs normalization_type='RMS', not {self.normalization_type!r}"
        if self.tie_word_embeddings and self.d_vocab_out != self.d_vocab:
            return (
                f"tie_word_embeddings=True needs d_vocab_out={self.d_vocab_out} to equal d_vocab={self.d_vocab}: "
                f"leave d_vocab_out out"
            )
        return None

    def _bad_combination(self) -> str | None:
        if self.n_heads % self.n_key_value_heads:
            return (
                f"n_heads={self.n_heads} cannot share n_key_value_heads={self.n_key_value_heads} evenly: "
                f"choose a divisor of {self.n_heads}"
            )
        if self.gated_mlp and self.attn_only:
            return "gated_mlp=True needs an MLP: d_mlp=0 makes the model attention-only"
        if self.norm_position == "post" and self.normalization_type is None:
            return "norm_position='post' needs normalization_type 'LN' or 'RMS', not None"
        if self.smeared_keys and not self.causal:
            return "smeared_keys=True needs causal=True: a key mixes with its predecessor's"
        if self.attention in FUSED and (reason := self.normaliser.unfused(self)):
            return (
                f"attention={self.attention!r} cannot run normaliser={self.normaliser}, which {reason}: "
                f"use attention='auto'"
            )
        return None

    @property
    def windows(self):
        """The window of every layer, a tuple of whole numbers and None."""
        return self.window if isinstance(self.window, tuple) else (self.window,) * self.n_layers

    # What TransformerLens's tools read beside the fields.

    @property
    def attn_only(self) -> bool:
        return self.d_mlp == 0

    @property
    def final_rms(self) -> bool:
        return self.normalization_type == "RMS"

    @property
    def default_prepend_bos(self) -> bool:
        return self.bos_id is not None
