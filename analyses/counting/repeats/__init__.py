"""A token said many times: the models that read it, what is measured, and what is claimed."""
