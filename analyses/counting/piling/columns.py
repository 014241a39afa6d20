"""Names in the table of `count_saturation`."""

FLAT, PEAKED = PRIORS = ("uniform", "Zipf and round numbers")
TRAINED, UNTRAINED = "trained", "untrained"
EVERY = 10  # round numbers are its positive multiples
# What is compared with the answers of the net that was trained under the peaked prior.
NOTHING, CONFUSION, LOGITS, OTHER_SEED = PREDICTIONS = (
    "no shrinkage",
    "prior x confusions",
    "prior x posterior",
    "another seed",
)
