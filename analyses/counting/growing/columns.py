"""Names in the table of `counting_vs_length`."""

TRAINED, UNTRAINED, BFLOAT16 = "trained", "untrained", "bfloat16"
NONE, ROPE, LSTM = NETS = ("none", "rope", "lstm")
# Random nets that read a text and the same text twice: one that sees both ways, and what tells the two apart.
RATIO, WITH_BOS, CAUSAL, WITH_POSITIONS = RATIOS = ("both ways", "with BOS", "causal", "with positions")
EXACT = 1e-12  # relative to the largest logit: rounding of float64 sums over some hundred tokens
