"""Texts by Markov chains out of a pool, and the four ways to predict them from the text alone.

    0  5 1 1 7 5 1 ...      BOS, then symbols by one chain of the pool; with n_chains=0 each text has a chain of its own

The rows of a chain are Dirichlet(`concentration`) draws, fixed by `source_seed` where there is a pool.  The first
symbol is uniform.  With x_1 ... x_n the text, n_s the number of times s stood in it, n_{s s'} how often s' followed s,
M_k chain k, pi_k its stationary distribution, and a the concentration:

    unigram retrieval    p(s') = sum_k q(k) pi_k(s'),               q(k) ~ prod_i pi_k(x_i)
    bigram retrieval     p(s') = sum_k q(k) M_k[x_n, s'],           q(k) ~ prod_{i>1} M_k[x_{i-1}, x_i]
    unigram inference    p(s') = (n_s' + a) / (n + S a)
    bigram inference     p(s') = (n_{x_n s'} + a) / (n_{x_n} + S a)     (n_{x_n} not counting x_n itself)

Retrieval finds out which chain of the pool it is, inference what the chain is like.  Bigram retrieval is exact Bayes
for a pool, bigram inference for fresh chains: `predict` is that one.

Sources: Edelman et al. 2024, arXiv:2402.11004; the four ways and pools of K chains, Park et al. 2024, arXiv:2412.01003.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int

from toy_models.errors import ConfigError, InputError
from toy_models.seeding import generator as stream
from toy_models.tasks import Batch

BOS = 0
WAYS = ("unigram retrieval", "bigram retrieval", "unigram inference", "bigram inference")


@dataclass(frozen=True)
class ChainPool:
    """Args: n_symbols: tokens 1 to n_symbols, behind BOS;  n_ctx: BOS included;  n_chains: in the pool, all equally
    likely, 0 for a fresh one in each text;  concentration: of the rows, small for sharp ones;  source_seed: which
    pool."""

    n_symbols: int = 8
    n_ctx: int = 64
    n_chains: int = 16
    concentration: float = 0.3
    source_seed: int = 0

    def __post_init__(self):
        for name, least in (("n_symbols", 2), ("n_ctx", 2), ("n_chains", 0)):
            if type(getattr(self, name)) is not int or getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be a whole number of at least {least}")
        if not 0 < self.concentration < float("inf"):
            raise ConfigError(f"concentration={self.concentration!r} must be positive and finite")

    @property
    def d_vocab(self) -> int:
        """BOS and the symbols."""
        return 1 + self.n_symbols

    @cached_property
    def chains(self) -> Float[torch.Tensor, "chain symbol next"]:
        """Transition probabilities of the pool.

        Raises:
            ConfigError: there is no pool.
        """
        if not self.n_chains:
            raise ConfigError("n_chains=0 has no pool: every text has a chain of its own")
        return self._rows(self.n_chains, stream(self.source_seed, "chain pool"))

    @cached_property
    def stationary(self) -> Float[torch.Tensor, "chain symbol"]:
        """pi_k = pi_k M_k, sum 1."""
        n = self.n_symbols
        square = torch.eye(n, dtype=torch.float64) - self.chains.mT
        conditions = torch.cat([square, torch.ones(self.n_chains, 1, n, dtype=torch.float64)], 1)
        total = torch.zeros(self.n_chains, n + 1, 1, dtype=torch.float64)
        total[:, -1] = 1
        return torch.linalg.lstsq(conditions, total, driver="gelsd").solution[..., 0].clamp(min=0)

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts; every position is scored, the first symbol aside, which nothing tells."""
        if self.n_chains:
            rows = self.chains[torch.randint(self.n_chains, (n,), generator=generator)]
        else:
            rows = self._rows(n, generator)
        text = self._texts(rows, self.n_ctx, generator)
        tokens = torch.cat([torch.full((n, 1), BOS), text[:, :-1]], dim=1)
        return Batch(tokens, text, (torch.arange(self.n_ctx) > 0).expand(n, -1))

    def text(self, chain: int, n: int, length: int, generator: torch.Generator) -> Int[torch.Tensor, "n length"]:
        """n texts by one chain of the pool, without BOS.

        Raises:
            InputError: there is no such chain.
        """
        if not 0 <= chain < self.n_chains:
            raise InputError(f"chain={chain} must lie in [0, n_chains={self.n_chains})")
        return self._texts(self.chains[chain].expand(n, -1, -1), length, generator)

    # The four ways ---------------------------------------------------------------------------------

    def predict(self, tokens: Int[torch.Tensor, "batch pos"]) -> Float[torch.Tensor, "batch pos d_vocab"]:
        """log p(next token | text so far), nats, float64, by exact Bayes; -inf for BOS.

        Raises: as `way`.
        """
        return self.way("bigram retrieval" if self.n_chains else "bigram inference", tokens)

    def way(self, name: str, tokens: Int[torch.Tensor, "batch pos"]) -> Float[torch.Tensor, "batch pos d_vocab"]:
        """log p(next token | text so far) by one of WAYS, nats, float64; -inf for BOS.

        Raises:
            InputError: no such way, or a text that does not begin with BOS and go on in symbols.
            ConfigError: retrieval without a pool.
        """
        if name not in WAYS:
            raise InputError(f"unknown way {name!r}: choose one of {', '.join(WAYS)}")
        symbols = tokens[:, 1:]
        if (tokens[:, 0] != BOS).any() or (symbols < 1).any() or (symbols > self.n_symbols).any():
            raise InputError(f"texts must be (batch, pos), {BOS} first and then symbols 1 to {self.n_symbols}")
        seen, bigrams = symbols - 1, name.startswith("bigram")
        said = self._retrieved(seen, bigrams) if name.endswith("retrieval") else self._inferred(seen, bigrams)
        return torch.cat([torch.zeros_like(said[..., :1]), said], -1).log()

    def posterior(self, tokens: Int[torch.Tensor, "batch pos"]) -> Float[torch.Tensor, "batch pos chain"]:
        """p(chain | text so far), float64: q of bigram retrieval."""
        return self._posterior(tokens[:, 1:] - 1, bigrams=True)

    def _posterior(self, seen: torch.Tensor, bigrams: bool) -> Float[torch.Tensor, "batch pos chain"]:
        if bigrams:  # the first symbol is uniform under every chain
            heard = torch.zeros(len(self.chains), *seen.shape, dtype=torch.float64)
            heard[..., 1:] = self.chains.log()[:, seen[:, :-1], seen[:, 1:]]
        else:
            heard = self.stationary.log()[:, seen]
        evidence = torch.nn.functional.pad(heard.cumsum(-1), (1, 0))
        return evidence.permute(1, 2, 0).softmax(-1)

    def _retrieved(self, seen: torch.Tensor, bigrams: bool) -> Float[torch.Tensor, "batch pos symbol"]:
        posterior = self._posterior(seen, bigrams)
        if not bigrams:
            return posterior @ self.stationary
        mixed = (posterior[:, 1:] @ self.chains.flatten(1)).unflatten(-1, (self.n_symbols, self.n_symbols))
        return self._behind_bos(mixed.take_along_dim(seen[..., None, None], 2)[:, :, 0])

    def _inferred(self, seen: torch.Tensor, bigrams: bool) -> Float[torch.Tensor, "batch pos symbol"]:
        one_hot = torch.nn.functional.one_hot(seen, self.n_symbols).double()
        if not bigrams:
            counts = torch.nn.functional.pad(one_hot.cumsum(1), (0, 0, 1, 0))
            return (counts + self.concentration) / (counts.sum(-1, keepdim=True) + self.n_symbols * self.concentration)
        pairs = one_hot[:, :-1, :, None] * one_hot[:, 1:, None, :]
        counts = torch.nn.functional.pad(pairs.cumsum(1), (0, 0, 0, 0, 1, 0))  # pairs that end at or before a symbol
        counts = counts.take_along_dim(seen[..., None, None], 2)[:, :, 0] + self.concentration
        return self._behind_bos(counts / counts.sum(-1, keepdim=True))

    def _behind_bos(self, said: torch.Tensor) -> Float[torch.Tensor, "batch pos symbol"]:
        """With the uniform distribution of the first symbol in front."""
        first = said.new_full((len(said), 1, self.n_symbols), 1 / self.n_symbols)
        return torch.cat([first, said], 1)

    # Draws -----------------------------------------------------------------------------------------

    def _rows(self, n: int, generator: torch.Generator) -> Float[torch.Tensor, "chain symbol next"]:
        """Dirichlet rows: normalised Gamma(concentration) draws, never 0."""
        shape = torch.full((n, self.n_symbols, self.n_symbols), self.concentration, dtype=torch.float64)
        drawn = torch._standard_gamma(shape, generator=generator).clamp(min=1e-30)
        return drawn / drawn.sum(-1, keepdim=True)

    def _texts(self, rows: torch.Tensor, length: int, generator: torch.Generator) -> Int[torch.Tensor, "n length"]:
        n = len(rows)
        drawn = torch.rand(n, length, generator=generator, dtype=torch.float64)
        cumulative = rows.cumsum(-1)
        symbols = (drawn * self.n_symbols).long()  # the first is uniform; the others follow
        for t in range(1, length):
            edges = cumulative[torch.arange(n), symbols[:, t - 1]]
            at = torch.searchsorted(edges.contiguous(), drawn[:, t, None].contiguous())[:, 0]
            symbols[:, t] = at.clamp(max=self.n_symbols - 1)
        return symbols + 1
