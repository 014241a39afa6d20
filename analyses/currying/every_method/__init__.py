"""What `curry_vs_method` measures: the methods in their settings, one context's rows."""
