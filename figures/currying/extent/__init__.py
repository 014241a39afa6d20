"""What the figures of a context's reach, its length and its halves share: one look for every source."""
