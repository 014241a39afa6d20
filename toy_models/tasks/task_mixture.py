"""A mixture of tasks: texts that apply one of a few functions to symbol after symbol, and repeated random blocks.

    0  3 27  9 18  5 30  2 ?      few-shot: x f(x) x f(x) ... x, all by the same f; asked is f of the last x
    0  7 25  4  7 25  4  7 ...    blocks: `repeated_blocks` over the same symbols

Inputs and outputs are two halves of one vocabulary, and the functions are fixed one-to-one maps from the first to the
second.  No input comes twice in a text, so that no answer stands anywhere before it is asked: copying cannot give it.
No two functions agree on any input, so that one example tells which function it is, and without examples the right
one of `n_functions` answers is a guess.

Source: Todd et al. 2023, arXiv:2310.15213, for prompts of examples and for examples with shuffled answers; the finite
family of one-to-one maps is this project's.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int

from toy_models.errors import ConfigError
from toy_models.seeding import generator as stream
from toy_models.tasks import Batch
from toy_models.tasks.repeated_blocks import BOS, RepeatedBlocks


@dataclass(frozen=True)
class TaskMixture:
    """Args: n_functions: how many;  n_symbols: inputs 1 to n_symbols, and as many outputs behind them;  n_ctx: BOS
    included; an even number, so that a few-shot text ends on an input;  shortest, longest, held_out: the periods, as
    in `repeated_blocks`;  share: of few-shot texts among all;  function_seed: which functions."""

    n_functions: int = 8
    n_symbols: int = 32
    n_ctx: int = 24
    shortest: int = 3
    longest: int = 10
    held_out: tuple[int, ...] = (5, 8)
    share: float = 0.5
    function_seed: int = 0

    def __post_init__(self):
        if not 2 <= self.n_functions <= self.n_symbols:
            raise ConfigError(
                f"n_functions={self.n_functions} must lie in [2, n_symbols={self.n_symbols}]: "
                f"more functions than symbols must agree somewhere"
            )
        if self.n_ctx % 2 or not 4 <= self.n_ctx <= 2 * self.n_symbols:
            raise ConfigError(
                f"n_ctx={self.n_ctx} must be even and lie in [4, {2 * self.n_symbols}]: "
                f"a text holds n_ctx / 2 distinct inputs out of n_symbols={self.n_symbols}"
            )
        if not 0 < self.share < 1:
            raise ConfigError(f"share={self.share} must lie between 0 and 1, so that both kinds of texts come")
        self.blocks  # noqa: B018  (refuses periods that do not fit)

    @property
    def d_vocab(self) -> int:
        """BOS, the inputs and the outputs."""
        return 1 + 2 * self.n_symbols

    @property
    def n_examples(self) -> int:
        """Examples before the last question of a few-shot text."""
        return self.n_ctx // 2 - 1

    @property
    def elimination(self) -> float:
        """Accuracy, at the last question, of a guess among those of the `n_functions` possible answers that have not
        come yet: nothing is known of the function but that its answers are distinct.

        The right one is left over for sure; h of the T - 1 others are with the probability
        C(T - 1, h) C(n - T, e - (T - 1 - h)) / C(n - 1, e), n symbols and e examples.
        """
        n, wrong, seen = self.n_symbols, self.n_functions - 1, self.n_examples
        ways = [math.comb(wrong, h) * math.comb(n - 1 - wrong, seen - wrong + h) if seen + h >= wrong else 0
                for h in range(wrong + 1)]  # fmt: skip
        return sum(way / (1 + h) for h, way in enumerate(ways)) / math.comb(n - 1, seen)

    @property
    def blocks(self) -> RepeatedBlocks:
        """The second kind of texts alone."""
        return RepeatedBlocks(self.d_vocab, self.n_ctx, self.shortest, self.longest, self.held_out)

    @property
    def functions(self) -> Int[torch.Tensor, "function symbol"]:
        """The output, a token, of input token `symbol + 1`: rows of a cyclic Latin square in a random order."""
        order, inputs, outputs = (
            torch.randperm(self.n_symbols, generator=stream(self.function_seed, "functions", word))
            for word in ("order", "inputs", "outputs")
        )
        rows = order[: self.n_functions, None] + inputs[None, :]
        return outputs[rows % self.n_symbols] + 1 + self.n_symbols

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts, each few-shot with probability `share`.  Blocks are scored throughout, their first copy as well: the
        loss early in them is then that of a model which knows that nothing tells, and late minus early loss a gain."""
        few = torch.rand(n, 1, generator=generator) < self.share
        one, other = self.few_shot(n, generator), self.blocks.sample(n, generator)
        return Batch(
            torch.where(few, one.tokens, other.tokens),
            torch.where(few, one.targets, other.targets),
            one.scored | ~few,
        )

    def few_shot(self, n: int, generator: torch.Generator, function: int | None = None) -> Batch:
        """n few-shot texts of random functions, or of the one given.  Scored are all answers but the first, which
        nothing tells; the last target answers the question that a text ends with.

        Raises:
            ConfigError: there is no such function.
        """
        if function is not None and not 0 <= function < self.n_functions:
            raise ConfigError(f"function={function} must lie in [0, n_functions={self.n_functions})")
        which = torch.randint(self.n_functions, (n,), generator=generator)
        if function is not None:
            which = torch.full_like(which, function)
        symbols = torch.rand(n, self.n_symbols, generator=generator).argsort(-1)[:, : self.n_ctx // 2]
        answers = self.functions[which[:, None], symbols]
        text = torch.stack([symbols + 1, answers], dim=-1).flatten(1)
        tokens = torch.cat([torch.full((n, 1), BOS), text[:, :-1]], dim=1)
        position = torch.arange(self.n_ctx).expand(n, -1)
        return Batch(tokens, text, (position % 2 == 1) & (position > 1))


def shuffled(tokens: Int[torch.Tensor, "batch pos"], generator: torch.Generator) -> Int[torch.Tensor, "batch pos"]:
    """Few-shot texts whose examples have exchanged their answers in one random cycle: none keeps its own.

    Raises:
        ConfigError: fewer than two examples have nothing to exchange.
    """
    n, examples = len(tokens), tokens.shape[1] // 2 - 1
    if examples < 2:
        raise ConfigError(f"a text of {tokens.shape[1]} tokens has {examples} examples: to shuffle, give at least 2")
    cycle = torch.rand(n, examples, generator=generator).argsort(-1)
    answers = tokens[:, 2:-1:2]
    moved = torch.empty_like(answers).scatter(-1, cycle, answers.gather(-1, cycle.roll(1, -1)))
    new = tokens.clone()
    new[:, 2:-1:2] = moved
    return new
