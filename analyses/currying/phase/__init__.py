"""What `curry_phase` measures of one model at one moment of its training."""
