"""What `curry_vs_bayes` measures: distance from Bayes's rule, evidence read off an update, and the martingale test."""
