"""Dyck-1: is a text of brackets balanced?

    0  ( ( ) ( ) )  ?        yes
    0  ( ) ) ( ( )  ?        no: as many close as open, but one closes before it was opened
    0  ( ( ( ( ) )  ?        no: four open, two close

Recognition here means membership, one answer at the end, as in Hahn 2020; other papers mean by it the set of tokens
that may come next.  Half of the texts are balanced, drawn uniformly.  The rest are near misses, each one step away from
a balanced text drawn so: one bracket turned over, which leaves the counts two apart, or an outermost pair exchanged,
which leaves them equal and closes one bracket too early.  Both kinds are equally likely, so that neither the final
count nor the lowest depth decides alone.

Sources: Hahn 2020, arXiv:1906.06755; Bhattamishra, Ahuja & Goyal 2020, arXiv:2009.11264 (Dyck-1 by counting);
Dvoretzky & Motzkin 1947, the cycle lemma, for the uniform draw.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int

from toy_models.errors import ConfigError
from toy_models.tasks import Batch
from toy_models.tasks.lengths import ManyLengths, answered, check, draw

OPEN, CLOSE, QUESTION, NO, YES = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class Dyck1(ManyLengths):
    """Args: shortest, longest: brackets in a text, both even; all even lengths between equally likely."""

    shortest: int = 2
    longest: int = 20

    def __post_init__(self):
        check(self.shortest, self.longest, least=2)
        if self.shortest % 2 or self.longest % 2:
            raise ConfigError(
                f"shortest={self.shortest} and longest={self.longest} must be even: balanced brackets come in pairs"
            )

    @property
    def d_vocab(self) -> int:
        """BOS, two brackets, the question, two answers."""
        return YES + 1

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts, scored at the question."""
        lengths = 2 * draw(self.shortest // 2, self.longest // 2, n, generator)
        steps = _balanced(lengths, self.longest, generator)
        kind = torch.randint(4, (n,), generator=generator)  # 0, 1: balanced
        turned = (torch.rand(n, generator=generator) * lengths).long()
        place = torch.arange(self.longest)
        flip = (kind == 2)[:, None] & (place == turned[:, None])
        flip |= (kind == 3)[:, None] & _outermost(steps, generator)
        steps = torch.where(flip, -steps, steps)
        return answered(torch.where(steps > 0, OPEN, CLOSE), lengths, torch.where(kind < 2, YES, NO), QUESTION)


def _balanced(lengths: Int[torch.Tensor, " batch"], longest: int, generator) -> Int[torch.Tensor, "batch longest"]:
    """+1 to open, -1 to close, uniform over the balanced texts of each length; 0 behind.

    Cycle lemma: of the rotations of k openings and k + 1 closings exactly one is a balanced text and one closing more.
    It starts behind the first place where the depth is lowest.
    """
    place, size = torch.arange(longest + 1), lengths[:, None] + 1
    order = torch.rand(len(lengths), longest + 1, generator=generator).masked_fill(place >= size, 2.0).argsort(-1)
    steps = torch.where(order < lengths[:, None] // 2, 1, -1).masked_fill(place >= size, 0)
    depth = steps.cumsum(-1).masked_fill(place >= size, longest + 2)
    start = depth.argmin(-1, keepdim=True) + 1
    turned = steps.gather(1, (place + start) % size)
    return turned[:, :longest].masked_fill(place[:longest] >= lengths[:, None], 0)


def _outermost(steps: Int[torch.Tensor, "batch longest"], generator) -> Bool[torch.Tensor, "batch longest"]:
    """True at the two brackets of one outermost pair of each text, all its pairs equally likely."""
    depth = steps.cumsum(-1)
    opens = (steps > 0) & (depth == 1)
    closes = (steps < 0) & (depth == 0)
    pairs = opens.sum(-1)
    chosen = (torch.rand(len(steps), generator=generator) * pairs).long()[:, None] + 1
    return (opens & (opens.cumsum(-1) == chosen)) | (closes & (closes.cumsum(-1) == chosen))
