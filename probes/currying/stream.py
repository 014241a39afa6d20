"""A batch of texts on its way through a model, one layer at a time.

Closed forms go up the layers in turn: what a layer should do is solved from what the edited layers below really give
it.  `look` runs the layer at hand and shows what happens there; an edit of its weights may follow; `advance` goes on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

INPUTS = ("query_input", "key_input", "value_input")  # what attention reads, after the norm


class Stream:
    """The residual stream of texts of the same length, before the layer at hand.

    Args:
        past: makes a fresh copy of the cached keys and values that stand before the texts.
        visible: False where a position is hidden from everybody.
        skipped: rows at the front that nobody asks for.
    """

    def __init__(
        self,
        model: Any,
        tokens: Int[Tensor, "batch pos"],
        *,
        past: Callable[[], Any] | None = None,
        visible: Bool[Tensor, "batch pos"] | None = None,
        skipped: int = 0,
    ):
        self.model, self.layer, self.skipped = model, 0, skipped
        self._past, self._visible = past, visible
        self._entrance: dict[str, Any] = {"tokens": tokens}
        self._next: Tensor | None = None

    @torch.no_grad()
    def look(self, wanted: Sequence[str]) -> dict[str, Tensor]:
        """Activations of the layer at hand, by what follows "blocks.3." in their hook's name, all rows.

        The names in INPUTS are there too: what the query, key and value weights are multiplied with.
        """
        found: dict[str, Tensor] = {}

        def keep(value: Tensor, hook: Any) -> None:
            found[hook.name.split(".", 2)[2]] = value

        def inputs(module: Any, given: tuple[Tensor, ...]) -> None:
            found.update(zip(INPUTS, given, strict=True))

        handle = self.model.blocks[self.layer].attn.register_forward_pre_hook(inputs)
        try:
            with self.model.hooks(fwd_hooks=[(f"blocks.{self.layer}.{name}", keep) for name in wanted]):
                self._next = self._run()
        finally:
            handle.remove()
        return found

    @torch.no_grad()
    def advance(self, edited: bool = False) -> None:
        """Pass the layer at hand: as it was last looked at, or once more if its weights were edited since."""
        if edited or self._next is None:
            self._next = self._run()
        self._entrance = {"residual": self._next}
        self.layer, self._next = self.layer + 1, None

    def _run(self) -> Tensor:
        given = {"start_at_layer": self.layer, "stop_at_layer": self.layer + 1, "attention_mask": self._visible}
        if self._past is not None:
            given["past"] = self._past()
        return self.model(**self._entrance, **given)
