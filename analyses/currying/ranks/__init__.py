"""What `curry_vs_rank` measures: words with known facts, methods at every rank, one context's rows."""
