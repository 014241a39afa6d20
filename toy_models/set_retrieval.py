"""A net that looks one item up in a set: item encoder, one attention head without positions, class head.

    x_i = MLP(item_i)     y = MLP(query)     score_i = (y W_Q) . (x_i W_K) / sqrt(d_head)
    logits = MLP((sum_i p_i x_i W_V) W_O),    p = normaliser(scores)

It is no `Transformer`: there every position is a query, which costs n^2 scores where this net has n, and its first
layer attends before any MLP has read the items.  The hooks and the head's weights have TransformerLens's names and
layouts, with one query, so that probes of patterns, scores and weights apply.

Source: Velickovic et al. 2024, arXiv:2410.01104, for the parts; widths and initialisation are this project's.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from toy_models.attention import reference
from toy_models.block import ACT_FN
from toy_models.errors import ConfigError, InputError
from toy_models.normalisers.softmax import Softmax
from toy_models.seeding import generator
from toy_models.tasks.item_sets import MaxRetrieval
from toy_models.train import TrainConfig, train


@dataclass(frozen=True, kw_only=True)
class SetRetrievalConfig:
    """Args: n_features: numbers in an item;  d_mlp: width of the hidden layer in each of the three MLPs."""

    n_features: int = 11
    n_classes: int = 10
    d_model: int = 64
    d_mlp: int = 64
    act_fn: str = "gelu"
    device: str = "cpu"

    def __post_init__(self):
        for name in ("n_features", "n_classes", "d_model", "d_mlp"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be 1 or more")
        if self.act_fn not in ACT_FN:
            raise ConfigError(f"act_fn={self.act_fn!r} must be one of {', '.join(ACT_FN)}")

    @property
    def n_layers(self) -> int:
        """One."""
        return 1

    @property
    def n_heads(self) -> int:
        """One."""
        return 1

    @property
    def d_head(self) -> int:
        """The one head is as wide as the stream."""
        return self.d_model


class TwoLayers(nn.Module):
    """act(x W_in + b_in) W_out + b_out."""

    def __init__(self, config: SetRetrievalConfig, d_in: int, d_out: int):
        super().__init__()
        self.act = ACT_FN[config.act_fn]
        self.W_in, self.b_in = _memory(d_in, config.d_mlp), _memory(config.d_mlp)
        self.W_out, self.b_out = _memory(config.d_mlp, d_out), _memory(d_out)

    def forward(self, x: Float[torch.Tensor, "*rows d_in"]) -> Float[torch.Tensor, "*rows d_out"]:
        return self.act(x @ self.W_in + self.b_in) @ self.W_out + self.b_out


class Head(nn.Module):
    """One head; its query is one vector a set, its keys and values are the items."""

    def __init__(self, config: SetRetrievalConfig):
        super().__init__()
        d_model, d_head = config.d_model, config.d_head
        self.W_Q, self.W_K, self.W_V = (_memory(1, d_model, d_head) for _ in range(3))
        self.b_Q, self.b_K, self.b_V = (_memory(1, d_head) for _ in range(3))
        self.W_O, self.b_O = _memory(1, d_head, d_model), _memory(d_model)
        self.normaliser = Softmax()
        self.scale = d_head**-0.5
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()  # batch pos head d_head
        self.hook_attn_scores = HookPoint()  # batch head 1 key
        self.hook_pattern = HookPoint()  # batch head 1 key
        self.hook_z = HookPoint()  # batch 1 head d_head

    def scores(self, query, items) -> Float[torch.Tensor, "batch head 1 key"]:
        """scale * q . k."""
        q = self.hook_q(torch.einsum("bpd,hde->bphe", query, self.W_Q) + self.b_Q)
        k = self.hook_k(torch.einsum("bpd,hde->bphe", items, self.W_K) + self.b_K)
        return self.hook_attn_scores(torch.einsum("bqhe,bkhe->bhqk", q * self.scale, k))

    def values(self, items) -> Float[torch.Tensor, "batch key head d_head"]:
        """What each item brings."""
        return self.hook_v(torch.einsum("bpd,hde->bphe", items, self.W_V) + self.b_V)

    def forward(self, query, items) -> Float[torch.Tensor, "batch 1 d_model"]:
        scores, values = self.scores(query, items), self.values(items)
        visible = torch.ones(1, 1, 1, scores.shape[-1], dtype=torch.bool, device=scores.device)
        return self.out(self.hook_pattern(self.normaliser(scores, visible)), values)

    def out(self, pattern, values) -> Float[torch.Tensor, "batch 1 d_model"]:
        """What the head writes if it looks as `pattern` says."""
        z = self.hook_z(reference.mix(pattern, values))
        return torch.einsum("bphe,hed->bpd", z, self.W_O) + self.b_O


class Block(nn.Module):
    """The one layer."""

    def __init__(self, config: SetRetrievalConfig):
        super().__init__()
        self.attn = Head(config)
        self.hook_attn_out = HookPoint()  # batch 1 d_model

    def forward(self, query, items) -> Float[torch.Tensor, "batch 1 d_model"]:
        return self.hook_attn_out(self.attn(query, items))


class SetRetrieval(HookedRootModule):
    """The net; its weights are normal with variance 1 / (number of inputs), biases zero, each from its own stream."""

    def __init__(self, config: SetRetrievalConfig, seed: int = 0):
        super().__init__()
        self.cfg = config
        self.embed = TwoLayers(config, config.n_features, config.d_model)
        self.embed_query = TwoLayers(config, 1, config.d_model)
        self.hook_embed = HookPoint()  # batch key d_model: the items
        self.hook_embed_query = HookPoint()  # batch 1 d_model
        self.blocks = nn.ModuleList([Block(config)])
        self.unembed = TwoLayers(config, config.d_model, config.n_classes)
        self.reset_parameters(seed)
        self.setup()
        self.to(config.device)

    @torch.no_grad()
    def reset_parameters(self, seed: int) -> None:
        """Draw every weight again, from `seed` and the parameter's own name."""
        for name, param in self.named_parameters():
            if name.rsplit(".", 1)[-1].startswith("W_"):
                drawn = torch.randn(param.shape, generator=generator(seed, "init", name))
                param.copy_(drawn * param.shape[-2] ** -0.5)
            else:
                param.zero_()

    def forward(
        self, tokens: Float[torch.Tensor, "batch item_and_query feature"]
    ) -> Float[torch.Tensor, "batch 1 n_classes"]:
        """Logits of the classes.

        Raises:
            InputError: rows of another width, or no item before the query.
        """
        query, items = self.encode(tokens)
        return self.unembed(self.blocks[0](query, items))

    def encode(
        self, tokens: Float[torch.Tensor, "batch item_and_query feature"]
    ) -> tuple[Float[torch.Tensor, "batch 1 d_model"], Float[torch.Tensor, "batch key d_model"]]:
        """The query's vector and the items', which `blocks[0].attn` reads.

        Raises: as `forward`.
        """
        if tokens.ndim != 3 or tokens.shape[1] < 2 or tokens.shape[2] != self.cfg.n_features:
            raise InputError(
                f"item sets have shape {tuple(tokens.shape)}: they must be (batch, 1 or more items and the query, "
                f"n_features={self.cfg.n_features})"
            )
        query, items = tokens[:, -1:, :1], tokens[:, :-1]
        return self.hook_embed_query(self.embed_query(query)), self.hook_embed(self.embed(items))


def learn(net: SetRetrieval, task: MaxRetrieval, config: TrainConfig, *, seed: int) -> Iterator[tuple[int, float]]:
    """`toy_models.train.train` with weight decay on biases too."""
    optimizer = torch.optim.AdamW(net.parameters(), betas=config.betas, weight_decay=config.weight_decay)
    return train(net, task, config, seed=seed, optimizer=optimizer, show_progress=False)


def _memory(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape))
