"""What `curry_vs_gradient` measures: steps down a gradient, the best near one, and outputs beside those of W'."""
