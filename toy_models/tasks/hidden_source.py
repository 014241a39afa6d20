"""Texts by a hidden source, which the text itself gives away, and the exact predictor of what comes next.

    0  5 11  5  2  5 11 ...             chain: one of `n_chains` fixed Markov chains
    0  7  1 12  3  1  1 ...             die: the fair one or the biased one
    0  4  9  2  9  7  4  9  2  9 ...    copy: a random word of `period` symbols again and again, in which every symbol
                                        is replaced by a uniform one with probability `noise`

The three kinds are equally likely, and so are the sources of a kind.  Chains and the biased die are fixed by
`source_seed`: rows softmax(`sharpness` * normal).  A copied word is new in every text.  With k a source,

    p(next | text) = sum_k p(k | text) p_k(next | text),      p(k | text) ~ p(k) prod_t p_k(x_t | x_<t),

and for copying p(w_r = s | text) ~ prod_t ((1 - noise) [x_t = s] + noise / n_symbols), over t = r modulo the period:
the letters of a word are independent.  So `predict` is Bayes's rule and nothing else, in O(text).

Source: pools of chains, Park et al. 2024, arXiv:2412.01003; the mixture is this project's.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int

from toy_models.errors import ConfigError, InputError
from toy_models.seeding import generator as stream
from toy_models.tasks import Batch

BOS = 0
FAIR, BIASED, COPY = "fair die", "biased die", "copy"


@dataclass(frozen=True)
class HiddenSource:
    """Args: n_symbols: tokens 1 to n_symbols, behind BOS;  n_ctx: BOS included;  sharpness: standard deviation of the
    logits of chains and of the biased die;  noise: of a copy, at least 0 and below 1;  source_seed: which chains and
    which die."""

    n_symbols: int = 12
    n_ctx: int = 33
    n_chains: int = 4
    sharpness: float = 1.5
    period: int = 5
    noise: float = 0.15
    source_seed: int = 0

    def __post_init__(self):
        if self.n_symbols < 2 or self.n_chains < 1 or self.n_ctx < 2:
            raise ConfigError(
                f"n_symbols={self.n_symbols} and n_ctx={self.n_ctx} must be at least 2, n_chains={self.n_chains} 1"
            )
        if not 1 <= self.period < self.n_ctx:
            raise ConfigError(
                f"period={self.period} must lie in [1, n_ctx={self.n_ctx}): a longer word never comes again"
            )
        if not 0 <= self.noise < 1 or not self.sharpness > 0:
            raise ConfigError(
                f"noise={self.noise} must lie in [0, 1) and sharpness={self.sharpness} be positive: "
                f"else a source cannot be told from a fair die"
            )

    @property
    def d_vocab(self) -> int:
        """BOS and the symbols."""
        return 1 + self.n_symbols

    @property
    def sources(self) -> tuple[str, ...]:
        """Their names, in the order of `prior`."""
        return (*(f"chain {k}" for k in range(self.n_chains)), FAIR, BIASED, COPY)

    @property
    def prior(self) -> Float[torch.Tensor, " source"]:
        """Probabilities of the sources: a third for each kind."""
        return torch.tensor([1 / self.n_chains] * self.n_chains + [0.5, 0.5, 1.0], dtype=torch.float64) / 3

    @cached_property
    def chains(self) -> Float[torch.Tensor, "chain symbol next"]:
        """Transition probabilities; a text's first symbol is uniform."""
        return self._rows("chains", self.n_chains, self.n_symbols)

    @cached_property
    def dice(self) -> Float[torch.Tensor, "die symbol"]:
        """Probabilities of the fair and the biased die."""
        fair = torch.full((1, self.n_symbols), 1 / self.n_symbols, dtype=torch.float64)
        return torch.cat([fair, self._rows("biased die", 1)])

    def _rows(self, word: str, *shape: int) -> torch.Tensor:
        draw = stream(self.source_seed, "hidden source", word)
        logits = torch.randn(*shape, self.n_symbols, generator=draw, dtype=torch.float64)
        return (self.sharpness * logits).softmax(-1)

    # Texts ----------------------------------------------------------------------------------------

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts of sources drawn from the prior; every position is scored."""
        which = torch.multinomial(self.prior, n, replacement=True, generator=generator)
        every = torch.stack([self._text(k, n, self.n_ctx, generator) for k in range(len(self.sources))])
        text = every[which, torch.arange(n)]
        tokens = torch.cat([torch.full((n, 1), BOS), text[:, :-1]], dim=1)
        return Batch(tokens, text, torch.ones_like(tokens, dtype=torch.bool))

    def text(self, source: str, n: int, length: int, generator: torch.Generator) -> Int[torch.Tensor, "n length"]:
        """n texts of one source, without BOS.

        Raises:
            InputError: there is no such source.
        """
        if source not in self.sources:
            raise InputError(f"unknown source {source!r}: choose one of {', '.join(self.sources)}")
        return self._text(self.sources.index(source), n, length, generator)

    def _text(self, k: int, n: int, length: int, generator: torch.Generator) -> torch.Tensor:
        drawn = torch.rand(n, length, generator=generator, dtype=torch.float64)
        if k == len(self.sources) - 1:
            word = torch.randint(self.n_symbols, (n, self.period), generator=generator)
            clean = word[:, torch.arange(length) % self.period]
            other = torch.randint(self.n_symbols, (n, length), generator=generator)
            return torch.where(drawn < self.noise, other, clean) + 1
        if k >= self.n_chains:
            return _inverse(self.dice[k - self.n_chains].expand(n, -1), drawn) + 1
        symbols = (drawn * self.n_symbols).long()  # the first is uniform; the others follow
        for t in range(1, length):
            symbols[:, t] = _inverse(self.chains[k, symbols[:, t - 1]], drawn[:, t, None])[:, 0]
        return symbols + 1

    # The exact predictor --------------------------------------------------------------------------

    def predict(self, tokens: Int[torch.Tensor, "batch pos"]) -> Float[torch.Tensor, "batch pos d_vocab"]:
        """log p(next token | text so far), nats, float64; -inf for BOS.

        Raises:
            InputError: a text that does not begin with BOS and go on in symbols.
        """
        if tokens.ndim != 2 or (tokens[:, 0] != BOS).any() or (tokens[:, 1:] < 1).any() or tokens.max() >= self.d_vocab:
            raise InputError(f"texts must be (batch, pos), {BOS} first and then symbols 1 to {self.n_symbols}")
        seen = tokens[:, 1:] - 1
        said = self.each(seen)
        heard = said[:, :, :-1].gather(-1, seen[None, ..., None].expand(len(said), -1, -1, 1))[..., 0].cumsum(-1)
        evidence = torch.cat([heard.new_zeros(*heard.shape[:2], 1), heard], -1)
        posterior = (evidence + self.prior.log()[:, None, None]).log_softmax(0)
        mixed = (posterior[..., None] + said).logsumexp(0)
        return torch.cat([torch.full_like(mixed[..., :1], -torch.inf), mixed], -1)

    def each(self, seen: Int[torch.Tensor, "batch symbols"]) -> Float[torch.Tensor, "source batch pos symbol"]:
        """log p_k(next | text so far), nats, float64, of every source by itself; symbols count from 0 here."""
        batch, before = seen.shape
        first = self.dice[:1].expand(batch, 1, -1)
        chains = [torch.cat([first, rows[seen]], 1) for rows in self.chains]
        dice = [die.expand(batch, before + 1, -1) for die in self.dice]
        return torch.stack([*chains, *dice, self._copy(seen)]).log()

    def _copy(self, seen: torch.Tensor) -> Float[torch.Tensor, "batch pos symbol"]:
        batch, before = seen.shape
        hit, miss = 1 - self.noise + self.noise / self.n_symbols, self.noise / self.n_symbols
        belief = torch.full((batch, self.period, self.n_symbols), 1 / self.n_symbols, dtype=torch.float64)
        said = []
        for t in range(before + 1):
            place = belief[:, t % self.period]
            said.append((1 - self.noise) * place + self.noise / self.n_symbols)
            if t < before:
                told = torch.full_like(place, miss).scatter(-1, seen[:, t, None], hit)
                # Without noise a contradicted word is impossible; what it would say next no longer counts.
                product = place * told
                total = product.sum(-1, keepdim=True)
                belief[:, t % self.period] = torch.where(total > 0, product / total, 1 / self.n_symbols)
        return torch.stack(said, 1)


def _inverse(probabilities: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Symbols at these points of the cumulative distribution: rows of the one for rows of the other."""
    cumulative = probabilities.cumsum(-1)
    return torch.searchsorted(cumulative.contiguous(), drawn.contiguous()).clamp(max=probabilities.shape[-1] - 1)
