"""What a head's rows add up to, tile by tile, with every weight held relative to the largest so far."""

import torch
from jaxtyping import Float, Int

from toy_models.attention.blocks import HIDDEN, KEYS, LN2, Block, Head

# Sums over the keys of e = 2^(x - top), for a score x and the highest one `top`: of e; of e (x - top), e^2 and e times
# how far the key is behind the block's first query; and e of single keys.
TOTAL = ("total",)
COUNTED = (*TOTAL, "entropy", "sum_squares", "mean_distance", "sink_mass", "self_mass", "previous_mass", "target_mass")


class Sums:
    """The rows of one head: `add` every key, then `finish`."""

    def __init__(self, head: Head, targets: Int[torch.Tensor, " query"] | None):
        self.head, self.targets = head, targets
        self.names = COUNTED if head.options.statistics else TOTAL
        self.rows = head.q.new_zeros(len(self.names), len(head.q))
        self.top = torch.full_like(head.shift, HIDDEN)
        if head.sink is not None:  # the virtual key comes first: its weight is 1, and the logarithm of that 0
            self.top.copy_(head.virtual)
            for name in {"total", "sum_squares"} & set(self.names):
                self.rows[self.names.index(name)] = 1.0

    def add(self, z: Float[torch.Tensor, "query d_head"], received: Float[torch.Tensor, " key"] | None) -> None:
        """Go over every tile; fill `z`, which is 0, and `received` if it is given."""
        head = self.head
        # What a key receives is known when its rows are whole: then a block is one tile.
        width = KEYS if received is None else len(head.k)
        tiles = [(block, list(block.tiles(width))) for block in head.blocks()]
        buffers = head.q.new_empty(2, max((tile.size for _, several in tiles for tile in several), default=0))
        for block, several in tiles:
            top, rows = self.top[block.rows], self.rows[:, block.rows]
            mixed = head.v.new_zeros(block.bottom - block.top, z.shape[-1])
            for tile in several:
                x, scratch = (tile.of(buffer) for buffer in buffers)
                head.score(tile, x)
                before, top = top, torch.maximum(top, x.amax(1))
                if tile.left > block.left or head.sink is not None:
                    mixed *= _shrink(before - top, rows)[:, None]
                if head.options.statistics:
                    weights = self._count(tile, x, scratch, top, rows)
                else:
                    weights = x.sub_(top[:, None]).exp2_()
                rows[0] += weights.sum(1)
                mixed.addmm_(weights, head.v[tile.keys])
            self.top[block.rows] = top
            whole = rows[0].reciprocal().masked_fill_(top < HIDDEN / 2, 0.0)
            z[block.rows] = mixed.mul_(whole[:, None])
            if received is not None:
                received[block.keys] += weights.T @ whole

    def _count(self, tile: Block, x, scratch, top, rows) -> Float[torch.Tensor, "row key"]:
        """Turn the scores `x` into weights in place, and add what they tell to `rows`."""
        below = torch.sub(x, top[:, None], out=scratch)
        weights = torch.exp2(below, out=x)
        _, entropy, squares, distance, sink, self_mass, previous, target = rows.unbind()
        entropy += below.mul_(weights).sum(1)
        squares += torch.linalg.vector_norm(weights, dim=1).square_()
        first = self.head.offset + tile.top
        distance += weights @ (first - self.head.places(tile))
        if tile.left == 0:
            sink += weights[:, 0]
        ahead = first - tile.left  # in the column of the first row's own position
        if ahead - 1 < weights.shape[1] and ahead + len(weights) > 0:
            for values, column in ((self_mass, ahead), (previous, ahead - 1)):
                on_diagonal = weights.diagonal(column)
                values[max(0, -column) :][: len(on_diagonal)] += on_diagonal
        if self.targets is not None:
            column = self.targets[tile.rows] - tile.left
            inside = (column >= 0) & (column < weights.shape[1])
            at = column.where(inside, 0).long()
            target += weights.gather(1, at[:, None])[:, 0].where(inside, 0.0)
        return weights

    def finish(self, numbers: dict[str, torch.Tensor]) -> Float[torch.Tensor, " query"]:
        """Fill `numbers`, by their names in RowStatistics, with what the sums say; return `base`.

        `base` is the score, less `shift`, that a weight of 1 would have; 0 for a dead row.
        """
        head, sums, dead = self.head, dict(zip(self.names, self.rows, strict=True)), self.top < HIDDEN / 2
        bits, whole = sums["total"].log2(), sums["total"].reciprocal().masked_fill_(dead, 0.0)
        if numbers:
            virtual = 0.0
            if head.sink is not None:
                virtual = (head.virtual - self.top).exp2_()
                numbers["unassigned_mass"].copy_(virtual).mul_(whole)
            # So far from the first query of the block, now from each.
            sums["mean_distance"] += (sums["total"] - virtual) * head.within
            for name in numbers.keys() & sums.keys():
                torch.mul(sums[name], whole, out=numbers[name])
            numbers["sum_squares"] *= whole
            numbers["peak"].copy_(whole)
            # Both terms are at least 0: the score of the whole less the mean score would lose digits.
            numbers["entropy"].sub_(bits).mul_(-LN2).masked_fill_(dead, 0.0)
            logsumexp = (self.top + head.shift).add_(bits).mul_(LN2)
            numbers["logsumexp"].copy_(logsumexp.masked_fill_(dead, -torch.inf))
        return bits.add_(self.top).masked_fill_(dead, 0.0)


def _shrink(below: Float[torch.Tensor, " row"], rows: Float[torch.Tensor, "sum row"]) -> Float[torch.Tensor, " row"]:
    """Make the sums relative to a higher `top`, from which the old one is `below` (0 or less); return the factor."""
    factor = below.exp2()
    if len(rows) > 1:
        rows[1].addcmul_(below, rows[0])
        rows[2] *= factor
    rows *= factor
    return factor
