"""How many ones?  The count is asked behind the text, and told as one token.

    0  1 1 1 1  ?                   ones       4
    0  1 + 1 + 1  ?                 sum        3      its length counts the ones
    0  1 0 1 1 0  ?                 bernoulli  3
    0  c a c d b b  ?               word       2      of c, among other words
    0  1 0 S 1 1 S  ?               separator=2: a separator after every second symbol
    0  1 0 1  ?  #1 #1              scratchpad: #1 #1 #2 are the targets from the question on

The count of ones and of a sum is the length; that of the other kinds is not, unless p or the prior make it so.  With a
prior the count is drawn first, among those that fit into the text, and the ones are placed at random.

A scratchpad holds the running count, one token a symbol, read up to the last but one; it is scored at every step.
Right at every step of the given scratchpad is the same as right when the model writes it by itself, greedily: up to the
first mistake both read the same.

Source: Barbero et al. 2024, arXiv:2406.04267, section 6 and figure 3 (the four kinds), figure 5 (separators).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int

from toy_models.errors import ConfigError
from toy_models.tasks import Batch
from toy_models.tasks.lengths import answered, check, draw

ONES, SUM, BERNOULLI, WORD = KINDS = ("ones", "sum", "bernoulli", "word")
ONE = 1  # token of what is counted; behind it the fillers, the separator, the question and the counts


def uniform(most: int) -> tuple[float, ...]:
    """Prior over the counts 0 to `most`: all equally likely."""
    return (1 / (most + 1),) * (most + 1)


def zipf(most: int, exponent: float = 1.0) -> tuple[float, ...]:
    """Prior over the counts 0 to `most`: P(c) in proportion to (c + 1)^-exponent."""
    return _normalised([(count + 1) ** -exponent for count in range(most + 1)])


def round_numbers(most: int, exponent: float = 1.0, every: int = 10, favour: float = 8.0) -> tuple[float, ...]:
    """The Zipf prior with the positive multiples of `every` `favour` times as likely: roughly how often numbers are
    named (Dehaene and Mehler 1992: frequency falls with size, with peaks at round numbers)."""
    plain = zipf(most, exponent)
    return _normalised([p * (favour if count and count % every == 0 else 1.0) for count, p in enumerate(plain)])


def _normalised(weights: list[float]) -> tuple[float, ...]:
    total = sum(weights)
    return tuple(weight / total for weight in weights)


@dataclass(frozen=True)
class CountSymbols:
    """Args: kind: one of KINDS;  shortest, longest: symbols of a text (of a sum: its ones), all lengths equally likely;
    p: chance of a one where no prior is given;  fillers: other words (kind word);  separator: 0 for none;  most:
    largest count there is a token for, `longest` unless given;  prior: probabilities of the counts 0 to most."""

    kind: str = BERNOULLI
    shortest: int = 1
    longest: int = 24
    p: float = 0.7
    fillers: int = 8
    separator: int = 0
    scratchpad: bool = False
    most: int | None = None
    prior: tuple[float, ...] | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ConfigError(f"kind={self.kind!r} must be one of {', '.join(map(repr, KINDS))}")
        check(self.shortest, self.longest)
        for name, least in (("fillers", 1), ("separator", 0), ("most", 1)):
            value = getattr(self, name)
            if not (name == "most" and value is None) and (type(value) is not int or value < least):
                raise ConfigError(f"{name}={value!r} must be a whole number of at least {least}")
        if not 0 < self.p < 1:
            raise ConfigError(f"p={self.p!r} must lie between 0 and 1")
        if self.prior is None:
            if self.longest > self.largest:
                raise ConfigError(
                    f"a text of longest={self.longest} may hold more ones than there are answers: raise "
                    f"most={self.most}, or give a prior over the counts 0 to {self.most}"
                )
        else:
            self._check_prior()

    def _check_prior(self) -> None:
        if self.kind in (ONES, SUM):
            raise ConfigError(f"kind={self.kind!r} takes no prior: its count is its length")
        if len(self.prior) != self.largest + 1:
            raise ConfigError(
                f"prior has {len(self.prior)} probabilities: give one for each count from 0 to most={self.largest}"
            )
        if not (all(p >= 0 for p in self.prior) and abs(sum(self.prior) - 1) < 1e-6):
            raise ConfigError(f"prior must hold probabilities that sum to 1: they sum to {sum(self.prior):.6g}")
        if not any(self.prior[: self.shortest + 1]):
            raise ConfigError(f"prior leaves no count that fits into shortest={self.shortest} symbols: raise shortest")

    @property
    def largest(self) -> int:
        """The largest count there is a token for."""
        return self.longest if self.most is None else self.most

    @property
    def others(self) -> int:
        """Different symbols that are not counted."""
        return {ONES: 0, SUM: 1, BERNOULLI: 1, WORD: self.fillers}[self.kind]

    @property
    def separator_token(self) -> int:
        return 2 + self.others

    @property
    def question(self) -> int:
        """The token behind the text."""
        return 3 + self.others

    @property
    def first_count(self) -> int:
        """The token of the count 0; that of c is c further on."""
        return 4 + self.others

    @property
    def d_vocab(self) -> int:
        """BOS, the one, the other symbols, separator, question and the counts."""
        return self.first_count + self.largest + 1

    @property
    def n_ctx(self) -> int:
        """Of the longest text: BOS, its symbols and separators, the question, and the scratchpad but for its end."""
        symbols = self._symbols(self.longest)
        apart = symbols // self.separator if self.separator else 0
        return 2 + symbols + apart + (symbols - 1 if self.scratchpad else 0)

    def _symbols(self, length):
        return 2 * length - 1 if self.kind == SUM else length

    def at(self, length: int) -> "CountSymbols":
        """The same task and vocabulary at exactly this length.

        Raises:
            ConfigError: its counts have no tokens: give `most`, or a prior.
        """
        return replace(self, shortest=length, longest=length, most=self.largest)

    def count(self, batch: Batch) -> Int[torch.Tensor, " batch"]:
        """The true count of each text."""
        return (batch.tokens == ONE).sum(-1)

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts of random lengths with their counts."""
        lengths = draw(self.shortest, self.longest, n, generator)
        counted = self._counted(lengths, generator)
        symbols = torch.where(counted, ONE, 2 + torch.randint(max(1, self.others), counted.shape, generator=generator))
        sizes = self._symbols(lengths)
        running = self.first_count + counted.cumsum(-1)
        texts, ends = self._separated(symbols, sizes)
        if not self.scratchpad:
            return answered(texts, ends, running[:, -1], self.question)
        return self._with_scratchpad(texts, ends, running, sizes)

    def _counted(self, lengths: Int[torch.Tensor, " n"], generator: torch.Generator) -> Bool[torch.Tensor, "n symbol"]:
        """Which symbols are ones; none behind the end of a text."""
        n, longest = len(lengths), self._symbols(int(lengths.max()))
        inside = torch.arange(longest) < self._symbols(lengths)[:, None]
        if self.kind in (ONES, SUM):
            return inside & (torch.arange(longest) % (2 if self.kind == SUM else 1) == 0)
        chance = torch.rand(n, longest, generator=generator)
        if self.prior is None:
            return inside & (chance < self.p)
        fits = torch.arange(self.largest + 1) <= lengths[:, None]
        prior = torch.tensor(self.prior, dtype=torch.float64) * fits
        counts = torch.multinomial(prior, 1, generator=generator)
        return chance.masked_fill(~inside, 2.0).argsort(-1).argsort(-1) < counts

    def _separated(
        self, symbols: Int[torch.Tensor, "n symbol"], sizes: Int[torch.Tensor, " n"]
    ) -> tuple[Int[torch.Tensor, "n token"], Int[torch.Tensor, " n"]]:
        """The texts with their separators, and how long they are now."""
        if not self.separator:
            return symbols, sizes
        n, k = len(symbols), self.separator
        groups = torch.nn.functional.pad(symbols, (0, -symbols.shape[1] % k)).view(n, -1, k)
        marks = torch.full((n, groups.shape[1], 1), self.separator_token)
        ends = sizes + sizes // k
        return torch.cat([groups, marks], -1).view(n, -1)[:, : int(ends.max())], ends

    def _with_scratchpad(
        self,
        texts: Int[torch.Tensor, "n token"],
        ends: Int[torch.Tensor, " n"],
        running: Int[torch.Tensor, "n symbol"],
        sizes: Int[torch.Tensor, " n"],
    ) -> Batch:
        """The running count from the question on: the target of step s is its s-th, which the next step reads."""
        asked = answered(texts, ends, running[:, -1], self.question)
        width = int((ends + sizes).max()) + 1
        tokens = torch.nn.functional.pad(asked.tokens, (0, width - asked.tokens.shape[1]))
        step = torch.arange(width) - 1 - ends[:, None]
        scored = (step >= 0) & (step < sizes[:, None])
        last = running.shape[1] - 1
        targets = torch.where(scored, running.gather(1, step.clamp(0, last)), 0)
        written = running.gather(1, (step - 1).clamp(0, last))
        return Batch(torch.where(scored & (step > 0), written, tokens), targets, scored)
