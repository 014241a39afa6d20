"""What `squashing_vs_position` measures: models whose law is known, models at step 0, trained ones, checkpoints."""
