"""What `curry_self_conditioning` measures: how far W' moves with every token that is written behind a context."""
