"""What `curry_one_context` measures: models with their contexts, the methods' settings, one context's rows."""
