"""Nets that copy one end of a run, how they are asked, and what is claimed of them."""
