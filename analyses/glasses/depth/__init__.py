"""What `norm_vs_depth` measures: models at birth as a theorem draws them, and short trainings."""
