"""What must be equal: `models` has the models and texts, `contexts` and `methods` read every quantity at a seed."""
