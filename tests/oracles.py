"""Slow references in float64: plain Python loops over numbers, one line per line of a definition.

They are the specification that the probes are held to, so nothing here is vectorised.  Patterns and
tokens are nested lists (`tensor.tolist()`): pattern[batch][head][query][key], tokens[batch][pos].
"""

import math


def prefix_matching(pattern: list, tokens: list, shift: int = 1) -> list[float]:
    """Per head: mean over queries of the mass on every j <= i with t_{j-shift} = t_i."""

    def after_the_same_token(text, i):
        return [j for j in range(shift, i + 1) if text[j - shift] == text[i]]

    return _mean_mass(pattern, tokens, after_the_same_token)


def duplicate_token(pattern: list, tokens: list) -> list[float]:
    """Per head: mean over queries of the mass on every j < i with t_j = t_i."""

    def the_same_token(text, i):
        return [j for j in range(i) if text[j] == text[i]]

    return _mean_mass(pattern, tokens, the_same_token)


def previous_token(pattern: list) -> list[float]:
    """Per head: mean over queries i >= 1 of A[i, i-1]."""
    n = len(pattern[0][0])
    return [_mean([rows[head][i][i - 1] for rows in pattern for i in range(1, n)]) for head in range(len(pattern[0]))]


def entropy(row: list[float]) -> float:
    """-sum p ln p in nats, where 0 ln 0 = 0."""
    return -math.fsum(p * math.log(p) for p in row if p > 0)


def peak(row: list[float]) -> float:
    """The largest weight."""
    return max(row)


def sum_squares(row: list[float]) -> float:
    """sum p^2, the inverse of the number of keys in use."""
    return math.fsum(p * p for p in row)


def _mean_mass(pattern: list, tokens: list, keys_of) -> list[float]:
    """Queries without a key that counts are left out."""
    scores = []
    for head in range(len(pattern[0])):
        masses = []
        for text, heads in zip(tokens, pattern, strict=True):
            for i, row in enumerate(heads[head]):
                if keys := keys_of(text, i):
                    masses.append(math.fsum(row[j] for j in keys))
        scores.append(_mean(masses))
    return scores


def _mean(numbers: list[float]) -> float:
    return math.fsum(numbers) / len(numbers)
