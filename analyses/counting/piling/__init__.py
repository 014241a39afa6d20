"""Where answers pile up: nets that counted under two priors, and the Bayesian observer between them."""
