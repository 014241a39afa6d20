"""What a head's rows add up to, tile by tile, with every weight held relative to a level that few tiles raise."""

import torch
from jaxtyping import Bool, Float, Int

from toy_models.attention.blocks import HIDDEN, KEYS, LN2, ROWS, Block, Head

# Per tile, for a score x and the row's level: the highest x - level; and, with e = 2^(x - level), the sum over the keys
# of e and of e (x - level), the root of the sum of e^2, and the sum of e times how far the key is behind the block's
# first query.  Those of e stand together: a higher level shrinks them all.
PARTS = ("highest", "total", "entropy", "norm", "mean_distance")
SINGLE = ("sink_mass", "self_mass", "previous_mass", "target_mass")  # e of one key
# A level is raised to a score that is more than this above it: to follow every new highest score would rescale every
# sum in almost every tile.  What it costs is rounding, of a number below SLACK in the entropy and the logsumexp.
SLACK = 4.0


class Sums:
    """The rows of one head: `add` every key, then `finish`."""

    def __init__(self, head: Head, targets: Int[torch.Tensor, " query"] | None):
        self.head, self.targets = head, targets
        n, self.names = len(head.q), PARTS if head.options.statistics else PARTS[:2]
        self.sums = dict(zip(self.names, head.q.new_zeros(len(self.names), n), strict=True))
        self.sums["highest"].fill_(HIDDEN)
        self.single = head.q.new_zeros(len(SINGLE), n)
        # The virtual key, if there is one, is first; a row without a key yet takes the level of the first it sees.
        self.virtual = None if head.sink is None else head.virtual
        self.level = torch.zeros_like(head.shift) if head.sink is None else self.virtual.clone()
        self.limit = torch.full_like(head.shift, HIDDEN / 2 if head.sink is None else SLACK)

    def add(self, z: Float[torch.Tensor, "query d_head"], received: Float[torch.Tensor, " key"] | None) -> None:
        """Go over every tile; fill `z`, which is 0, and `received` if it is given."""
        head = self.head
        # What a key receives is known when its rows are whole: then a block is one tile.
        width = KEYS if received is None else len(head.k)
        tiles = [(block, list(block.tiles(width))) for block in head.blocks()]
        buffers = head.q.new_empty(2, max((tile.size for _, several in tiles for tile in several), default=0))
        parts = head.q.new_empty(len(self.names), max((len(several) for _, several in tiles), default=0), ROWS)
        for block, several in tiles:
            mixed = head.v.new_zeros(block.bottom - block.top, z.shape[-1])
            found = parts[:, : len(several), : len(mixed)].zero_()
            found[0].fill_(HIDDEN)
            for i, tile in enumerate(several):
                for piece in head.pieces(tile) if received is None else [tile]:
                    x, scratch = (piece.of(buffer) for buffer in buffers)
                    at = slice(piece.top - block.top, piece.bottom - block.top)
                    weights = self._weigh(piece, x, scratch, found[:, : i + 1, at], mixed[at])
                    mixed[at].addmm_(weights, head.v[piece.keys])
            for name, values in zip(self.names, found, strict=True):
                self.sums[name][block.rows] = values.amax(0) if name == "highest" else values.sum(0)
                if name == "norm":
                    self.sums[name][block.rows] = torch.linalg.vector_norm(values, dim=0)
            whole = self._whole(block.rows)
            z[block.rows] = mixed.mul_(whole[:, None])
            if received is not None:
                received[block.keys] += weights.T @ whole

    def _weigh(self, tile: Block, x, scratch, found, mixed) -> Float[torch.Tensor, "row key"]:
        """The weights of a tile; what they tell goes to the end of `found` (part, tile, row)."""
        highest, total, *others = found[:, -1].unbind()
        self.head.score(tile, x)
        if found.shape[1] > 1 or self.virtual is not None:  # else the level is 0
            x.sub_(self.level[tile.rows, None])
        torch.amax(x, 1, out=highest)
        if (highest > self.limit[tile.rows]).any():
            self._raise(tile, x, found, mixed)
        weights = torch.exp2(x, out=scratch if others else x)
        torch.sum(weights, 1, out=total)
        if others:
            entropy, norm, distance = others
            torch.sum(x.mul_(weights), 1, out=entropy)
            torch.linalg.vector_norm(weights, dim=1, out=norm)
            torch.mv(weights, self.head.behind(tile), out=distance)
            self._pick(tile, weights)
        return weights

    def _raise(self, tile: Block, x, found, mixed) -> None:
        """Lift rows that have left their level behind to this tile's highest score, and all that is relative to it."""
        highest, limit = found[0, -1], self.limit[tile.rows]
        above = highest > limit
        step = highest.where(above, 0.0)
        limit.masked_fill_(above, SLACK)
        self.level[tile.rows] += step
        x.sub_(step[:, None])
        found[0].sub_(step)
        if found.shape[1] == 1 and self.virtual is None:
            return  # there was nothing before
        earlier, factor = found[1:, :-1], step.clamp(min=0).neg_().exp2_()  # where it is below 0, the sums are 0
        if len(earlier) > 1:
            earlier[1] -= step * earlier[0]
            self.single[:, tile.rows] *= factor
        earlier *= factor
        mixed *= factor[:, None]

    def _pick(self, tile: Block, weights: Float[torch.Tensor, "row key"]) -> None:
        """Add the weights of single keys."""
        sink, self_mass, previous, target = self.single[:, tile.rows].unbind()
        if tile.left == 0:
            sink += weights[:, 0]
        ahead = self.head.offset + tile.top - tile.left  # in the column of the first row's own position
        if ahead - 1 < weights.shape[1] and ahead + len(weights) > 0:
            for values, column in ((self_mass, ahead), (previous, ahead - 1)):
                on_diagonal = weights.diagonal(column)
                values[max(0, -column) :][: len(on_diagonal)] += on_diagonal
        if self.targets is not None:
            column = self.targets[tile.rows] - tile.left
            inside = (column >= 0) & (column < weights.shape[1])
            at = column.where(inside, 0).long()
            target += weights.gather(1, at[:, None])[:, 0].where(inside, 0.0)

    def _unassigned(self, rows: slice) -> Float[torch.Tensor, " row"] | float:
        """e of the virtual key."""
        return 0.0 if self.virtual is None else (self.virtual[rows] - self.level[rows]).exp2_()

    def _dead(self, rows: slice) -> Bool[torch.Tensor, " row"]:
        """Rows without any key."""
        return self.limit[rows] < 0

    def _whole(self, rows: slice) -> Float[torch.Tensor, " row"]:
        """The inverse of the sum of e; 0 for a dead row."""
        return (self.sums["total"][rows] + self._unassigned(rows)).reciprocal_().masked_fill_(self._dead(rows), 0.0)

    def finish(self, numbers: dict[str, torch.Tensor]) -> Float[torch.Tensor, " query"]:
        """Fill `numbers`, by their names in RowStatistics, with what the sums say; return `base`.

        `base` is the score, less `shift`, that a weight of 1 would have; 0 for a dead row.
        """
        head, sums, every = self.head, self.sums, slice(None)
        dead, unassigned, whole = self._dead(every), self._unassigned(every), self._whole(every)
        bits = (sums["total"] + unassigned).log2_()
        if numbers:
            # So far from the first query of the block, now from each.
            numbers["mean_distance"].copy_(sums["mean_distance"]).addcmul_(sums["total"], head.within).mul_(whole)
            for name in numbers.keys() & set(SINGLE):
                torch.mul(self.single[SINGLE.index(name)], whole, out=numbers[name])
            entropy, squares, highest = sums["entropy"], sums["norm"].square(), sums["highest"]
            if self.virtual is not None:
                torch.mul(unassigned, whole, out=numbers["unassigned_mass"])
                rise = self.virtual - self.level
                entropy, squares = entropy + unassigned * rise, squares + unassigned.square()
                highest = highest.maximum(rise)
            torch.mul(squares * whole, whole, out=numbers["sum_squares"])
            torch.mul(highest.exp2(), whole, out=numbers["peak"])
            # At the highest score's level both terms would be at least 0; at most SLACK below it, but for rounding.
            of_mean = (bits - entropy * whole).clamp_(min=0.0).mul_(LN2)
            numbers["entropy"].copy_(of_mean.masked_fill_(dead, 0.0))
            logsumexp = (self.level + head.shift).add_(bits).mul_(LN2)
            numbers["logsumexp"].copy_(logsumexp.masked_fill_(dead, -torch.inf))
        return bits.add_(self.level).masked_fill_(dead, 0.0)
