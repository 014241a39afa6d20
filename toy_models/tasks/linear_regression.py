"""Linear regression in context: n examples (x_j, y_j = W x_j) of a map W that every sequence draws anew, then x alone.

    (x_1, y_1) (x_2, y_2) ... (x_n, y_n) (x, 0)        asked is W x

Tokens are vectors: `tokens` goes into `Transformer(residual=...)`, x in front, y behind.  The entries of W are N(0, 1);
the query's answer is free of noise.  Inputs have independent coordinates of mean 0:

    "code"      U(-1/2, 1/2), what the authors' code draws and their reported losses are of
    "text"      U(-1, 1), what their text says
    "gaussian"  N(0, 1)

each times `scales`, if given: anisotropic inputs, in the eigenbasis of their covariance.

Source: von Oswald et al. 2022, arXiv:2212.07677, section 3 and its code; Ahn et al. 2023, arXiv:2306.00297 (gaussian,
anisotropic).
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float

from toy_models.errors import ConfigError

HALF_WIDTHS = {"code": 0.5, "text": 1.0}
INPUTS = (*HALF_WIDTHS, "gaussian")
LOSSES = {"half_mse": 0.5, "mse": 1.0}


@dataclass(frozen=True)
class Regressions:
    """What a model reads, as vectors; what it should answer; and where the answer counts, the query alone."""

    tokens: Float[torch.Tensor, "batch pos d_model"]
    targets: Float[torch.Tensor, "batch pos d_out"]
    scored: Bool[torch.Tensor, "batch pos"]
    d_in: int

    @property
    def x(self) -> Float[torch.Tensor, "batch example d_in"]:
        """Inputs of the examples."""
        return self.tokens[:, :-1, : self.d_in]

    @property
    def y(self) -> Float[torch.Tensor, "batch example d_out"]:
        """Outputs of the examples, as the model reads them."""
        return self.tokens[:, :-1, self.d_in :]

    @property
    def query(self) -> Float[torch.Tensor, "batch d_in"]:
        """The input that is asked about."""
        return self.tokens[:, -1, : self.d_in]

    @property
    def answer(self) -> Float[torch.Tensor, "batch d_out"]:
        """What is asked."""
        return self.targets[:, -1]

    @property
    def examples(self) -> Bool[torch.Tensor, "batch key"]:
        """True at the examples: as `attention_mask` it keeps every token from reading the query."""
        return ~self.scored

    def relabelled(self) -> "Regressions":
        """Every context with the labels of another sequence, the next one: they tell nothing of the answer.

        Raises:
            ConfigError: there is no other sequence.
        """
        if len(self.tokens) < 2:
            raise ConfigError("1 sequence has no other to take labels from: sample at least 2")
        tokens = self.tokens.clone()
        tokens[:, :-1, self.d_in :] = self.y.roll(1, 0)
        return replace(self, tokens=tokens)

    def to(self, *args) -> "Regressions":
        """The same on another device or in another precision."""
        moved = (one.to(*args) for one in (self.tokens, self.targets))
        return Regressions(*moved, self.scored.to(self.tokens.to(*args).device), self.d_in)


@dataclass(frozen=True)
class LinearRegression:
    """Args: d_in, d_out: entries of x and y;  n_examples: pairs before the query;  inputs: see above;  scales: a factor
    per coordinate of x, or none;  noise: standard deviation of what is added to the examples' y;  loss_kind:
    "half_mse", as reported by von Oswald et al., or "mse"."""

    d_in: int = 10
    d_out: int = 1
    n_examples: int = 10
    inputs: str = "code"
    scales: tuple[float, ...] = ()
    noise: float = 0.0
    loss_kind: str = "half_mse"

    def __post_init__(self):
        for name in ("d_in", "d_out", "n_examples"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}={value!r} must be a whole number of at least 1")
        for name, allowed in (("inputs", INPUTS), ("loss_kind", tuple(LOSSES))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be one of {', '.join(allowed)}")
        if self.scales and len(self.scales) != self.d_in:
            raise ConfigError(f"scales has {len(self.scales)} entries: give one for each of d_in={self.d_in}, or none")
        if not all(0 < one < math.inf for one in self.scales):
            raise ConfigError(f"scales={self.scales} must be positive and finite")
        if not 0 <= self.noise < math.inf:
            raise ConfigError(f"noise={self.noise} must be finite and not negative")

    @property
    def n_ctx(self) -> int:
        """The examples and the query."""
        return self.n_examples + 1

    @property
    def d_model(self) -> int:
        """Width of a token."""
        return self.d_in + self.d_out

    def moment(self, order: int) -> float:
        """E[x_i^order] of a coordinate before `scales`, for an even order."""
        if self.inputs == "gaussian":
            return float(math.prod(range(1, order, 2)))
        return HALF_WIDTHS[self.inputs] ** order / (order + 1)

    def sample(self, n: int, generator: torch.Generator) -> Regressions:
        """n sequences, float32."""
        shape = (n, self.n_ctx, self.d_in)
        if self.inputs == "gaussian":
            x = torch.randn(shape, generator=generator)
        else:
            x = HALF_WIDTHS[self.inputs] * (2 * torch.rand(shape, generator=generator) - 1)
        if self.scales:
            x = x * torch.tensor(self.scales)
        weight = torch.randn(n, self.d_out, self.d_in, generator=generator)
        targets = x @ weight.transpose(1, 2)
        y = targets
        if self.noise:
            y = y + self.noise * torch.randn(targets.shape, generator=generator)
        query = torch.arange(self.n_ctx) == self.n_examples
        tokens = torch.cat([x, y.masked_fill(query[:, None], 0.0)], dim=-1)
        return Regressions(tokens, targets, query.expand(n, -1), self.d_in)

    def loss(
        self, prediction: Float[torch.Tensor, "batch d_out"], answer: Float[torch.Tensor, "batch d_out"]
    ) -> Float[torch.Tensor, ""]:
        """Squared error summed over the outputs, its mean over the sequences, times 1/2 if `loss_kind` says so."""
        return LOSSES[self.loss_kind] * (prediction - answer).square().sum(-1).mean()
