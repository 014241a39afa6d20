"""Sets of items, of which one is asked for: what class has the item of the largest priority?

    item     (priority, one-hot class)     priority uniform on [0, 1), or planted;  one of `n_classes` classes
    query    (any number, zeros)           the last row; uniform on [0, 1), and says nothing

`MaxRetrieval` draws every priority alike, so that the largest two lie 1 / (n + 1) apart on average: the more items, the
finer the distinction.  `Needle` keeps the distinction: its target has priority 1, and no other item comes nearer
than `margin`.

A batch is that of every task (`tokens, targets, scored`, so that `task_loss` reads it); but rows of numbers stand where
ids do, one answer belongs to a whole set, and there is no vocabulary: the list of tasks, which promises these, leaves
item sets out.

Source: Velickovic et al. 2024, arXiv:2410.01104, max retrieval.  The needle is this project's.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int

from toy_models.errors import ConfigError
from toy_models.tasks import Batch


@dataclass(frozen=True)
class ItemSets(Batch):
    """Sets of equally many items, the query behind them; one answer a set, always scored."""

    tokens: Float[torch.Tensor, "batch item_and_query feature"]
    targets: Int[torch.Tensor, "batch 1"]
    scored: Bool[torch.Tensor, "batch 1"]

    def to(self, device) -> "ItemSets":
        """The same sets on another device."""
        return ItemSets(self.tokens.to(device), self.targets.to(device), self.scored.to(device))

    @property
    def places(self) -> Int[torch.Tensor, " batch"]:
        """Where the item of the largest priority stands."""
        return self.tokens[:, :-1, 0].argmax(-1)


@dataclass(frozen=True)
class MaxRetrieval:
    """Args: n_classes: how many classes;  shortest, longest: items in a set, all sizes equally likely; one size a
    batch."""

    n_classes: int = 10
    shortest: int = 5
    longest: int = 16

    def __post_init__(self):
        if self.n_classes < 2:
            raise ConfigError(f"n_classes={self.n_classes} must be 2 or more: with one there is nothing to answer")
        if not 1 <= self.shortest <= self.longest:
            raise ConfigError(f"shortest={self.shortest}, longest={self.longest} must satisfy 1 <= shortest <= longest")

    @property
    def n_features(self) -> int:
        """Numbers in an item: the priority and the class."""
        return 1 + self.n_classes

    def at(self, n_items: int) -> "MaxRetrieval":
        """The same task at one size of sets."""
        return replace(self, shortest=n_items, longest=n_items)

    def sample(self, n: int, generator: torch.Generator) -> ItemSets:
        """n sets.  Equal priorities are possible, and rare: the first of them is the answer."""
        size = int(torch.randint(self.shortest, self.longest + 1, (), generator=generator))
        classes = torch.randint(self.n_classes, (n, size), generator=generator)
        tokens = torch.zeros(n, size + 1, self.n_features)
        tokens[:, :-1, 0] = self._priorities(n, size, generator)
        tokens[:, :-1, 1:].scatter_(-1, classes[..., None], 1.0)
        tokens[:, -1, 0] = torch.rand(n, generator=generator)
        largest = tokens[:, :-1, 0].argmax(-1, keepdim=True)
        return ItemSets(tokens, classes.gather(1, largest), torch.ones(n, 1, dtype=torch.bool))

    def _priorities(self, n: int, size: int, generator: torch.Generator) -> Float[torch.Tensor, "batch item"]:
        return torch.rand(n, size, generator=generator)


@dataclass(frozen=True)
class Needle(MaxRetrieval):
    """Args: margin: the other priorities are uniform on [0, 1 - margin); above 0, at most 1."""

    margin: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.margin <= 1:
            raise ConfigError(f"margin={self.margin} must lie in (0, 1]: priorities do")

    def _priorities(self, n: int, size: int, generator: torch.Generator) -> Float[torch.Tensor, "batch item"]:
        priorities = (1 - self.margin) * super()._priorities(n, size, generator)
        place = torch.randint(size, (n, 1), generator=generator)
        return priorities.scatter(1, place, 1.0)
