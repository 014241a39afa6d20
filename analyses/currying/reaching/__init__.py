"""What `uncurry` measures: steps of one kind of matrix, and the best context for each."""
