"""What a probe needs of a model: TransformerLens hooks, and a count of layers."""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int

from probes import names
from probes.errors import ProbeInputError


@runtime_checkable
class HookedModel(Protocol):
    """Our Transformer, a TransformerBridge, or any HookedRootModule with a `cfg.n_layers`."""

    cfg: Any

    def run_with_cache(self, *args: Any, **kwargs: Any) -> Any: ...


@torch.no_grad()
def patterns(model: HookedModel, tokens: Int[torch.Tensor, "batch pos"]) -> list[Float[torch.Tensor, "..."]]:
    """The attention pattern of every layer, each (batch, head, query, key), from one forward pass.

    Raises:
        ProbeInputError: the model has no hook of that name, or it did not fire.
    """
    wanted = [names.pattern(layer) for layer in range(model.cfg.n_layers)]
    _, cache = model.run_with_cache(tokens, names_filter=wanted)
    missing = [name for name in wanted if name not in cache]
    if missing:
        raise ProbeInputError(f"the model has no hook {missing[0]}: a probe of attention needs it in every layer")
    return [cache[name] for name in wanted]
