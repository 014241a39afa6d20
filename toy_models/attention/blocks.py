"""The scores of one head, a block of queries and a tile of keys at a time, in units of log 2.

exp2 is several times faster than exp, so scores are held times log2(e), less what is the same along a row: a score in
nats is `(x + shift) * LN2`.  A hidden key scores HIDDEN, which is finite: its weight is exactly 0, and so is its weight
times its score.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float

from toy_models.attention.options import Options
from toy_models.attention.statistics import wide

# About the fastest of 128 to 512 queries, and of 512 keys to all: larger leaves the cache, smaller is overhead.
ROWS = 512
KEYS = 512
STEP = 256  # rows at a time where they may not look at the same keys: fewer keys are scored for nothing
HIDDEN = -1e30
LN2 = math.log(2)


@dataclass(frozen=True)
class Block:
    """Queries `top` to `bottom` and keys `left` to `right`, the ends not included."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def rows(self) -> slice:
        """The queries."""
        return slice(self.top, self.bottom)

    @property
    def keys(self) -> slice:
        """The keys."""
        return slice(self.left, self.right)

    @property
    def size(self) -> int:
        """How many scores it holds."""
        return (self.bottom - self.top) * (self.right - self.left)

    def tiles(self, width: int) -> Iterator["Block"]:
        """The same queries, with at most `width` of the keys at a time."""
        for left in range(self.left, self.right, width):
            yield Block(self.top, self.bottom, left, min(left + width, self.right))

    def of(self, buffer: Float[torch.Tensor, " number"]) -> Float[torch.Tensor, "row key"]:
        """The start of `buffer` as a matrix of this shape."""
        return buffer[: self.size].view(self.bottom - self.top, self.right - self.left)


@dataclass(frozen=True)
class Head:
    """What the scores of one head on one text are made of; numbers in units of log 2, tensors in the wide type.

    Shapes: `q` (query, d_head), scaled; `k` (key, d_head) less `centre` (d_head); `v` (key, d_head); `shift` (query);
    `within` (query), how far behind the first query of its block; `away`, every distance that a key can have, from the
    largest on; `hidden` (key), 0, or HIDDEN for padding; `bias` (query, key), in nats, as it came; `above`
    (ROWS, ROWS), HIDDEN where the column is not before the row, else 0.  `real` is the range of the real keys.
    """

    options: Options
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    centre: torch.Tensor | None
    shift: torch.Tensor
    within: torch.Tensor
    away: torch.Tensor
    hidden: torch.Tensor | None
    real: tuple[int, int]
    bias: torch.Tensor | None
    slope: float | None
    sink: float | None
    above: torch.Tensor

    @classmethod
    def of(cls, q, k, v, options: Options, batch: int, head: int) -> "Head":
        """Head `head` of text `batch`, from the arguments of `attend`."""
        group = head // (q.shape[2] // k.shape[2])
        queries, keys, values = (
            x.to(wide(q.dtype)) for x in (q[batch, :, head], k[batch, :, group], v[batch, :, group])
        )
        # Under a cap the products are the argument of tanh, else they are the scores.
        queries = queries * (options.scale / (options.score_cap or LN2))
        real = None if options.key_padding is None else options.key_padding[batch]
        keys, centre = _centred(keys, real, options)
        shift = queries.new_zeros(len(queries)) if centre is None else queries @ centre
        slope, sink = (
            None if given is None else float(given[head]) / LN2 for given in (options.alibi_slopes, options.sink_logit)
        )
        within = torch.arange(len(queries), dtype=queries.dtype, device=q.device) % ROWS
        away = torch.arange(len(keys), -len(keys) - len(queries), -1, dtype=queries.dtype, device=q.device)
        return cls(
            **{"options": options, "q": queries, "k": keys.contiguous(), "v": values.contiguous()},
            **{"centre": centre, "shift": shift, "within": within, "away": away, "slope": slope, "sink": sink},
            hidden=None if real is None else torch.zeros_like(keys[:, 0]).masked_fill_(~real, HIDDEN),
            real=_span(real, len(keys)),
            bias=None if options.bias is None else options.bias[head],
            above=queries.new_full((ROWS, ROWS), HIDDEN).triu_(),
        )

    @property
    def offset(self) -> int:
        """Where the first query sits, in keys."""
        return len(self.k) - len(self.q)

    @property
    def virtual(self) -> Float[torch.Tensor, " query"]:
        """What the virtual key scores, less `shift`: as seen by the keys that are there."""
        return (self.sink - self.shift).clamp_(min=HIDDEN)

    @property
    def reach(self) -> int | None:
        """How far ahead of itself a query may look; None for any distance."""
        return 0 if self.options.causal else None if self.options.window is None else self.options.window - 1

    def blocks(self) -> Iterator[Block]:
        """Queries with the keys that any of a block may look at; without a block that may look at none."""
        return self._seen(0, len(self.q), *self.real, ROWS)

    def pieces(self, tile: Block) -> list[Block]:
        """The tile, or if some of its rows may look at fewer keys, what its rows may look at, STEP rows at a time."""
        cut = list(self._seen(tile.top, tile.bottom, tile.left, tile.right, STEP))
        return cut if sum(piece.size for piece in cut) < tile.size else [tile]

    def _seen(self, first: int, last: int, left: int, right: int, step: int) -> Iterator[Block]:
        """Queries `first` to `last`, `step` at a time, with those of the keys that any of them may look at."""
        window, offset = self.options.window, self.offset
        for top in range(first, last, step):
            bottom = min(top + step, last)
            start = left if window is None else max(left, top + offset - window + 1)
            end = right if self.reach is None else min(right, bottom + offset + self.reach)
            if start < end:
                yield Block(top, bottom, start, end)

    def score(
        self, tile: Block, x: Float[torch.Tensor, "row key"], capped: Float[torch.Tensor, "row key"] | None = None
    ) -> None:
        """Fill `x` with the scores of a tile; `capped`, if given, with tanh(product / score_cap)."""
        torch.mm(self.q[tile.rows], self.k[tile.keys].T, out=x)
        if self.options.score_cap is not None:
            x.tanh_()
            if capped is not None:
                capped.copy_(x)
            x.mul_(self.options.score_cap / LN2)
        if self.slope is not None:  # from each query, not from one place in the block: near keys keep their digits
            x.add_(self.distance(tile).abs_(), alpha=-self.slope)
        if self.bias is not None:  # where it is -inf the key is hidden
            x.add_(self.bias[tile.rows, tile.keys].to(x.dtype), alpha=1 / LN2).clamp_(min=HIDDEN)
        if self.hidden is not None:
            x.add_(self.hidden[tile.keys])
        self._hide(tile, x)

    def distance(self, tile: Block) -> Float[torch.Tensor, "row key"]:
        """position - key, in keys."""
        start = self.offset + tile.top
        positions = torch.arange(start, start + tile.bottom - tile.top, dtype=self.k.dtype, device=self.k.device)
        return positions[:, None] - torch.arange(tile.left, tile.right, dtype=self.k.dtype, device=self.k.device)

    def behind(self, tile: Block) -> Float[torch.Tensor, " key"]:
        """How far the keys are behind the first query of the tile's block."""
        start = len(self.k) - (self.offset + tile.top - tile.top % ROWS - tile.left)
        return self.away[start : start + tile.right - tile.left]

    def _hide(self, tile: Block, x: torch.Tensor) -> None:
        """Hide keys from the rows that may not look at them, in the columns where rows differ."""
        rows, first = tile.bottom - tile.top, tile.top + self.offset
        if self.reach is not None:  # row r sees nothing from `ahead + r` on
            ahead = first + self.reach + 1
            start = max(tile.left, ahead)
            if start < tile.right:
                x[:, start - tile.left :].add_(self.above[:rows, start - ahead : tile.right - ahead])
        if self.options.window is not None:  # row r sees nothing before `behind + r`
            behind = first - self.options.window + 1
            end = min(tile.right, behind + rows)
            if tile.left < end:
                x[:, : end - tile.left].add_(HIDDEN - self.above[:rows, tile.left - behind : end - behind])


def _span(real: torch.Tensor | None, n_key: int) -> tuple[int, int]:
    """The range of the real keys."""
    if real is None:
        return 0, n_key
    at = real.nonzero()
    return (int(at[0]), int(at[-1]) + 1) if len(at) else (0, 0)


def _centred(keys: torch.Tensor, real: torch.Tensor | None, options: Options):
    """(keys less their mean, the mean) where most of their size is a common offset, else (keys, None).

    What the keys have in common moves a whole row of scores: softmax forgets it, rounding does not.  Under a cap it
    would not move the row evenly.
    """
    counted = keys if real is None else keys[real]
    if options.score_cap is not None or len(counted) < 2:
        return keys, None
    centre = counted.mean(0)
    if 2 * centre.square().sum() <= counted.square().sum(1).mean():
        return keys, None
    return keys - centre, centre
