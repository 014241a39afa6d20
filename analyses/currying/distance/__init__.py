"""What `curry_vs_distance` measures: ways from W to W', how far and how good each point is, and how alike ends are."""
