"""What `curry_frontier` measures: the methods, what they may spend, one context's rows, and the claims."""
