"""What a family of checkpoints is: how its options map to ours, and how its tensors map to ours, in both directions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange

from toy_models.config import TransformerConfig
from toy_models.hf.given import Given


@dataclass(frozen=True)
class Entry:
    """One parameter of ours in one tensor of theirs.

    Args:
        ours, theirs: names; "{}" stands for the layer.
        layout: axes of their tensor and of our parameter, in the words of einops.  Where several parameters are fused
            in one tensor, ours begins with an axis "part".
        part: which of the fused ones this is.
        longer: their first axis may go on beyond ours, and is cut (a table of positions).
    """

    ours: str
    theirs: str
    layout: str = "width -> width"
    part: int | None = None
    longer: bool = False

    def at(self, layer: int) -> "Entry":
        """The entry of one layer."""
        ours, theirs = self.ours.format(layer), self.theirs.format(layer)
        return Entry(ours, theirs, self.layout, self.part, self.longer)

    @property
    def rows(self) -> int | None:
        """The axis of our parameter along which their first axis lies, or None where it is split or fused."""
        theirs, ours = (side.split() for side in self.layout.split("->"))
        if theirs[0] not in ours:
            return None
        return ours.index(theirs[0]) - (self.part is not None)

    def ours_of(self, tensor: torch.Tensor, sizes: Mapping[str, int]) -> torch.Tensor:
        """Their tensor in the layout of our parameter: a view."""
        found = rearrange(tensor, self.layout, **self._sizes(sizes))
        return found if self.part is None else found[self.part]

    def _sizes(self, sizes: Mapping[str, int]) -> dict[str, int]:
        named = self.layout.replace("(", " ").replace(")", " ").split()
        return {axis: size for axis, size in sizes.items() if axis in named}


def theirs_of(entries: Sequence[Entry], parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The tensor that these entries share, from our parameters."""
    values = [parameters[entry.ours] for entry in sorted(entries, key=lambda entry: entry.part or 0)]
    return _reversed(entries[0], values[0] if entries[0].part is None else torch.stack(values))


def shape_of(entries: Sequence[Entry], parameters: Mapping[str, torch.Tensor]) -> tuple:
    """The shape of the tensor that these entries share; of the parameters the shapes alone are read."""
    # Not `theirs_of`: to stack tensors without memory torch imports its compiler, which takes seconds.
    value = parameters[entries[0].ours]
    fused = value.expand(len(entries), *value.shape)
    return tuple(_reversed(entries[0], value if entries[0].part is None else fused).shape)


def _reversed(entry: Entry, value: torch.Tensor) -> torch.Tensor:
    theirs, ours = entry.layout.split("->")
    return rearrange(value, f"{ours} -> {theirs}")


@dataclass(frozen=True)
class Biases:
    """Which biases of the attention a checkpoint holds; the others are zero."""

    qkv: bool = False
    output: bool = False


@dataclass(frozen=True)
class Family:
    """One architecture.

    Args:
        architecture, model_type: what config.json calls it.
        prefix: of the tensor names of the body, which a file may leave out.
        options: config.json -> the arguments of TransformerConfig, and the biases that there are.
        entries: config, biases -> the entries outside the layers, and those of a layer.
        buffers: tensors that hold no weights, as a regular expression over names without the prefix.
        able: the values that a field of TransformerConfig may have, where this family can write it.
        refuses: config -> why what passes `able` does not fit all the same, or None.
        holds: biases of a model -> those that the family writes for it, or None where it has no place for them.
        written: config, written biases -> config.json.
        head: the tensor of the unembedding.
    """

    architecture: str
    model_type: str
    prefix: str
    options: Callable[[Given], tuple[dict, Biases]]
    entries: Callable[[TransformerConfig, Biases], tuple[Sequence[Entry], Sequence[Entry]]]
    able: Mapping[str, tuple]
    refuses: Callable[[TransformerConfig], str | None]
    holds: Callable[[Biases], Biases | None]
    written: Callable[[TransformerConfig, Biases], dict]
    buffers: str = r"$^"
    head: str = "lm_head.weight"

    def embedding(self, config: TransformerConfig, biases: Biases) -> str:
        """The tensor of the embedding."""
        return next(entry.theirs for entry in self.entries(config, biases)[0] if entry.ours == "embed.W_E")

    def every_entry(self, config: TransformerConfig, biases: Biases) -> Iterator[Entry]:
        """All entries of a model, layer by layer; a tied unembedding has none."""
        outside, inside = self.entries(config, biases)
        yield from (entry for entry in outside if not (config.tie_word_embeddings and entry.theirs == self.head))
        for layer in range(config.n_layers):
            yield from (entry.at(layer) for entry in inside)


def sizes(config: TransformerConfig) -> dict[str, int]:
    """The lengths of the axes that a layout splits."""
    return {"head": config.n_heads, "kv_head": config.n_key_value_heads, "part": 3}


# What a family can write unless it says otherwise.
PLAIN = {
    **{"causal": (True,), "norm_position": ("pre",), "smeared_keys": (False,), "gated_mlp": (False,)},
    **{"parallel_attn_mlp": (False,), "use_qk_norm": (False,), "use_normalization_before_and_after": (False,)},
    **{"rmsnorm_uses_offset": (False,), "attn_scores_soft_cap": (None,), "output_logits_soft_cap": (None,)},
    **{"embed_scale": (1.0,), "window": (None,)},
}
