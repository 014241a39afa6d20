"""Counting with a vocabulary of m tokens in a stream of width d: weights set by hand, and what training finds."""
