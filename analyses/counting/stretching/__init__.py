"""Nets asked about texts longer than any that they were trained on."""
