"""Models at birth, drawn as a theorem about norms has them, and what is measured on one of them.

One head that averages (W_Q = 0), MLPs as wide as the stream with relu, no biases, gains of one, and weights of variance
1 / d_model, so that W_V W_O keeps the expected square of a vector and an MLP halves it; embeddings of variance 1.  The
gradient is that of the loss of one position, as the theorem has it: summed over a batch it would also grow with how
much alike the tokens have become.

Source: Xiong et al. 2020, arXiv:2002.04745, section 3.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float

from probes.position_law import random_position_law
from probes.squashing import constants, path_bound, squashing
from toy_models.config import TransformerConfig
from toy_models.seeding import generator

PRE, POST, RMS, NONE = "pre LN", "post LN", "pre RMS", "no norm"
NORMS = {PRE: ("LN", "pre"), POST: ("LN", "post"), RMS: ("RMS", "pre"), NONE: (None, "pre")}
DRAWN = 0.8  # times d_model^-1/2 is the standard deviation that our models are born with


@dataclass(frozen=True)
class PerLayer:
    """Mean squares over positions and coordinates, and the squared norm of a gradient."""

    stream: Float[torch.Tensor, " layer"]  # behind the layer
    end: Float[torch.Tensor, " layer"]  # the same at the last position
    sum: Float[torch.Tensor, " layer"]  # stream + MLP, before the norm behind it, if there is one
    attention: Float[torch.Tensor, " layer"]  # what attention adds
    mlp: Float[torch.Tensor, " layer"]
    gradient: Float[torch.Tensor, " layer"]  # of the last position's loss by W_out


@torch.no_grad()
def born(norm: str, depth: int, d_model: int, n: int, d_vocab: int, seed: int):
    """A model of `depth` layers with one of the NORMS."""
    from toy_models import Transformer

    kind, position = NORMS[norm]
    size = {"n_layers": depth, "n_heads": 1, "d_model": d_model, "d_mlp": d_model, "d_vocab": d_vocab, "n_ctx": n}
    options = {"act_fn": "relu", "position": "none", "normalization_type": kind, "norm_position": position}
    options |= {"attention": "reference"}  # several gradients share a pass
    model = Transformer(TransformerConfig(**size, **options, eps=1e-12), seed=seed)
    for block in model.blocks:
        block.attn.W_Q.zero_()
        for weight in (block.attn.W_V, block.attn.W_O, block.mlp.W_in, block.mlp.W_out):
            weight.div_(DRAWN)
    model.W_E.mul_(d_model**0.5 / DRAWN)
    model.unembed.W_U.div_(DRAWN)
    return model


def layers(model, texts: int, seed: int) -> PerLayer:
    """Of one draw of the weights, on random texts; the loss is that of a random target at the last position."""
    n, d_vocab, kept = model.cfg.n_ctx, model.cfg.d_vocab, {}
    tokens = torch.randint(d_vocab, (texts, n), generator=generator(seed, "tokens")).to(model.cfg.device)
    targets = torch.randint(d_vocab, (texts,), generator=generator(seed, "targets")).to(model.cfg.device)

    def keep(x, hook):
        kept[hook.name] = x.detach()

    points = ("hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
    with torch.enable_grad(), model.hooks(fwd_hooks=[(lambda name: name.endswith(points), keep)]):
        losses = F.cross_entropy(model(tokens)[:, -1], targets, reduction="none")
        weights = [block.mlp.W_out for block in model.blocks]
        gradients = torch.autograd.grad(losses, weights, torch.eye(texts).to(losses), is_grads_batched=True)
    of = {
        point: torch.stack([kept[f"blocks.{layer}.{point}"] for layer in range(model.cfg.n_layers)]) for point in points
    }

    def square(x):
        return x.double().square().mean((1, 2, 3))

    return PerLayer(
        stream=square(of["hook_resid_post"]),
        end=square(of["hook_resid_post"][:, :, -1:]),
        sum=square(of["hook_resid_mid"] + of["hook_mlp_out"]),
        attention=square(of["hook_attn_out"]),
        mlp=square(of["hook_mlp_out"]),
        gradient=torch.stack([gradient.double().square().sum() / texts for gradient in gradients]),
    )


def hearing(model, seed: int) -> dict[str, float]:
    """What the last token hears of itself and of the first, as shares of the squared sensitivity; the law for it.

    The law takes each layer's gain, 1 over its norm's scale, at the median position; MLPs and norms behind the addition
    act on all positions' paths alike.
    """
    n = model.cfg.n_ctx
    tokens = torch.randint(model.cfg.d_vocab, (1, n), generator=generator(seed, "heard"))
    found = squashing(model, tokens)
    square = found.frobenius[0].double().square()
    gains = _gains(model, tokens)
    law = random_position_law(n, gains).square()
    row = {"own": square[-1] / square.sum(), "first": square[0] / square.sum(), "own_law": law[-1] / law.sum()}
    row = {name: value.item() for name, value in row.items()} | {"last_gain": gains[-1]}
    if model.cfg.norm_position == "post":
        return row
    used = constants(model, tokens)
    bound = path_bound(*used)[0].double()
    held = (found.spectral[0] <= bound * (1 + 1e-5)).double().mean().item()
    own = bound[-1].square() / bound.square().sum()
    return row | {"held": held, "own_bound": own.item(), "final": used.final[0].item()}


@torch.no_grad()
def _gains(model, tokens) -> list[float]:
    if model.cfg.norm_position == "post" or model.cfg.normalization_type is None:
        return [1.0] * model.cfg.n_layers
    cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("ln1.hook_scale"))[1]
    return [1 / cache[f"blocks.{layer}.ln1.hook_scale"].median().item() for layer in range(model.cfg.n_layers)]
