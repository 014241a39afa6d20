"""Rotary positions in closed form, by the rotation that the models use."""
