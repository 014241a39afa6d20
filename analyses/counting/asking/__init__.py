"""What `assay` asks, whom, and how an answer is read."""
