"""Which models `sharpness_vs_context` measures and on which texts: trained here, or a checkpoint of Hugging Face."""
