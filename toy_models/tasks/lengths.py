"""Texts of many lengths with a question behind them: what the counting, copying and deciding tasks share.

    0  7 7 7 4  ?            length 4: BOS, the text, the question; the answer is the target at the question
    0  7 4  ?  0 0           length 2, in the same batch: padded behind the question, where nothing is scored

The padding is BOS again.  A causal model never looks at it; a model that sees both ways must be given texts of one
length, `task.at(length)`.
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int

from toy_models.errors import ConfigError
from toy_models.tasks import Batch

BOS = 0


class ManyLengths:
    """What a frozen dataclass with the fields `shortest` and `longest` has in common with others: texts of shortest to
    longest symbols, one question behind."""

    shortest: int
    longest: int

    @property
    def n_ctx(self) -> int:
        """BOS, the longest text, the question."""
        return 2 + self.longest

    def at(self, length: int) -> "ManyLengths":
        """The same task at one length."""
        return replace(self, shortest=length, longest=length)


def check(shortest: Any, longest: Any, least: int = 1) -> None:
    """Refuse a range of lengths that no text can have.

    Raises:
        ConfigError: not least <= shortest <= longest, all whole numbers.
    """
    if type(shortest) is not int or type(longest) is not int or not least <= shortest <= longest:
        raise ConfigError(
            f"shortest={shortest!r} and longest={longest!r} must be whole numbers, {least} <= shortest <= longest"
        )


def draw(shortest: int, longest: int, n: int, generator: torch.Generator) -> Int[torch.Tensor, " n"]:
    """n lengths, all from shortest to longest equally likely."""
    return torch.randint(shortest, longest + 1, (n,), generator=generator)


def answered(
    texts: Int[torch.Tensor, "batch longest"],
    lengths: Int[torch.Tensor, " batch"],
    answers: Int[torch.Tensor, " batch"],
    question: int,
) -> Batch:
    """BOS, the first `lengths` tokens of each text, the question; scored at the question alone."""
    longest = int(lengths.max())
    place = torch.arange(longest + 1)
    bodies = torch.nn.functional.pad(texts[:, :longest], (0, 1))
    asked = place == lengths[:, None]
    bodies = bodies.masked_fill(place > lengths[:, None], BOS).masked_fill(asked, question)
    first = torch.zeros(len(texts), 1, dtype=torch.long)
    scored = torch.cat([first.bool(), asked], 1)
    tokens = torch.cat([first + BOS, bodies], 1)
    return Batch(tokens, torch.where(scored, answers[:, None], torch.zeros_like(tokens)), scored)
