"""What is measured of a model that reads trigger texts."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float

from probes.sinks import EPSILON, sink_rate, sinks
from toy_models import Transformer
from toy_models.tasks.trigger import Triggered


def reader(model: Transformer, batch: Triggered) -> tuple[Transformer, torch.Tensor]:
    """The same layers with the vectors of the batch as vocabulary, and their ids: probes read tokens."""
    rows = batch.tokens.flatten(0, 1)
    twin = Transformer(replace(model.cfg, d_vocab=len(rows), d_vocab_out=1), seed=None)
    twin.blocks.load_state_dict(model.blocks.state_dict())
    with torch.no_grad():
        twin.embed.W_E.copy_(rows)
    return twin, torch.arange(len(rows), device=rows.device).view(batch.tokens.shape[:2])


@torch.no_grad()
def measure(model: Transformer, batch: Triggered) -> tuple[dict[str, float], Float[torch.Tensor, "query key"]]:
    """One row of numbers, and the mean pattern of the head that weighs the first token most at ordinary tokens.

    The pattern is over the texts whose trigger stands in the middle.  Columns as `sink_necessity.COLUMNS` has them.
    """
    twin, ids = reader(model, batch)
    layers, at = range(model.cfg.n_layers), batch.is_trigger
    other = ~at
    other[:, 0] = False
    _, cache = twin.run_with_cache(ids)
    patterns = torch.cat([cache["pattern", layer] for layer in layers], 1)  # batch, layer and head, query, key
    mean = patterns[..., 0].movedim(1, 0)[:, other].mean(1)
    head = int(mean.argmax())
    chosen, found = patterns[:, head], sinks(twin, ids)
    one = tuple(divmod(head, model.cfg.n_heads))
    row = _errors(twin, ids, batch, other) | _stream(cache["resid_post", layers[-1]])
    row |= {
        "first_other": mean[head].item(),
        "first_trigger": chosen[at][:, 0].mean().item(),
        "first_most": max(patterns[other[:, i], :, i, 0].mean(0).max().item() for i in range(1, other.shape[1])),
        "total_other": chosen[other].sum(-1).mean().item(),
        "mass": found.mass.mean().item(),
        **{f"rate_{name}": sink_rate(found.mass, epsilon) for name, epsilon in EPSILON.items()},
        "carried": found.carried[one].item(),
        "value_ratio": found.value_ratio[one].item(),
        "massive": found.massive[:, -1].mean().item(),
    }
    row |= _virtual(twin, ids, other, at, head) | _gate(cache, other, at, one)
    return row, chosen[at[:, at.shape[1] // 2]].mean(0)


def _errors(twin: Transformer, ids, batch: Triggered, other: Bool[torch.Tensor, "batch pos"]) -> dict[str, float]:
    """Of the model as it is, and of one that cannot see the first token from the others."""
    n_layers = twin.cfg.n_layers

    def hidden(scores, hook):
        seen = scores.clone()
        seen[:, :, 1:, 0] = -torch.inf
        return seen

    hooks = [(f"blocks.{layer}.attn.hook_attn_scores", hidden) for layer in range(n_layers)]
    row = {}
    for prefix, added in (("", []), ("hidden_", hooks)):
        written = twin.run_with_hooks(ids, stop_at_layer=n_layers, fwd_hooks=added) - batch.tokens
        error = written - batch.targets
        row[f"{prefix}error_other"] = error[other].square().mean().item()
        row[f"{prefix}error_trigger"] = error[batch.is_trigger].square().mean().item()
        row[f"{prefix}worst"] = error[:, 1:].abs().max().item()
    return row


def _stream(x: Float[torch.Tensor, "batch pos d_model"]) -> dict[str, float]:
    """Share of the largest direction in each text's energy, and its bound by the first token's."""
    x = x.double()
    energy = x.square().sum(-1)
    c = energy[:, 0] / energy[:, 1:].sum(1)
    along = (x[:, 1:] @ x[:, 0, :, None])[..., 0].square().sum(1) / energy[:, 0]  # energy of the others along the first
    alpha = along / energy[:, 1:].sum(1)
    bound = (c + alpha) / (c + 1)
    top = torch.linalg.svdvals(x)[:, 0].square() / energy.sum(1)
    return {"top": top.mean().item(), "bound": bound.mean().item(), "slack": (top - bound).min().item()}


def _virtual(twin: Transformer, ids, other, at, head: int) -> dict[str, float]:
    """Mass of the virtual key; NaN where the normaliser has none."""
    if not twin.cfg.normaliser.virtual_key:
        return {"virtual_other": float("nan"), "virtual_trigger": float("nan")}
    twin.set_attention("reference")  # many short texts: faster than a fused backend, which goes text by text
    mass = torch.cat([rows.unassigned_mass for rows in twin.attention_statistics(ids)], 1)[:, head]
    return {"virtual_other": mass[other].mean().item(), "virtual_trigger": mass[at].mean().item()}


def _gate(cache, other, at, one: tuple[int, int]) -> dict[str, float]:
    """Mean opening of the head's gate; NaN where there is none."""
    name = f"blocks.{one[0]}.attn.hook_gate"
    if name not in cache:
        return {"gate_other": float("nan"), "gate_trigger": float("nan")}
    gate = cache[name][:, :, one[1]]
    return {"gate_other": gate[other].mean().item(), "gate_trigger": gate[at].mean().item()}
