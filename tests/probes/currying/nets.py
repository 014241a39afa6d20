"""Models that the methods of currying are tried on, random and with a known answer."""

import inspect
import pkgutil

import torch

from probes.currying import NAMES, uniform_queries
from tests.probes.models import ours
from toy_models import Transformer, TransformerConfig
from toy_models.positions.rope import Rope
from toy_models.positions.rope_scaling import YarnScaling
from toy_models.seeding import generator

BOS = 8
# Every part that a method has to get right, in few configurations.
KINDS = {
    "rope, RMS, gated": {"position": "rope", "normalization_type": "RMS", "gated_mlp": True, "act_fn": "silu"},
    "grouped": {"position": "rope", "normalization_type": "RMS", "n_heads": 4, "d_head": 4, "n_key_value_heads": 2},
    "stretched rope": {
        "position": Rope(scaling=YarnScaling(factor=8.0, original_n_ctx=8)),
        "normalization_type": "RMS",
    },
    "learned, LN": {"position": "learned"},
    "no positions, attention only": {"position": "none", "normalization_type": None, "d_mlp": 0},
    "alibi, parallel": {"position": "alibi", "parallel_attn_mlp": True},
    "relative, post-norm": {"position": "relative", "norm_position": "post"},
    "shortformer, smeared": {"position": "shortformer", "smeared_keys": True},
}


def net(kind: str = "rope, RMS, gated", **options) -> Transformer:
    """Three random layers, float64, with a BOS; every gain and bias is random too."""
    return ours(**{"bos_id": BOS, "n_ctx": 32, **KINDS[kind], **options})


def home(method: str, kind: str = "rope, RMS, gated") -> Transformer:
    """`net(kind)`, or the nearest model that meets what the method asks of one."""
    bare = "no positions, attention only"
    if method == "key_grouping":
        return net(bare, n_layers=1, d_head=8)
    return net(kind, d_mlp=20) if kind == bare and method in ("token_patch", "shared_patch") else net(kind)


def brief(method: str) -> dict[str, int]:
    """Options that keep a method which descends short: what it finds is not asked."""
    function = pkgutil.resolve_name(NAMES[method])
    return {"steps": 2} if "steps" in inspect.signature(function).parameters else {}


def context(n: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randint(BOS, (n,), generator=generator(seed, "context"))


def queries(model: Transformer, n: int = 24, length: int = 5, seed: int = 0) -> torch.Tensor:
    return uniform_queries(model, n, length, generator(seed, "queries"))


@torch.no_grad()
def constant_queries(n_layers: int = 1, seed: int = 0) -> Transformer:
    """Queries that are the same for every token: W_Q reads a coordinate that is always 1, and keeps it so.

    The stream is [token one-hot | 1 | what heads write], so that a direction exists that BOS alone has.
    """
    d_vocab, written = BOS + 1, 6
    d_model = d_vocab + 1 + written
    options = {"position": "none", "normalization_type": None, "d_mlp": 0, "d_head": 4, "dtype": "float64"}
    config = TransformerConfig(
        n_layers=n_layers, n_heads=2, d_model=d_model, d_vocab=d_vocab, n_ctx=64, bos_id=BOS, **options
    )
    model = Transformer(config, seed=seed)
    for name, weight in model.named_parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator(seed, name), dtype=torch.float64) / 2)
    model.W_E.zero_()
    model.W_E[:, :d_vocab] = torch.eye(d_vocab)
    model.W_E[:, d_vocab] = 1
    for block in model.blocks:
        block.attn.W_Q[:, torch.arange(d_model) != d_vocab] = 0
        block.attn.W_O[:, :, : d_vocab + 1] = 0
        block.attn.b_O[: d_vocab + 1] = 0
    return model


def full(model: Transformer, words: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """BOS, the context and the query in one text, as a forward pass without any cache takes it."""
    first = torch.cat([torch.tensor([BOS]), words]).expand(len(asked), -1)
    return torch.cat([first, asked], dim=1)
