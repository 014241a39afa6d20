"""What `sharpness_vs_length` measures: a trained net on sets of items, and scores set by hand."""
