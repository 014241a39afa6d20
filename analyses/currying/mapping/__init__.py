"""What `curry_map` measures: distances between contexts in what they do and in weights, and what transfers."""
