"""What `curry_vs_method` measures: the methods in their settings, pairs one at a time, one context's rows."""
