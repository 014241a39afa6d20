"""Paths: how much of the answer travels from one head straight into the queries, keys or values of others?

Head S (the sender) writes into the stream; heads R (the receivers) read it, each as query, key or value.  On
the corrupted text, S gets its clean output, and every other head between S and R keeps its corrupted one: so
the receivers' q, k or v change by what came along the direct path.  In a second corrupted run these q, k or v
are put in, and

    effect    the metric of that run                                               in its units
    recovery  (effect - m(corrupt)) / (m(clean) - m(corrupt)), of means over texts  0 as corrupt, 1 as clean

The direct path runs along the residual stream.  MLPs on the way stay as they were, too; with `through_mlps`
they may carry it.

Sources: Wang et al. 2022, arXiv:2211.00593, section 3.1 (MLPs recomputed); Goldowsky-Dill et al. 2023,
arXiv:2304.05969, section 2 (every edge apart).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from probes.contrast import Metric, check_texts, ends, recovered, score, within
from probes.errors import ProbeInputError
from probes.model import HookedModel, cached, check_heads

Receiver = tuple[int, int, str]  # layer, head, and "q", "k" or "v"


@dataclass(frozen=True)
class PathPatching:
    """The metric with the path patched, per text, and the share that it recovers."""

    effect: Float[torch.Tensor, " batch"]
    recovery: Float[torch.Tensor, ""]
    clean: Float[torch.Tensor, " batch"]
    corrupt: Float[torch.Tensor, " batch"]


@torch.no_grad()
def path_patch(
    model: HookedModel,
    clean: Int[torch.Tensor, "batch pos"],
    corrupt: Int[torch.Tensor, "batch pos"],
    metric: Metric,
    sender: tuple[int, int],
    receivers: Sequence[Receiver],
    *,
    through_mlps: bool = False,
) -> PathPatching:
    """Patch the direct path from a sender (layer, head) into receivers (layer, head, "q" | "k" | "v").

    The receivers of one call are patched together.  Under grouped-query attention the head of a k or v counts
    key-value heads.  MLPs can be held where the model has `blocks.{l}.hook_mlp_out`.

    Raises:
        ProbeInputError: a head out of range, a receiver that does not lie after the sender, texts of different
            shape, a model without the hooks, a metric that is not one number per text or tells nothing apart.
    """
    check_texts(clean, corrupt)
    check_heads(model, [sender])
    check_receivers(model, sender, receivers)
    layer, head = sender
    at_sender, between = f"blocks.{layer}.attn.hook_z", range(layer + 1, max(to[0] for to in receivers))
    held = [f"blocks.{later}.attn.hook_z" for later in between]
    mlps = [] if through_mlps else [f"blocks.{later}.hook_mlp_out" for later in (layer, *between)]
    reads: dict[str, list[int]] = {}
    for to, at, letter in receivers:
        reads.setdefault(f"blocks.{to}.attn.hook_{letter}", []).append(at)

    clean_logits, source = cached(model, clean, [at_sender])
    corrupt_logits, kept = cached(model, corrupt, [*held, *reads], optional=mlps)
    apart = ends(metric, clean_logits, corrupt_logits)
    for to, at, letter in receivers:
        within(f"head of receiver ({to}, {at}, {letter!r})", at, kept[f"blocks.{to}.attn.hook_{letter}"].shape[2])

    def send(x, hook):
        x = x.clone()
        x[:, :, head] = source[at_sender][:, :, head]
        return x

    hold = [(name, _replace(kept[name])) for name in (*held, *mlps) if name in kept]
    with model.hooks(fwd_hooks=[(at_sender, send), *hold]):
        _, arrived = cached(model, corrupt, list(reads))
    inputs = [(name, _receive(arrived[name], heads)) for name, heads in reads.items()]
    with model.hooks(fwd_hooks=inputs):
        effect = score(metric, model(corrupt))
    return PathPatching(effect, recovered(effect, *apart), *apart)


def check_receivers(model: HookedModel, sender: tuple[int, int], receivers: Sequence[Receiver]) -> None:
    """Raise ProbeInputError unless every receiver reads q, k or v in a layer after the sender's."""
    if not receivers:
        raise ProbeInputError("receivers is empty: name at least one (layer, head, 'q' | 'k' | 'v')")
    for layer, head, letter in receivers:
        if letter not in ("q", "k", "v"):
            raise ProbeInputError(f"receiver ({layer}, {head}, {letter!r}) must read 'q', 'k' or 'v'")
        if not sender[0] < layer < model.cfg.n_layers:
            raise ProbeInputError(
                f"receiver ({layer}, {head}, {letter!r}) must lie after the sender {tuple(sender)}: "
                f"its layer in [{sender[0] + 1}, {model.cfg.n_layers})"
            )


def _replace(value: torch.Tensor):
    return lambda x, hook: value.clone()


def _receive(value: torch.Tensor, heads: list[int]):
    def receive(x, hook):
        x = x.clone()
        x[:, :, heads] = value[:, :, heads]
        return x

    return receive
