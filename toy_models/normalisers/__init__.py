"""Ways to turn attention scores into weights.  A normaliser is a frozen spec (`spec.Normaliser`) that is called
`(scores, visible) -> weights`, with what its heads have learned by name: `Attention` holds that as `per_head`.
Those that are a softmax of something (`spec.SoftmaxOf`) run fused as well.

A key is hidden where its score is -inf, and weighs 0; a row without a key is zeros.  The keys are counted
by `visible`, what the mask allows: a hook that hides one more key leaves the other weights' divisor as it was.
"""

import pkgutil

# One line per normaliser.
NAMES = {
    "softmax": "toy_models.normalisers.softmax:Softmax",
    "log_n": "toy_models.normalisers.log_n:LogN",
    "adaptive": "toy_models.normalisers.adaptive:Adaptive",
    "off_by_one": "toy_models.normalisers.off_by_one:OffByOne",
    "sink_logit": "toy_models.normalisers.sink_logit:SinkLogit",
    "sigmoid": "toy_models.normalisers.sigmoid:Sigmoid",
    "relu": "toy_models.normalisers.relu:Relu",
    "entmax15": "toy_models.normalisers.entmax15:Entmax15",
    "linear": "toy_models.normalisers.linear:Linear",
}


def find(name: str):
    """The spec class called `name`; ValueError lists the known ones."""
    if name not in NAMES:
        raise ValueError(f"unknown normaliser {name!r}: choose one of {', '.join(NAMES)}")
    return pkgutil.resolve_name(NAMES[name])
