"""Nets that the counting studies train, and how they are asked."""
