"""What a model costs, from its config alone: parameters, and multiplications and additions of a forward pass.

With L layers, h heads of width e on g key-value heads, d_model = d, d_mlp = m, V tokens in and O out:

    parameters   V d + T d + N + (d + 1) O + L (A + M)
    attention    A = N + 2 (h + g) d e + (h + 2 g) e + d + G h e (d + 1) + p h
    MLP          M = N + 2 d m + m + d, or 0 where m = 0

    T = n_ctx with learned positions, else 0;  G = 1 with gated attention, else 0;  p: numbers a head that the
    normaliser learns;  N: 2 d for LN, d for RMS, 0 without a norm

    operations   2 n (L (2 (h + g) d e + G h d e + 2 d m) + d O) + 4 L h e S,    S = sum_i min(i, window), i = 1 .. n

for a text of n tokens: matrix products alone, a multiplication and an addition each, and only of pairs of tokens that
see each other.  Rotations, norms and what turns scores into weights are left out: the sorting of entmax is not counted.
"""

from analyses.core.errors import WorkbenchError
from toy_models.config import TransformerConfig

LEFT_OUT = ("gated_mlp", "smeared_keys", "use_qk_norm", "use_normalization_before_and_after", "tie_word_embeddings")


def parameters(config: TransformerConfig) -> int:
    """How many numbers are learned.

    Raises:
        WorkbenchError: the config asks for a part that the formula leaves out.
    """
    _check(config)
    d, heads, kv, e, m = _widths(config)
    norm = d * {"LN": 2, "RMS": 1, None: 0}[config.normalization_type]
    attention = 2 * (heads + kv) * d * e + (heads + 2 * kv) * e + d
    attention += config.gated_attention * heads * e * (d + 1) + len(config.normaliser.per_head) * heads
    mlp = norm + 2 * d * m + m + d if m else 0
    positions = config.n_ctx * d if type(config.position).__name__ == "Learned" else 0
    ends = config.d_vocab * d + positions + norm + (d + 1) * config.d_vocab_out
    return ends + config.n_layers * (norm + attention + mlp)


def operations(config: TransformerConfig, tokens: int) -> int:
    """Multiplications and additions of one text of `tokens` tokens.

    Raises: as `parameters`.
    """
    _check(config)
    d, heads, kv, e, m = _widths(config)
    products = 2 * (heads + kv) * d * e + config.gated_attention * heads * d * e + 2 * d * m
    pairs = sum(_pairs(tokens, window) for window in config.windows)
    return 2 * tokens * (config.n_layers * products + d * config.d_vocab_out) + 4 * heads * e * pairs


def _pairs(tokens: int, window: int | None) -> int:
    return sum(min(i, window or i) for i in range(1, tokens + 1))


def _widths(config: TransformerConfig) -> tuple[int, int, int, int, int]:
    return config.d_model, config.n_heads, config.n_key_value_heads, config.d_head, config.d_mlp


def _check(config: TransformerConfig) -> None:
    asked = [name for name in LEFT_OUT if getattr(config, name)]
    if asked or config.norm_position != "pre" or not config.causal:
        what = f"{asked[0]}=True" if asked else f"norm_position={config.norm_position!r}, causal={config.causal}"
        raise WorkbenchError(f"the formula of what a model costs leaves out {what}: leave it out of the model too")
