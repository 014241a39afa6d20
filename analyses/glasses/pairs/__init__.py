"""Pairs of texts that end in the same token, and the models that are asked to tell them apart."""
