"""What the studies of a context's reach, of its length and of its halves share: subjects, queries, divergences."""
