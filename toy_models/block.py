"""One layer: norms, attention, MLP, and the block that wires them.  Shapes stand where they change."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import nn
from transformer_lens.FactoredMatrix import FactoredMatrix
from transformer_lens.hook_points import HookPoint

from toy_models.attention import FUSED, Options, RowStatistics, attend, reference
from toy_models.attention.masks import count_visible, visible_keys
from toy_models.attention.options import check
from toy_models.attention.statistics import wide
from toy_models.config import TransformerConfig
from toy_models.errors import InputError
from toy_models.generation import KeyValueCache
from toy_models.norm import HeadNorm, Norm, parameter

ACT_FN = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


def listened(*points: HookPoint) -> bool:
    """Whether anybody has hooked one of these points, in either direction."""
    return any(p._forward_hooks or p._forward_pre_hooks or p._backward_hooks for p in points)


@dataclass(frozen=True)
class AskedStatistics:
    """What is wanted of every layer beside the numbers that each row has, and what the layers found, in order."""

    targets: Int[torch.Tensor, "#batch #head query"] | None = None
    received: bool = False
    found: list[RowStatistics] = field(default_factory=list)


class Attention(nn.Module):
    """Multi-head attention with TransformerLens's weights `[head, d_model, d_head]` and hooks."""

    def __init__(self, config: TransformerConfig, layer: int):
        super().__init__()
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_key_value_heads
        self.causal, self.window, self.scale = config.causal, config.windows[layer], 1 / config.attn_scale
        self.score_cap = config.attn_scores_soft_cap
        self.normaliser, self.backend = config.normaliser, config.attention
        self.fuses = config.normaliser.unfused(config) is None
        self.ran: str | None = None  # the backend of the last forward pass
        d_model, d_head, n_kv = config.d_model, config.d_head, self.n_kv_heads
        self.W_Q, self.b_Q = parameter(config, self.n_heads, d_model, d_head), parameter(config, self.n_heads, d_head)
        self.W_K, self.b_K = parameter(config, n_kv, d_model, d_head), parameter(config, n_kv, d_head)
        self.W_V, self.b_V = parameter(config, n_kv, d_model, d_head), parameter(config, n_kv, d_head)
        self.W_O, self.b_O = parameter(config, self.n_heads, d_head, d_model), parameter(config, d_model)
        self.smear = parameter(config, self.n_kv_heads) if config.smeared_keys else None
        # What the normaliser learns, by name: one number a head.
        self.per_head = nn.ParameterDict({name: parameter(config, self.n_heads) for name in self.normaliser.per_head})
        self.W_gate = parameter(config, self.n_heads, d_model, d_head) if config.gated_attention else None
        self.b_gate = parameter(config, self.n_heads, d_head) if config.gated_attention else None
        self.q_norm = HeadNorm(config) if config.use_qk_norm else None
        self.k_norm = HeadNorm(config) if config.use_qk_norm else None

        self.hook_q_input, self.hook_k_input, self.hook_v_input = HookPoint(), HookPoint(), HookPoint()
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()  # batch pos head d_head
        if config.position.where == "rotation":
            self.hook_rot_q, self.hook_rot_k = HookPoint(), HookPoint()  # batch pos head d_head
        self.hook_attn_scores = HookPoint()  # batch head query key, -inf where hidden
        self.hook_pattern = HookPoint()  # batch head query key
        # batch head query statistic, in the order of STATISTICS, computed when somebody listens; an edit has no effect
        self.hook_row_statistics = HookPoint()
        if config.gated_attention:
            self.hook_gate = HookPoint()  # batch pos head d_head, 0 to 1
        self.hook_z = HookPoint()  # batch pos head d_head, behind the gate
        self.hook_result = HookPoint()  # batch pos head d_model, computed when somebody listens

    @property
    def OV(self) -> FactoredMatrix:
        """W_V W_O per query head, `[head, d_model, d_model]` in factors."""
        return FactoredMatrix(self.W_V.repeat_interleave(self.n_heads // self.n_kv_heads, 0), self.W_O)

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q W_K^T per query head, `[head, d_model, d_model]` in factors."""
        W_K = self.W_K.repeat_interleave(self.n_heads // self.n_kv_heads, 0)
        return FactoredMatrix(self.W_Q, W_K.transpose(-1, -2))

    def forward(
        self,
        query_input: Float[torch.Tensor, "batch pos *head d_model"],
        key_input: Float[torch.Tensor, "batch pos *key_head d_model"],
        value_input: Float[torch.Tensor, "batch pos *value_head d_model"],
        *,
        rotate=None,
        alibi_slopes: Float[torch.Tensor, " head"] | None = None,
        bias: Float[torch.Tensor, "head query key"] | None = None,
        key_padding: Bool[torch.Tensor, "batch key"] | None = None,
        past: KeyValueCache | None = None,
        layer: int = 0,
        asked: AskedStatistics | None = None,
    ) -> Float[torch.Tensor, "batch pos d_model"]:
        q = self.hook_q(project(query_input, self.W_Q, self.b_Q))
        k = self.hook_k(project(key_input, self.W_K, self.b_K))
        v = self.hook_v(project(value_input, self.W_V, self.b_V))
        if past is not None:
            k, v = past.extend(layer, k, v)
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.smear is not None:
            k = self._smeared(k, key_padding)
        if rotate is not None:
            rotate_q, rotate_k = rotate
            q, k = self.hook_rot_q(rotate_q(q)), self.hook_rot_k(rotate_k(k))
        masks = {"causal": self.causal, "window": self.window, "key_padding": key_padding}
        z, statistics = self._attend(q, k, v, asked, masks, alibi_slopes=alibi_slopes, bias=bias)
        if listened(self.hook_row_statistics):
            self.hook_row_statistics(statistics.stacked())
        if asked is not None:
            asked.found.append(statistics)
        if self.W_gate is not None:
            z = z * self.hook_gate(project(query_input, self.W_gate, self.b_gate).sigmoid())
        z = self.hook_z(z)
        if listened(self.hook_result):
            result = self.hook_result(torch.einsum("bphe,hed->bphd", z, self.W_O))
            return result.sum(2) + self.b_O
        return z.flatten(2) @ self.W_O.flatten(0, 1) + self.b_O

    def _smeared(self, k, key_padding):
        """k_j <- s k_j + (1 - s) k_{j-1}; the first key, and one that follows a padded key, stays as it is."""
        share, before = self.smear.sigmoid()[:, None], k[:, :-1]
        if key_padding is not None:
            before = before.where(key_padding[:, :-1, None, None], k[:, 1:])
        return torch.cat([k[:, :1], share * k[:, 1:] + (1 - share) * before], dim=1)

    def _attend(self, q, k, v, asked: AskedStatistics | None, masks, **terms):
        """z, and the row statistics if anybody wants them.

        Fused where nobody looks at the scores or the pattern; otherwise with the hooks between the steps, and
        the statistics are those of the scores and the pattern that the hooks left.
        """
        looked_at = listened(self.hook_attn_scores, self.hook_pattern)
        if looked_at and self.backend in FUSED:
            raise InputError(
                f"attention={self.backend!r} never holds the scores or the pattern that a hook on "
                f"{self._name} asks for: call model.set_attention('auto')"
            )
        terms |= {"scale": self.scale, "score_cap": self.score_cap}
        terms |= {"statistics": asked is not None or listened(self.hook_row_statistics)}
        if terms["statistics"] and not (self.normaliser.sums_to_one or self.normaliser.virtual_key):
            raise InputError(f"{self._name}: row statistics are of weights that sum to 1, not of {self.normaliser}'s")
        if asked is not None:
            terms |= {"targets": asked.targets, "received": asked.received}
        options = Options(**terms)
        try:
            check(q, k, options)
            if self.fuses and not looked_at and self.backend != "reference":
                q, sink_logit = self._softmax_of(q, k.shape[1], masks)
                fused = attend(q, k, v, backend=self.backend, sink_logit=sink_logit, **masks, **terms)
                z, statistics, self.ran = fused
                return z, statistics
        except ValueError as error:  # it knows nothing of models: say where, and how to switch
            switch = "" if self.backend == "auto" else ", by model.set_attention(...)"
            raise InputError(f"{self._name}: {error}{switch}") from None
        self.ran, statistics = "reference", None
        visible = visible_keys(q.shape[1], k.shape[1], device=q.device, **masks)
        scores = self.hook_attn_scores(reference.scores(q, k, visible, options))
        pattern = self.hook_pattern(self.normaliser(scores, visible, **self.per_head))
        if options.statistics:
            judged, sink_logit = self.normaliser.judged(scores, visible, **self.per_head)
            wanted = {"targets": options.targets, "received": options.received}
            statistics = reference.row_statistics(judged, pattern, sink_logit, **wanted)
        return reference.mix(pattern, v), statistics

    def _softmax_of(self, q, n_key: int, masks):
        """Queries, and the virtual key's score, with which a fused softmax does what the normaliser does."""
        if self.normaliser.counts_keys:
            n_keys = count_visible(q.shape[1], n_key, device=q.device, **masks).clamp(min=1).to(wide(q.dtype))
            factor = self.normaliser.factor(n_keys[:, None, :, None], **self.per_head)
            q = (q * factor.transpose(1, 2)).to(q.dtype)
        return q, self.normaliser.sink_logit(q.transpose(1, 2), **self.per_head)

    @property
    def _name(self) -> str:
        return self.hook_pattern.name.rsplit(".", 1)[0]


def project(
    x: Float[torch.Tensor, "batch pos *head d_model"],
    weight: Float[torch.Tensor, "head d_model d_head"],
    bias: Float[torch.Tensor, "head d_head"],
) -> Float[torch.Tensor, "batch pos head d_head"]:
    """x @ W per head.  With a head axis in x, each head reads its own copy."""
    if x.ndim == 4:
        return torch.einsum("bphd,hde->bphe", x, weight) + bias
    n_heads, d_model, d_head = weight.shape
    flat = weight.permute(1, 0, 2).reshape(d_model, n_heads * d_head)
    return (x @ flat).unflatten(-1, (n_heads, d_head)) + bias


class MLP(nn.Module):
    """W_out act(W_in x + b_in) + b_out; gated: W_out (act(W_gate x) * W_in x + b_in) + b_out."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.W_in, self.b_in = parameter(config, config.d_model, config.d_mlp), parameter(config, config.d_mlp)
        self.W_out, self.b_out = parameter(config, config.d_mlp, config.d_model), parameter(config, config.d_model)
        self.W_gate = parameter(config, config.d_model, config.d_mlp) if config.gated_mlp else None
        self.act_fn = ACT_FN[config.act_fn]
        self.hook_pre, self.hook_post = HookPoint(), HookPoint()  # batch pos d_mlp
        if config.gated_mlp:
            self.hook_pre_linear = HookPoint()  # batch pos d_mlp

    def forward(self, x: Float[torch.Tensor, "batch pos d_model"]) -> Float[torch.Tensor, "batch pos d_model"]:
        if self.W_gate is None:
            post = self.act_fn(self.hook_pre(x @ self.W_in + self.b_in))
        else:
            post = self.act_fn(self.hook_pre(x @ self.W_gate)) * self.hook_pre_linear(x @ self.W_in) + self.b_in
        return self.hook_post(post) @ self.W_out + self.b_out


class Block(nn.Module):
    """resid_pre -> + attention -> resid_mid -> + MLP -> resid_post; in parallel both read resid_pre."""

    hook_out_is_single_residual_stream = True  # what TransformerLens's logit lens asks before it reads the stream

    def __init__(self, config: TransformerConfig, layer: int):
        super().__init__()
        self.post_norm, self.parallel = config.norm_position == "post", config.parallel_attn_mlp
        self.ln1 = Norm(config) if config.normalization_type else nn.Identity()
        self.attn = Attention(config, layer)
        after = config.use_normalization_before_and_after
        self.ln1_post = Norm(config) if after else nn.Identity()
        self.mlp = None
        if config.d_mlp:
            self.ln2 = Norm(config) if config.normalization_type else nn.Identity()
            self.mlp = MLP(config)
            self.ln2_post = Norm(config) if after else nn.Identity()
            self.hook_mlp_out = HookPoint()  # batch pos d_model
            if not self.parallel:
                self.hook_resid_mid = HookPoint()  # batch pos d_model
        # One copy of the stream per head, made when somebody listens: batch pos head d_model.
        self.hook_q_input, self.hook_k_input, self.hook_v_input = HookPoint(), HookPoint(), HookPoint()
        self.hook_resid_pre, self.hook_attn_out, self.hook_resid_post = HookPoint(), HookPoint(), HookPoint()

    def forward(
        self,
        resid: Float[torch.Tensor, "batch pos d_model"],
        embed_attention: Float[torch.Tensor, "#batch pos d_model"] | None = None,
        **attention,
    ) -> Float[torch.Tensor, "batch pos d_model"]:
        resid = self.hook_resid_pre(resid)
        written = self.attn(*self._inputs(resid, embed_attention), **attention)
        attn_out = self.hook_attn_out(self.ln1_post(written))
        if self.parallel:
            return self.hook_resid_post(resid + attn_out + self._mlp_out(resid))
        resid = resid + attn_out
        if self.post_norm:
            resid = self.ln1(resid)
        if self.mlp is not None:
            resid = self.hook_resid_mid(resid)
            resid = resid + self._mlp_out(resid)
            if self.post_norm:
                resid = self.ln2(resid)
        return self.hook_resid_post(resid)

    def _mlp_out(self, resid):
        written = self.mlp(resid if self.post_norm else self.ln2(resid))
        return self.hook_mlp_out(self.ln2_post(written))

    def _inputs(self, resid, embed_attention):
        """What queries, keys and values read.

        A hook on `hook_{q,k,v}_input` gets one copy of the stream per head, before the norm, so that an
        edit reaches one head alone.  TransformerLens named the point on the block, and later on `attn`:
        both work, in that order.
        """
        heads = {"q": self.attn.n_heads, "k": self.attn.n_kv_heads, "v": self.attn.n_kv_heads}
        read = {}
        for letter, n_heads in heads.items():
            points = getattr(self, f"hook_{letter}_input"), getattr(self.attn, f"hook_{letter}_input")
            if listened(*points):
                copies = resid.unsqueeze(2).repeat(1, 1, n_heads, 1)
                read[letter] = self._norm1(points[1](points[0](copies)))
        if len(read) < len(heads):  # last, so that a cache holds the norm of the stream itself
            shared = self._norm1(resid)
            read = {letter: read.get(letter, shared) for letter in heads}
        if embed_attention is not None:
            for letter in "qk":
                per_head = read[letter].ndim == 4
                read[letter] = read[letter] + (embed_attention.unsqueeze(2) if per_head else embed_attention)
        return read["q"], read["k"], read["v"]

    def _norm1(self, x):
        return x if self.post_norm else self.ln1(x)
